"""A sink that collects images and rows in a folder. At the end, the writer of a format adds the labels."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from vision_infer.core.card import KeypointLayout
from vision_infer.core.details import Keypoints
from vision_infer.core.detections import Detections
from vision_infer.core.errors import OutputError
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.sink.datasets.dataset import Dataset
from vision_infer.sink.datasets.sample import Difference, sampler_of
from vision_infer.sink.files.crops import safe_name
from vision_infer.sink.files.images import write_jpeg
from vision_infer.sink.files.output_file import check_new_folder, output_error, partial_path
from vision_infer.sink.sink import OutputSpec, SinkStream, Written
from vision_infer.sink.space import SpaceReserve

_ROWS = ".rows.jsonl"
_LABELS_OF_IMAGE = 8 * 1024
"""The space reserved for the label files of an image, besides three times its row, bytes."""


class _Writer(Protocol):
    """The module of a format."""

    IMAGES: str
    """The folder of the images in that of the dataset."""

    def write(self, dataset: Dataset) -> None:
        """Write the files of labels."""


def open_sink(spec: OutputSpec, stream: SinkStream) -> DatasetSink:
    """Open the sink of a run."""
    return DatasetSink(spec, stream.difference)


class DatasetSink:
    """A dataset of all streams, in a folder that has a temporary name until it is complete.

    Each inferred frame is a JPEG, ``STREAM_000020.jpg`` for frame 20, or ``STREAM_NAME.jpg`` for an image of a folder. Frames
    that the motion gate has skipped are left out.

    Args:
        spec: The output; the name of its kind after ``dataset-`` is that of the module that writes the labels.
        difference: For the samples ``disagree``, compares a result with that of another model.
    """

    needs_images = True

    def __init__(self, spec: OutputSpec, difference: Difference | None = None) -> None:
        # Guards everything: each stream writes on its own thread. Only without sampling, an image is encoded without it.
        self._lock = threading.Lock()
        name = spec.kind.removeprefix("dataset-").replace("-", "_")
        self._writer = cast(_Writer, import_module(f"vision_infer.sink.datasets.{name}"))
        self._path = Path(spec.path)
        check_new_folder(self._path)
        self._partial = partial_path(self._path)
        self._images = self._partial / self._writer.IMAGES
        self._sampler = None if spec.sample is None else sampler_of(spec.sample, spec.samples, difference)
        self._taken: set[str] = set()
        """The names of images that are being written, and of samples that better ones have replaced."""
        self._names: dict[int, str] = {}
        self._layout: KeypointLayout | None = None
        self._rows = self._reserved = 0
        self._closed = False
        self.outputs: Sequence[Written] = ()
        try:
            if self._partial.exists():  # a killed run left it
                shutil.rmtree(self._partial)
            self._images.mkdir(parents=True)
            self._file = (self._partial / _ROWS).open("w", encoding="utf-8")
            self._reserve = SpaceReserve(self._partial, 64 * 1024)
        except OSError as error:
            raise output_error(self._path, error) from error

    def write(self, frame: Frame, result: Result | None) -> None:
        """Add an image, unless the samples are better without it."""
        if result is None or result.gated:
            return
        with self._lock:
            name = self._name_of(frame)
            if self._sampler is not None:
                replaced = self._sampler.offer(name, result, frame.image)
                if replaced is None:
                    return
                for other in replaced:
                    (self._images / other).unlink(missing_ok=True)
                self._taken.update(replaced)  # each has a row already
                self._add(name, result)
                write_jpeg(self._images / name, frame.image.to_rgb(), False)
                return
            self._taken.add(name)
            self._add(name, result)
        write_jpeg(self._images / name, frame.image.to_rgb(), False)
        with self._lock:
            self._taken.discard(name)

    def _name_of(self, frame: Frame) -> str:
        """Return a name that no other image has or had. The caller holds the lock."""
        number = f"_{frame.index:06d}"
        name = safe_name(frame.stream) + (number if frame.file is None else f"_{safe_name(Path(frame.file).stem)}")
        while f"{name}.jpg" in self._taken or (self._images / f"{name}.jpg").exists():  # a.png next to a.jpg
            name += number
        return f"{name}.jpg"

    def _add(self, name: str, result: Result) -> None:
        """Add a row, before its image: without the image, it is left out."""
        self._note_names(result.detections)
        row = f'{{"image": "{name}", {result.to_json()[1:]}\n'
        try:
            self._reserved += 3 * len(row) + _LABELS_OF_IMAGE
            self._reserve.grow_to(self._reserved)
            self._file.write(row)
        except OSError as error:
            raise output_error(self._path, error) from error
        self._rows += 1

    def _note_names(self, found: Detections) -> None:
        if isinstance(found.details, Keypoints):
            count = found.details.points.shape[1]
            self._layout = found.details.layout or KeypointLayout(names=tuple(str(number) for number in range(count)))
        if not self._names and found.label_names is not None:
            self._names = dict(enumerate(found.label_names))
        for class_id in found.class_ids.tolist():
            self._names.setdefault(class_id, found.label_of(class_id))

    def close(self, complete: bool) -> None:
        """Write the labels, and give the folder its name; a failed run without images leaves none."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._reserve.release()
            try:
                self._file.close()
                if complete or self._rows:
                    self._finish()
                else:
                    shutil.rmtree(self._partial)
            except OSError as error:
                raise output_error(self._path, error) from error

    def _finish(self) -> None:
        names = tuple(self._names.get(number, str(number)) for number in range(max(self._names, default=-1) + 1))
        rows = self._partial / _ROWS
        dataset = Dataset(self._partial, self._images, rows, names, self._layout)
        self._writer.write(dataset)
        rows.unlink()
        try:
            os.replace(self._partial, self._path)
        except OSError as error:
            hint = f"The data is in {self._partial}."
            raise OutputError(f"{self._path}: cannot get its final name: {error.strerror or error}", hint) from error
        count = sum(1 for _ in (self._path / self._writer.IMAGES).iterdir())
        self.outputs = [Written(str(self._path), f"{count} image{'s' * (count != 1)}")]
