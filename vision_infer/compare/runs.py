"""What differs between the results of two runs."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.compare.detections import ClassAccount, FrameDifference, account, compare
from vision_infer.compare.row_index import Labels, Row, RowIndex, StreamRows
from vision_infer.core.errors import UsageError

_AT_ONCE = 4096
"""frames whose places are turned into Python's own numbers together"""


@dataclass(frozen=True, slots=True)
class DiffSettings:
    """When two results are the same."""

    iou: float = 0.5
    """least overlap of two detections that are one object"""
    score_tolerance: float = 0.05
    """by how much their scores may differ"""
    top: int = 6
    """how many of the frames that differ most are told"""

    def __post_init__(self) -> None:
        if not 0 < self.iou <= 1:
            raise UsageError(f"--iou {self.iou:g}: must be above 0 and up to 1")
        if not 0 <= self.score_tolerance <= 1:
            raise UsageError(f"--score-tolerance {self.score_tolerance:g}: must be within 0 and 1")
        if self.top < 0:
            raise UsageError(f"--top {self.top}: must be at least 0")


@dataclass(frozen=True, slots=True)
class FrameReport:
    """A frame that differs, with all that is needed to draw it."""

    stream: str
    frame: int
    a: Row
    b: Row
    difference: FrameDifference
    retold: int = 0
    """pairs of which the second networks tell another class"""

    @property
    def size(self) -> tuple[int, float]:
        """How large the difference is, for sorting."""
        apart, inside = self.difference.size
        return apart + self.retold, inside

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        changes = np.abs(self.difference.score_changes)
        return {
            "stream": self.stream,
            "frame": self.frame,
            "matched": len(self.difference.pairs),
            "only_a": len(self.difference.only_a),
            "only_b": len(self.difference.only_b),
            "max_score_difference": round(float(changes.max(initial=0)), 4),
            "retold": self.retold,
        }


@dataclass(slots=True)
class StreamCount:
    """The frames of one stream."""

    both: int = 0
    only_a: int = 0
    only_b: int = 0
    different: int = 0
    """frames of both whose detections differ by more than is tolerated"""


@dataclass(slots=True)
class DiffReport:
    """What differs. Detections are compared in frames that both files have; frames of one file only are counted."""

    a: str
    b: str
    settings: DiffSettings
    labels: Labels = field(default_factory=Labels)
    streams: dict[str, StreamCount] = field(default_factory=dict)
    classes: dict[int, ClassAccount] = field(default_factory=dict)
    resized: int = 0
    """frames of both whose pictures have another size: their boxes cannot be compared"""
    retold: int = 0
    """detections of both of which the second networks tell another class; where only one run had such a network, none"""
    most_different: list[FrameReport] = field(default_factory=list)
    """the frames that differ most, the worst first"""

    @property
    def frames(self) -> StreamCount:
        """All streams together."""
        counts = self.streams.values()
        return StreamCount(
            sum(one.both for one in counts),
            sum(one.only_a for one in counts),
            sum(one.only_b for one in counts),
            sum(one.different for one in counts),
        )

    @property
    def same(self) -> bool:
        """Whether nothing differs by more than is tolerated."""
        frames = self.frames
        return not (frames.only_a or frames.only_b or frames.different)

    def by_label(self) -> list[tuple[str, ClassAccount]]:
        """The account of each class: those that differ in most detections first."""
        names = self.labels.names
        entries = [(names[number], entry) for number, entry in self.classes.items()]
        return sorted(entries, key=lambda one: (-one[1].only_a - one[1].only_b, -one[1].score_changed, -one[1].matched, one[0]))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "same": self.same,
            "a": self.a,
            "b": self.b,
            "iou": self.settings.iou,
            "score_tolerance": self.settings.score_tolerance,
            "frames": _plain(self.frames),
            "resized": self.resized,
            "retold": self.retold,
            "streams": {name: _plain(count) for name, count in self.streams.items()},
            "classes": {label: class_figures(entry) for label, entry in self.by_label()},
            "most_different": [frame.to_dict() for frame in self.most_different],
        }


def class_figures(entry: ClassAccount) -> dict[str, Any]:
    """The figures of a class; None for the mean of nothing."""
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
    }


def diff(path_a: str, path_b: str, settings: DiffSettings) -> DiffReport:
    """Compare two files of results.

    Of networks for classification the best class counts, of the whole picture and of each detection; embeddings are not compared.

    Both are read twice: once to find their rows, which takes 20 bytes of memory for each, and once stream by stream, so that
    it does not matter in which order the rows of several streams came.

    Args:
        path_a: a .jsonl file of a run.
        path_b: one of another run.

    Raises:
        UsageError: a file cannot be read, or a line is no row of results; names the line.
    """
    report = DiffReport(path_a, path_b, settings)
    worst: list[tuple[int, float, int, FrameReport]] = []
    earlier = itertools.count(0, -1)  # of two frames that differ alike the earlier stays, and reports are never compared
    with RowIndex(path_a) as a, RowIndex(path_b) as b:
        for stream in dict.fromkeys((*a.streams, *b.streams)):
            for one in _differences(report, a, b, stream):
                heapq.heappush(worst, (*one.size, next(earlier), one))
                if len(worst) > settings.top:
                    heapq.heappop(worst)
    report.most_different = [entry[-1] for entry in sorted(worst, key=lambda entry: entry[:3], reverse=True)]
    return report


def _differences(report: DiffReport, a: RowIndex, b: RowIndex, stream: str) -> Iterator[FrameReport]:
    """Account for a stream; gives the frames that differ at all."""
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
        one = FrameReport(stream, int(rows_a.frames[place_a]), row_a, row_b, difference, _retold(row_a, row_b, difference))
        report.retold += one.retold
        count.different += resized or one.size[0] > 0 or bool(difference.changed(settings.score_tolerance).any())
        if one.size > (0, 0.0):
            yield one


def _retold(a: Row, b: Row, difference: FrameDifference) -> int:
    """Pairs of which the second networks tell another class."""
    if a.told is None or b.told is None:
        return 0
    of_a, of_b = a.told[difference.pairs[:, 0]], b.told[difference.pairs[:, 1]]
    return int(((of_a != of_b) & (of_a >= 0) & (of_b >= 0)).sum())


_NO_ROWS = StreamRows(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32))


def _check_rows(index: RowIndex, stream: str, places: NDArray[np.intp]) -> int:
    """Read rows that have no partner, so that a broken line is found wherever it is; how many there are."""
    labels = Labels()  # those of rows that are not compared do not belong to the report
    for place in _numbers(places):
        index.row(stream, place, labels)
    return len(places)


def _numbers(places: NDArray[np.intp]) -> Iterator[int]:
    for start in range(0, len(places), _AT_ONCE):
        yield from places[start : start + _AT_ONCE].tolist()


def _plain(count: StreamCount) -> dict[str, int]:
    return {"both": count.both, "only_a": count.only_a, "only_b": count.only_b, "different": count.different}
