"""The differences between two sets of detections of the same frame, and their counts for each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.assignment import assign
from vision_infer.analyze.matching import box_overlap
from vision_infer.compare.details import similarities
from vision_infer.core.detections import Detections


@dataclass(frozen=True, slots=True)
class FrameDifference:
    """Which detections of A and B are the same object, by their indices in A and in B."""

    pairs: NDArray[np.intp]
    """The pairs of the same object, intp [M, 2]: index in A, index in B."""
    ious: NDArray[np.float64]
    """The IoU of each pair, float64 [M], 0–1."""
    score_changes: NDArray[np.float64]
    """The score in B minus the score in A, float64 [M]."""
    only_a: NDArray[np.intp]
    """The detections of A without a partner, intp [N]."""
    only_b: NDArray[np.intp]
    """The detections of B without a partner, intp [K]."""
    similarities: NDArray[np.float64] | None = None
    """The similarity of the details of each pair, float64 [M], 0–1; None unless both have the same kind of details."""

    def changed(self, score_tolerance: float) -> NDArray[np.bool_]:
        """Return the pairs whose scores differ by more than the tolerance, bool [M]."""
        return np.abs(self.score_changes) > score_tolerance

    def details_changed(self, minimum: float) -> int:
        """Return the number of pairs whose details have a similarity below a minimum."""
        return 0 if self.similarities is None else int((self.similarities < minimum).sum())

    @property
    def size(self) -> tuple[int, float]:
        """The size of the difference, for sorting: detections without a partner, then the sum of the differences of pairs."""
        inside = float(np.abs(self.score_changes).sum() + (1 - self.ious).sum())
        return len(self.only_a) + len(self.only_b), inside


def renumbered(detections: Detections, labels: Sequence[str], of: Sequence[str]) -> Detections:
    """Return detections with the class numbers of another model, by label; other classes get numbers above its own.

    Args:
        detections: The detections.
        labels: The labels of their model by class number.
        of: The labels of the other model by class number.
    """
    if tuple(labels) == tuple(of):
        return detections
    numbers = {label.casefold(): number for number, label in enumerate(of)}
    above = len(numbers)
    table = [numbers.get(label.casefold(), above + number) for number, label in enumerate(labels)]
    ids = [table[number] if number < len(table) else above + number for number in detections.class_ids.tolist()]
    return replace(detections, class_ids=np.array(ids, np.int32))


def compare(a: Detections, b: Detections, iou: float) -> FrameDifference:
    """Pair the detections of the same objects.

    Each detection has at most one partner, of the same class, with an IoU of at least ``iou``. The pairing with the largest sum
    of IoUs is used.

    Args:
        a: Detections of a frame; class numbers have the same meaning in both.
    """
    pairs, ious = _pairs(a, b, iou)
    scores = a.scores.astype(np.float64), b.scores.astype(np.float64)
    return FrameDifference(
        pairs,
        ious,
        scores[1][pairs[:, 1]] - scores[0][pairs[:, 0]],
        np.delete(np.arange(len(a)), pairs[:, 0]),
        np.delete(np.arange(len(b)), pairs[:, 1]),
        None if a.details is None or b.details is None else similarities(a[pairs[:, 0]], b[pairs[:, 1]]),
    )


def _pairs(a: Detections, b: Detections, iou: float) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    if len(a) == len(b) and np.array_equal(a.boxes, b.boxes) and np.array_equal(a.class_ids, b.class_ids):
        numbers = np.arange(len(a))
        return np.stack((numbers, numbers), axis=1), np.ones(len(a))
    if not len(a) or not len(b):
        return np.zeros((0, 2), np.intp), np.zeros(0)
    overlap = box_overlap(a.boxes, b.boxes)
    possible = (overlap >= iou) & (a.class_ids[:, None] == b.class_ids)
    rows, columns = possible.nonzero()
    if max(possible.sum(axis=0).max(), possible.sum(axis=1).max()) > 1:  # a detection has several possible partners
        rows, columns = assign(np.where(possible, overlap, 0))
    return np.stack((rows, columns), axis=1), overlap[rows, columns]


@dataclass(slots=True)
class ClassAccount:
    """The counts of one class, over all frames."""

    matched: int = 0
    """The number of pairs."""
    only_a: int = 0
    only_b: int = 0
    score_changed: int = 0
    """The number of pairs whose scores differ by more than the tolerance."""
    iou_sum: float = 0.0
    change_sum: float = 0.0
    """The sum of the score differences, B minus A."""
    difference_sum: float = 0.0
    """The sum of the absolute score differences."""
    difference_max: float = 0.0
    detailed: int = 0
    """The number of pairs with details of the same kind."""
    similarity_sum: float = 0.0
    """The sum of the similarities of their details."""


def account(
    by_class: dict[int, ClassAccount], a: Detections, b: Detections, difference: FrameDifference, score_tolerance: float
) -> None:
    """Add a frame to the counts of each class."""
    of_a, of_b = a.class_ids.tolist(), b.class_ids.tolist()
    changes = zip(difference.pairs[:, 0].tolist(), difference.ious.tolist(), difference.score_changes.tolist(), strict=True)
    for index, iou, change in changes:
        entry = by_class.setdefault(of_a[index], ClassAccount())
        entry.matched += 1
        entry.iou_sum += iou
        entry.change_sum += change
        entry.difference_sum += abs(change)
        entry.difference_max = max(entry.difference_max, abs(change))
        entry.score_changed += abs(change) > score_tolerance
    if difference.similarities is not None:
        for index, similarity in zip(difference.pairs[:, 0].tolist(), difference.similarities.tolist(), strict=True):
            by_class[of_a[index]].detailed += 1
            by_class[of_a[index]].similarity_sum += similarity
    for index in difference.only_a.tolist():
        by_class.setdefault(of_a[index], ClassAccount()).only_a += 1
    for index in difference.only_b.tolist():
        by_class.setdefault(of_b[index], ClassAccount()).only_b += 1
