"""Rows of results in a file, found by their stream and frame without being held in memory."""

from __future__ import annotations

import json
import os
import re
from array import array
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.detections import Detections
from vision_infer.core.errors import UsageError
from vision_infer.core.geometry import Size

LONGEST_LINE = 16_000_000
"""bytes; a row with more is none of ours"""

_BEGIN = re.compile(rb'\{"stream": ("(?:[^"\\]|\\.)*"), "frame": (\d{1,18})[,}]')
"""how our rows begin: most need not be parsed to be found"""


class Labels:
    """Numbers for labels, the same for every file that is compared."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, label: str) -> int:
        """The number of a label; a new one where it is new."""
        return self._numbers.setdefault(label, len(self._numbers))

    @property
    def names(self) -> tuple[str, ...]:
        """Labels by number."""
        return tuple(self._numbers)


@dataclass(frozen=True, slots=True)
class Row:
    """What a comparison needs of a row."""

    size: Size
    """of the source picture, pixels"""
    detections: Detections
    """class numbers are those of :class:`Labels`; the best class of a whole picture is one whose box is the picture"""
    told: NDArray[np.int32] | None = None
    """int32 [N], the best class that a second network tells of each detection, in the same numbers; -1: none"""


@dataclass(frozen=True, slots=True)
class StreamRows:
    """The rows of one stream, sorted by frame."""

    frames: NDArray[np.int64]
    """int64 [N], each once"""
    offsets: NDArray[np.int64]
    """int64 [N], where the row begins, bytes"""
    lengths: NDArray[np.int32]
    """int32 [N], bytes"""


class RowIndex:
    """A file of results (JSON Lines), open: 20 bytes of memory for each row. It is a context manager.

    Args:
        path: the file; rows of several streams may be mixed in any order.

    Raises:
        UsageError: it cannot be read, or a line is no row; names the line.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.streams: dict[str, StreamRows] = {}
        try:
            if os.path.exists(path) and not os.path.isfile(path):
                raise UsageError(f"{path}: is no file", "give a .jsonl file: it is read twice")
            self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"{path}: cannot be read: {reason}", "check its name and its permissions") from error
        try:
            self._find_rows()
        except BaseException:
            self._file.close()
            raise

    def row(self, stream: str, position: int, labels: Labels) -> Row:
        """Read a row.

        Args:
            stream: a name in ``streams``.
            position: index into the stream's arrays.

        Raises:
            UsageError: it is no row of results.
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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _find_rows(self) -> None:
        found: dict[str, tuple[array[int], array[int], array[int]]] = {}
        names: dict[bytes, str] = {}
        offset = 0
        for number, line in enumerate(iter(lambda: self._file.readline(LONGEST_LINE), b""), start=1):
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
        while found:  # one after the other, so that only one is in memory twice
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
                text = f"{self.path}:{line}: frame {numbers[place]} of {stream!r} is there already"
                raise UsageError(text, "compare one run with one other")
        return StreamRows(numbers, begins, sizes)

    def _wrong(self, line: int, error: Exception) -> UsageError:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        hint = "give files of 'vision-infer run --out FILE.jsonl'; what was cut off there ends in a broken line"
        return UsageError(f"{self.path}:{line}: is no row of results: {reason}", hint)

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
    if len(line) >= LONGEST_LINE:
        raise ValueError(f"it is longer than {LONGEST_LINE // 1_000_000} MB")
    row = json.loads(line.decode("utf-8"))
    if not isinstance(row, dict):
        raise TypeError("it is no JSON object")
    stream, frame = row["stream"], row["frame"]
    if not isinstance(stream, str) or type(frame) is not int or not 0 <= frame < 10**18:
        raise ValueError("'stream' must be a name, 'frame' a number from 0")
    return stream, frame


def _row(row: dict[str, Any], labels: Labels) -> Row:
    found, size = row["detections"], Size(row["width"], row["height"])
    if row.get("classes"):
        found = [*found, row["classes"][0] | {"box": [0, 0, size.width, size.height]}]
    kinds = [labels.number(str(one["label"])) for one in found]
    boxes = np.array([one["box"] for one in found], np.float32).reshape(-1, 4)
    scores = np.array([one["score"] for one in found], np.float32)
    if boxes.shape != (len(found), 4) or not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError("a box must be four finite numbers, a score one")
    told = [labels.number(str(one["classes"][0]["label"])) if one.get("classes") else -1 for one in found]
    return Row(size, Detections(boxes, scores, np.array(kinds, np.int32)), np.array(told, np.int32))
