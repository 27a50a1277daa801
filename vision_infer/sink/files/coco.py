"""COCO results: the list of detections that ``pycocotools`` loads, and the numbers of the images."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.detections import Detections
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.sink.files.row_file import RowFile
from vision_infer.sink.sink import OutputSpec, SinkStream, Written

_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_COCO_IDS = tuple(number for number in range(1, 91) if number not in _UNUSED)
"""COCO's numbers for its 80 categories, in their order."""

_NAMES_RESERVE = 64 * 1024
"""The space reserved for the categories at the end of the file of images, bytes."""


def open_sink(spec: OutputSpec, stream: SinkStream) -> CocoSink:  # noqa: ARG001
    """Open the sink of a run."""
    return CocoSink(spec)


class CocoSink:
    """A JSON list of ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``, written as it grows.

    ``NAME.images.json`` next to it is a COCO file of the images without annotations: their numbers, streams, frames, sizes, and
    the categories. If the name of every image is a whole number, that is its ``image_id``; otherwise they are counted from 1.
    A model with COCO's 80 labels has COCO's category numbers, any other the class number plus 1.
    """

    needs_images = False

    def __init__(self, spec: OutputSpec, clock: Clock = SYSTEM_CLOCK) -> None:
        # Guards both files: streams may share the sink, and the thread that writes holds it.
        self._lock = threading.Lock()
        self._numbered = spec.numbered
        self._images = 0
        self._names: dict[int, str] = {}  # of classes
        self._closed = False
        self._results = RowFile(spec, b"[", b"\n]\n", clock)
        try:
            second = replace(spec, path=images_path(spec.path))
            self._image_list = RowFile(second, b'{"images": [', b"\n]}\n", clock, reserve=_NAMES_RESERVE)
        except BaseException:
            self._results.discard()
            raise
        self._results.before_flush = self._image_list.flush  # every result in the file has its image

    @property
    def outputs(self) -> Sequence[Written]:
        """The two files, once they are finished."""
        return [Written(str(file.output.path)) for file in (self._results, self._image_list) if file.in_place]

    def write(self, frame: Frame, result: Result | None) -> None:  # noqa: ARG002
        """Add the image and its detections."""
        if result is None:
            return
        with self._lock:
            number = self._images + 1
            if self._numbered:
                number = int(Path(result.file or result.stream).stem)
            self._image_list.write(_separated(self._image_list, _image(result, number)))
            self._images += 1
            self._note_names(result.detections)
            if len(result.detections):
                self._results.write(_separated(self._results, _detections(result.detections, number)))

    def close(self, complete: bool) -> None:
        """Finish both files."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            categories = [json.dumps({"id": number, "name": self._names[number]}) for number in sorted(self._names)]
            tail = '\n], "annotations": [], "categories": [\n' + ",\n".join(categories) + "\n]}\n"
            with ExitStack() as stack:  # the second even if the first fails
                stack.callback(self._image_list.finish, complete, tail.encode())
                self._results.finish(complete or self._image_list.rows > 0)

    def _note_names(self, found: Detections) -> None:
        if not self._names and found.label_names is not None:
            for class_id in range(len(found.label_names)):
                self._names[category_id(class_id, found.label_names)] = found.label_of(class_id)
        for class_id in found.class_ids.tolist():
            self._names.setdefault(category_id(class_id, found.label_names), found.label_of(class_id))


def images_path(path: str) -> str:
    """Return the path of the file of images: ``found.json`` → ``found.images.json``."""
    return str(Path(path).with_suffix(".images.json"))


def category_id(class_id: int, names: tuple[str, ...] | None) -> int:
    """Return the category number of a class."""
    if names is not None and len(names) == len(_COCO_IDS) and (names[0], names[-1]) == ("person", "toothbrush"):
        return _COCO_IDS[class_id] if class_id < len(_COCO_IDS) else class_id + 1
    return class_id + 1


def whole_number(name: str) -> int | None:
    """Return the number in the name of an image, such as ``000000000139.jpg``; None if it is not a number."""
    stem = Path(name).stem
    return int(stem) if stem.isascii() and stem.isdigit() and len(stem) <= 18 else None


def _separated(file: RowFile, row: str) -> bytes:
    return f"{',' if file.rows else ''}\n{row}".encode()


def _image(result: Result, number: int) -> str:
    name = result.file or (result.stream if result.pts_s is None else f"{result.stream}/{result.frame:06d}")
    row = {"id": number, "file_name": name, "width": result.size.width, "height": result.size.height}
    pts = None if result.pts_s is None else round(result.pts_s, 6)
    return json.dumps(row | {"stream": result.stream, "frame": result.frame, "pts_s": pts})


def _detections(found: Detections, number: int) -> str:
    columns = (found.boxes.tolist(), found.scores.tolist(), found.class_ids.tolist())
    return ",\n".join(
        '{"image_id": %d, "category_id": %d, "bbox": [%.2f, %.2f, %.2f, %.2f], "score": %.5f}'
        % (number, category_id(class_id, found.label_names), x1, y1, x2 - x1, y2 - y1, score)
        for (x1, y1, x2, y2), score, class_id in zip(*columns, strict=True)
    )
