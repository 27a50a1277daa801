"""The differences between the results of two runs."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.compare.detections import ClassAccount, FrameDifference, account, compare
from vision_infer.compare.row_index import IndexedRow, Labels, RowIndex, StreamRows
from vision_infer.core.errors import UsageError

_AT_ONCE = 4096
"""The number of array elements that are converted to Python numbers at once."""


@dataclass(frozen=True, slots=True)
class DiffSettings:
    """The tolerances of a comparison."""

    iou: float = 0.5
    """The minimum IoU of two detections of the same object, and the minimum similarity of their details."""
    score_tolerance: float = 0.05
    """The maximum difference of their scores."""
    top: int = 6
    """The number of most different frames to report."""

    def __post_init__(self) -> None:
        if not 0 < self.iou <= 1:
            raise UsageError(f"--iou {self.iou:g}: must be above 0 and up to 1")
        if not 0 <= self.score_tolerance <= 1:
            raise UsageError(f"--score-tolerance {self.score_tolerance:g}: must be between 0 and 1")
        if self.top < 0:
            raise UsageError(f"--top {self.top}: must be at least 0")


@dataclass(frozen=True, slots=True)
class FrameReport:
    """A frame that differs, with the data to draw it."""

    stream: str
    frame: int
    a: IndexedRow
    b: IndexedRow
    difference: FrameDifference
    secondary_changed: int = 0
    """The number of pairs to which the secondary models give different classes."""
    details_changed: int = 0
    """The number of pairs with different masks, keypoints or rotated boxes."""

    @property
    def size(self) -> tuple[int, float]:
        """The size of the difference, for sorting."""
        apart, inside = self.difference.size
        return apart + self.secondary_changed + self.details_changed, inside

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        changes = np.abs(self.difference.score_changes)
        return {
            "stream": self.stream,
            "frame": self.frame,
            "matched": len(self.difference.pairs),
            "only_a": len(self.difference.only_a),
            "only_b": len(self.difference.only_b),
            "max_score_difference": round(float(changes.max(initial=0)), 4),
            "secondary_changed": self.secondary_changed,
            "details_changed": self.details_changed,
        }


@dataclass(slots=True)
class StreamCount:
    """The counts of one stream's frames."""

    both: int = 0
    only_a: int = 0
    only_b: int = 0
    different: int = 0
    """The number of frames of both whose detections differ by more than the tolerance."""


@dataclass(slots=True)
class DiffReport:
    """The differences. Detections are compared in frames that both files have; frames of only one file are counted."""

    a: str
    b: str
    settings: DiffSettings
    labels: Labels = field(default_factory=Labels)
    streams: dict[str, StreamCount] = field(default_factory=dict)
    classes: dict[int, ClassAccount] = field(default_factory=dict)
    resized: int = 0
    """The number of frames whose images have different sizes: their boxes cannot be compared."""
    secondary_changed: int = 0
    """The number of pairs to which the secondary models give different classes; 0 if only one run had such a model."""
    details_changed: int = 0
    """The number of pairs whose masks, keypoints or rotated boxes have a similarity below ``settings.iou``."""
    most_different: list[FrameReport] = field(default_factory=list)
    """The most different frames, the largest difference first."""

    @property
    def frames(self) -> StreamCount:
        """The counts of all streams together."""
        counts = [astuple(count) for count in self.streams.values()]
        return StreamCount(*map(sum, zip(*counts, strict=True)))

    @property
    def same(self) -> bool:
        """Whether nothing differs by more than the tolerance."""
        frames = self.frames
        return not (frames.only_a or frames.only_b or frames.different)

    def by_label(self) -> list[tuple[str, ClassAccount]]:
        """Return the counts of each class, those with the most differences first."""
        names = self.labels.names
        entries = [(names[number], entry) for number, entry in self.classes.items()]
        return sorted(
            entries, key=lambda item: (-item[1].only_a - item[1].only_b, -item[1].score_changed, -item[1].matched, item[0])
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "same": self.same,
            "a": self.a,
            "b": self.b,
            "iou": self.settings.iou,
            "score_tolerance": self.settings.score_tolerance,
            "frames": asdict(self.frames),
            "resized": self.resized,
            "secondary_changed": self.secondary_changed,
            "details_changed": self.details_changed,
            "streams": {name: asdict(count) for name, count in self.streams.items()},
            "classes": {label: class_figures(entry) for label, entry in self.by_label()},
            "most_different": [frame.to_dict() for frame in self.most_different],
        }


def class_figures(entry: ClassAccount) -> dict[str, Any]:
    """Return the figures of a class; a mean is None without pairs."""
    count = entry.matched
    return {
        "matched": count,
        "only_a": entry.only_a,
        "only_b": entry.only_b,
        "score_changed": entry.score_changed,
        "mean_iou": round(entry.iou_sum / count, 4) if count else None,
        "mean_score_change": round(entry.change_sum / count, 4) if count else None,
        "mean_score_difference": round(entry.difference_sum / count, 4) if count else None,
        "max_score_difference": round(entry.difference_max, 4) if count else None,
        "mean_details": round(entry.similarity_sum / entry.detailed, 4) if entry.detailed else None,
    }


def diff(path_a: str, path_b: str, settings: DiffSettings) -> DiffReport:
    """Compare two .jsonl files of results.

    For classifiers, the best class of the whole image and of each detection is compared. Embeddings are not compared.

    Both files are read twice: once to index their rows, with 20 bytes of memory for each, and once stream by stream, so that
    the rows of several streams can be in any order.

    Raises:
        UsageError: A file cannot be read, or a line is not a row of results; the message names the line.
    """
    report = DiffReport(path_a, path_b, settings)
    worst: list[tuple[int, float, int, FrameReport]] = []
    earlier = itertools.count(0, -1)  # of equal differences the earlier frame is kept, and reports are never compared
    with RowIndex(path_a) as a, RowIndex(path_b) as b:
        for stream in dict.fromkeys((*a.streams, *b.streams)):
            for frame in _differences(report, a, b, stream):
                heapq.heappush(worst, (*frame.size, next(earlier), frame))
                if len(worst) > settings.top:
                    heapq.heappop(worst)
    report.most_different = [entry[-1] for entry in sorted(worst, key=lambda entry: entry[:3], reverse=True)]
    return report


def _differences(report: DiffReport, a: RowIndex, b: RowIndex, stream: str) -> Iterator[FrameReport]:
    """Count the frames of a stream; yield those that differ at all."""
    rows_a, rows_b = a.streams.get(stream, _NO_ROWS), b.streams.get(stream, _NO_ROWS)
    count = report.streams[stream] = StreamCount()
    _, in_a, in_b = np.intersect1d(rows_a.frames, rows_b.frames, assume_unique=True, return_indices=True)
    count.only_a = _check_rows(a, stream, np.setdiff1d(np.arange(len(rows_a.frames)), in_a, assume_unique=True))
    count.only_b = _check_rows(b, stream, np.setdiff1d(np.arange(len(rows_b.frames)), in_b, assume_unique=True))
    settings = report.settings
    for place_a, place_b in zip(_numbers(in_a), _numbers(in_b), strict=True):
        row_a, row_b = a.row(stream, place_a, report.labels), b.row(stream, place_b, report.labels)
        difference = compare(row_a.detections, row_b.detections, settings.iou)
        account(report.classes, row_a.detections, row_b.detections, difference, settings.score_tolerance)
        resized = row_a.size != row_b.size
        report.resized += resized
        count.both += 1
        changed = _secondary_changed(row_a, row_b, difference)
        details = difference.details_changed(settings.iou)
        frame = FrameReport(stream, int(rows_a.frames[place_a]), row_a, row_b, difference, changed, details)
        report.secondary_changed += changed
        report.details_changed += details
        count.different += resized or frame.size[0] > 0 or bool(difference.changed(settings.score_tolerance).any())
        if frame.size > (0, 0.0):
            yield frame


def _secondary_changed(a: IndexedRow, b: IndexedRow, difference: FrameDifference) -> int:
    """Return the number of pairs to which the secondary models give different classes."""
    if a.secondary is None or b.secondary is None:
        return 0
    of_a, of_b = a.secondary[difference.pairs[:, 0]], b.secondary[difference.pairs[:, 1]]
    return int(((of_a != of_b) & (of_a >= 0) & (of_b >= 0)).sum())


_NO_ROWS = StreamRows(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32))


def _check_rows(index: RowIndex, stream: str, places: NDArray[np.intp]) -> int:
    """Read the rows of frames that only one file has, so that every invalid line is found; return their number."""
    labels = Labels()  # labels of rows that are not compared are not part of the report
    for place in _numbers(places):
        index.row(stream, place, labels)
    return len(places)


def _numbers(places: NDArray[np.intp]) -> Iterator[int]:
    for start in range(0, len(places), _AT_ONCE):
        yield from places[start : start + _AT_ONCE].tolist()
