"""COCO results: one file of images, annotations and categories."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vision_infer.core.card import KeypointLayout
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.details import Keypoints
from vision_infer.core.detections import Detections
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.sink.files.row_file import RowFile
from vision_infer.sink.sink import OutputSpec, SinkStream, Written

_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_COCO_IDS = tuple(number for number in range(1, 91) if number not in _UNUSED)
"""COCO's numbers for its 80 categories, in their order."""

_END_RESERVE = 64 * 1024
"""The space reserved for the categories at the end of the file, and the step in which that for the images grows, bytes."""
_EMPTY, _FOUND = b"-", b"+"
"""The first byte of a stored image: whether it has annotations."""


def open_sink(spec: OutputSpec, stream: SinkStream) -> CocoSink:  # noqa: ARG001
    """Open the sink of a run."""
    return CocoSink(spec)


class CocoSink:
    """A COCO file: ``annotations`` with a ``score``, which are written during the run; then ``images`` and ``categories``.

    The images are kept compressed until the end, about ten bytes for each. If the name of every image is a whole number, that is
    its ``id``; otherwise they are counted from 1. A model with COCO's 80 labels has COCO's category numbers, any other the class
    number plus 1. ``file_name`` is that of the image, or ``STREAM/000020.jpg`` for frame 20 of a video. Masks are in
    ``segmentation`` as run lengths, rotated boxes as polygons, keypoints in ``keypoints``, and their names in the categories.
    """

    needs_images = False

    def __init__(self, spec: OutputSpec, clock: Clock = SYSTEM_CLOCK) -> None:
        # Guards everything: streams may share the sink, and the thread that writes holds it.
        self._lock = threading.Lock()
        self._numbered = spec.numbered
        self._file_names = spec.file_names
        self._images = _Images()
        self._annotations = 0
        self._names: dict[int, str] = {}  # of classes
        self._layout: KeypointLayout | None = None
        self._closed = False
        self._file = RowFile(spec, b'{"annotations": [', b"\n]}\n", clock, reserve=_END_RESERVE)

    @property
    def outputs(self) -> Sequence[Written]:
        """The file, once it is finished."""
        return [Written(str(self._file.output.path))] if self._file.in_place else []

    def write(self, frame: Frame, result: Result | None) -> None:  # noqa: ARG002
        """Add the image and its detections."""
        if result is None:
            return
        with self._lock:
            number = self._images.count + 1
            if self._numbered:
                number = int(Path(result.file or result.stream).stem)
            found = result.detections
            image = _image(result, number, self._file_names)
            self._file.reserve((self._images.size + len(image)) // _END_RESERVE * _END_RESERVE + 2 * _END_RESERVE)
            self._images.add(image, bool(len(found)))
            self._note_names(found)
            if len(found):
                text = f"{',' if self._file.rows else ''}\n{_annotations(found, number, self._annotations)}"
                self._annotations += len(found)
                self._file.write(text.encode())

    def close(self, complete: bool) -> None:
        """Finish the file."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._file.finish(complete or self._images.count > 0, self._end())

    def _end(self) -> Iterator[bytes]:
        yield b'\n], "images": ['
        yield from self._images.listed(self._file.rows)  # the rows are known once all are written
        points: dict[str, object] = {}
        if self._layout is not None:  # COCO counts keypoints from 1
            skeleton = [[start + 1, end + 1] for start, end in self._layout.skeleton]
            points = {"keypoints": self._layout.names, "skeleton": skeleton}
        categories = [json.dumps({"id": number, "name": self._names[number]} | points) for number in sorted(self._names)]
        yield ('\n], "categories": [\n' + ",\n".join(categories) + "\n]}\n").encode()

    def _note_names(self, found: Detections) -> None:
        if isinstance(found.details, Keypoints):
            self._layout = found.details.layout
        if not self._names and found.label_names is not None:
            for class_id in range(len(found.label_names)):
                self._names[category_id(class_id, found.label_names)] = found.label_of(class_id)
        for class_id in found.class_ids.tolist():
            self._names.setdefault(category_id(class_id, found.label_names), found.label_of(class_id))


class _Images:
    """The images of a file, as compressed text."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj()
        self._parts: list[bytes] = []
        self.count = 0
        self.size = 0
        """The size of their text, bytes."""

    def add(self, image: bytes, found: bool) -> None:
        """Add an image; ``found``: it has annotations."""
        self._parts.append(self._compressor.compress((_FOUND if found else _EMPTY) + image + b"\n"))
        self.count += 1
        self.size += len(image) + 3

    def listed(self, with_annotations: int) -> Iterator[bytes]:
        """Yield the items of a JSON list: all images up to the last one whose annotations are in the file."""
        decompressor = zlib.decompressobj()
        line, separator = b"", b"\n"
        for part in (*self._parts, self._compressor.flush()):
            *lines, line = (line + decompressor.decompress(part)).split(b"\n")
            for image in lines:
                with_annotations -= image.startswith(_FOUND)
                if with_annotations < 0:
                    return
                yield separator + image[1:]
                separator = b",\n"


def category_id(class_id: int, names: tuple[str, ...] | None) -> int:
    """Return the category number of a class."""
    if names is not None and len(names) == len(_COCO_IDS) and (names[0], names[-1]) == ("person", "toothbrush"):
        return _COCO_IDS[class_id] if class_id < len(_COCO_IDS) else class_id + 1
    return class_id + 1


def whole_number(name: str) -> int | None:
    """Return the number in the name of an image, such as ``000000000139.jpg``; None if it is not a number."""
    stem = Path(name).stem
    return int(stem) if stem.isascii() and stem.isdigit() and len(stem) <= 18 else None


def _image(result: Result, number: int, file_names: Mapping[str, str]) -> bytes:
    name = result.file or file_names.get(result.stream) or f"{result.stream}/{result.frame:06d}.jpg"
    row = {"id": number, "file_name": name, "width": result.size.width, "height": result.size.height}
    pts = None if result.pts_s is None else round(result.pts_s, 6)
    return json.dumps(row | {"stream": result.stream, "frame": result.frame, "pts_s": pts}).encode()


def _annotations(found: Detections, number: int, before: int) -> str:
    columns = (found.boxes.tolist(), found.scores.tolist(), found.class_ids.tolist())
    rows = []
    for index, ((x1, y1, x2, y2), score, class_id) in enumerate(zip(*columns, strict=True)):
        area, details = (x2 - x1) * (y2 - y1), ""
        if found.details is not None:
            fields = found.details.coco(index)
            area = fields.pop("area", area)
            details = f", {json.dumps(fields)[1:-1]}"
        rows.append(
            '{"id": %d, "image_id": %d, "category_id": %d, "bbox": [%.2f, %.2f, %.2f, %.2f], "area": %.2f, '
            '"iscrowd": 0, "score": %.5f%s}'
            % (
                before + 1 + index,
                number,
                category_id(class_id, found.label_names),
                x1,
                y1,
                x2 - x1,
                y2 - y1,
                area,
                score,
                details,
            )
        )
    return ",\n".join(rows)
