"""An index of the rows in a file of results, by stream and frame; the rows stay on disk."""

from __future__ import annotations

import json
import os
import re
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.details import Details, Keypoints, Masks, RotatedBoxes
from vision_infer.core.detections import Detections
from vision_infer.core.errors import UsageError
from vision_infer.core.geometry import Size

MAX_LINE_BYTES = 16_000_000
"""The maximum length of a row, bytes."""

_BEGIN = re.compile(rb'\{"stream": ("(?:[^"\\]|\\.)*"), "frame": (\d{1,18})[,}]')
"""The usual beginning of a row: with it, a row need not be parsed to be indexed."""

_ROWS = "Give files of 'vision-infer run --out FILE.jsonl'; an interrupted run leaves an incomplete last line."


class Labels:
    """Numbers for labels, which are the same for both files."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, label: str) -> int:
        """Return the number of a label; assign one if the label is new."""
        return self._numbers.setdefault(label, len(self._numbers))

    @property
    def names(self) -> tuple[str, ...]:
        """The labels by number."""
        return tuple(self._numbers)


@dataclass(frozen=True, slots=True)
class IndexedRow:
    """The part of a row that a comparison needs."""

    size: Size
    """The size of the source image, pixels."""
    detections: Detections
    """The detections, with class numbers of :class:`Labels`. The best class of an image is a detection of the whole image."""
    secondary: NDArray[np.int32] | None = None
    """The best class that a secondary model gives each detection, int32 [N], in the same numbers; -1: none."""


@dataclass(frozen=True, slots=True)
class StreamRows:
    """The rows of one stream, sorted by frame."""

    frames: NDArray[np.int64]
    """The frame numbers, int64 [N], each once."""
    offsets: NDArray[np.int64]
    """The start of each row in the file, int64 [N], bytes."""
    lengths: NDArray[np.int32]
    """The length of each row, int32 [N], bytes."""


class RowIndex:
    """An open file of results (JSON Lines), with 20 bytes of memory for each row. It is a context manager.

    Args:
        path: The file; rows of several streams may be mixed in any order.

    Raises:
        UsageError: The file cannot be read, or a line is not a row; the message names the line.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.streams: dict[str, StreamRows] = {}
        try:
            if os.path.exists(path) and not os.path.isfile(path):
                raise UsageError(f"{path}: not a file", "Give a .jsonl file, because it is read twice.")
            self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"{path}: cannot be read: {reason}", "Check its name and permissions.") from error
        try:
            self._find_rows()
        except BaseException:
            self._file.close()
            raise

    def row(self, stream: str, position: int, labels: Labels) -> IndexedRow:
        """Read a row.

        Args:
            position: The index into the stream's arrays.

        Raises:
            UsageError: The line is not a row of results.
        """
        rows = self.streams[stream]
        offset = int(rows.offsets[position])
        line = os.pread(self._file.fileno(), int(rows.lengths[position]), offset)
        try:
            return _row(json.loads(line.decode("utf-8")), labels)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise self._wrong(self._line_at(offset), error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> RowIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _find_rows(self) -> None:
        found: dict[str, tuple[array[int], array[int], array[int]]] = {}
        names: dict[bytes, str] = {}
        offset = 0
        for number, line in enumerate(iter(lambda: self._file.readline(MAX_LINE_BYTES), b""), start=1):
            if not line.isspace():
                try:
                    stream, frame = _key(line, names)
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    raise self._wrong(number, error) from error
                rows = found.get(stream)
                if rows is None:
                    rows = found[stream] = (array("q"), array("q"), array("i"))
                rows[0].append(frame)
                rows[1].append(offset)
                rows[2].append(len(line))
            offset += len(line)
        while found:  # stream by stream, so that only one is in memory twice
            stream = next(iter(found))
            self.streams[stream] = self._sorted(stream, *found.pop(stream))

    def _sorted(self, stream: str, frames: array[int], offsets: array[int], lengths: array[int]) -> StreamRows:
        numbers, begins = np.frombuffer(frames, np.int64), np.frombuffer(offsets, np.int64)
        sizes = np.frombuffer(lengths, np.int32)
        if not (numbers[1:] > numbers[:-1]).all():
            order = numbers.argsort(kind="stable")
            numbers, begins, sizes = numbers[order], begins[order], sizes[order]
            twice = np.flatnonzero(numbers[1:] == numbers[:-1])
            if len(twice):
                place = int(twice[0]) + 1
                line = self._line_at(int(begins[place]))
                text = f"{self.path}: line {line}: duplicate frame {numbers[place]} of {stream!r}"
                raise UsageError(text, "Give files of a single run each.")
        return StreamRows(numbers, begins, sizes)

    def _wrong(self, line: int, error: Exception) -> UsageError:
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError):
            return UsageError(f"{self.path}: line {line} is not JSON", _ROWS)
        reason = f"missing {error}" if isinstance(error, KeyError) else str(error)
        return UsageError(f"{self.path}: line {line} is not a row of results: {reason}", _ROWS)

    def _line_at(self, offset: int) -> int:
        self._file.seek(0)
        line, left = 1, offset
        while left > 0 and (block := self._file.read(min(left, 1 << 20))):
            line += block.count(b"\n")
            left -= len(block)
        return line


def _key(line: bytes, names: dict[bytes, str]) -> tuple[str, int]:
    begin = _BEGIN.match(line)
    if begin is not None:
        quoted, frame = begin.groups()
        name = names.get(quoted)
        if name is None:
            name = names[quoted] = json.loads(quoted.decode("utf-8"))
        return name, int(frame)
    if len(line) >= MAX_LINE_BYTES:
        raise ValueError(f"longer than {MAX_LINE_BYTES // 1_000_000} MB")
    row = json.loads(line.decode("utf-8"))
    if not isinstance(row, dict):
        raise TypeError("not a JSON object")
    stream, frame = row["stream"], row["frame"]
    if not isinstance(stream, str) or type(frame) is not int or not 0 <= frame < 10**18:
        raise ValueError("'stream' must be a name, and 'frame' a number from 0")
    return stream, frame


def _row(row: dict[str, Any], labels: Labels) -> IndexedRow:
    found, size = row["detections"], Size(row["width"], row["height"])
    if row.get("classes"):
        found = [*found, row["classes"][0] | {"box": [0, 0, size.width, size.height]}]
    kinds = [labels.number(str(item["label"])) for item in found]
    boxes = np.array([item["box"] for item in found], np.float32).reshape(-1, 4)
    scores = np.array([item["score"] for item in found], np.float32)
    if boxes.shape != (len(found), 4) or not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError("a box must be four finite numbers, and a score a finite number")
    secondary = [labels.number(str(item["classes"][0]["label"])) if item.get("classes") else -1 for item in found]
    detections = Detections(boxes, scores, np.array(kinds, np.int32), details=_details(found))
    return IndexedRow(size, detections, np.array(secondary, np.int32))


def _details(found: list[dict[str, Any]]) -> Details | None:
    """Return the details of detections if all of them have the same kind.

    Raises:
        ValueError: They are not valid.
    """
    if found and all("mask" in item for item in found):
        return Masks.from_rows([item["mask"] for item in found])
    if found and all("keypoints" in item for item in found):
        return Keypoints(_finite([item["keypoints"] for item in found]))
    if found and all("box_rotated" in item for item in found):
        return RotatedBoxes(_finite([item["box_rotated"] for item in found]))
    return None


def _finite(values: list[Any]) -> NDArray[np.float32]:
    numbers = np.array(values, np.float32)
    if not np.isfinite(numbers).all():
        raise ValueError("keypoints and rotated boxes must be finite numbers")
    return numbers
