"""From an engine's candidates to detections: score threshold, non-maximum suppression (NMS), back to the source picture.

NMS here is the classic greedy one, for each class apart: the best box wins and suppresses every box of its class whose overlap
(intersection over union, IoU) with it is greater than the threshold. Overlaps are compared in float64 as ``inter > iou * union``:
without a division there is no special case for boxes without area, which neither suppress nor are suppressed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Letterbox

Selected: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]
"""boxes float32 [N, 4] xyxy, scores float32 [N], class_ids int32 [N]: one picture, best score first"""

Chosen: TypeAlias = Selected | tuple[list[list[float]], list[float], list[int]]
"""the same of one picture, or as much in lists"""

_LOOP_LIMIT = 300
"""candidates of one class up to which a loop in Python beats NumPy (7–11 against 18 µs for 20 candidates, even at 300)"""


@dataclass(frozen=True, slots=True)
class Selector:
    """Which candidates become detections. Calling it selects in input pixels; :func:`select` goes on to the source picture."""

    confidence: float
    """least score that counts, 0–1"""
    iou: float | None
    """IoU above which the worse of two boxes of a class goes, 0–1; None: no NMS, for networks that need none"""
    classes: frozenset[int] | None = None
    """the class numbers that count, others are gone before NMS; None: all"""
    label_names: tuple[str, ...] | None = None
    """label by class number, handed on to the detections"""
    max_detections: int | None = None
    """how many are kept for a picture, the best ones; None: all"""
    per_class: Mapping[int, float] = field(default_factory=dict, hash=False)
    """least score by class number, 0–1, lower or higher than ``confidence``, which counts for the other classes"""
    _lowest: float = field(init=False, repr=False, compare=False, default=0.0)
    """the least of all these scores"""

    def __post_init__(self) -> None:
        for least in (self.confidence, *self.per_class.values()):
            if not 0 <= least <= 1:
                raise ValueError(f"confidence must be within 0 and 1, got {least}")
        object.__setattr__(self, "_lowest", min(self.confidence, *self.per_class.values(), 1.0))
        if self.iou is not None and not 0 <= self.iou <= 1:
            raise ValueError(f"iou must be within 0 and 1, got {self.iou}")
        if self.max_detections is not None and self.max_detections < 1:
            raise ValueError(f"max_detections must be at least 1, got {self.max_detections}")

    def __call__(self, boxes: NDArray[np.float32], scores: NDArray[np.float32], class_ids: NDArray[np.int32]) -> list[Selected]:
        """Select in a whole batch.

        Args:
            boxes: float32 [B, K, 4] xyxy, input pixels.
            scores: float32 [B, K], in any order.
            class_ids: int32 [B, K].

        Returns:
            For each of the B pictures what is left, copied, in input pixels. Equal scores stay in the order of the
            candidates. Candidates whose box or score is not finite are gone.
        """
        return [_arrays(one) for one in self.choose(boxes, scores, class_ids)]

    def choose(self, boxes: NDArray[np.float32], scores: NDArray[np.float32], class_ids: NDArray[np.int32]) -> list[Chosen]:
        """As calling it, but what is left of each picture is in lists, unless there is very much."""
        if boxes.shape != (*scores.shape, 4) or class_ids.shape != scores.shape or scores.ndim != 2:
            raise ValueError(
                f"boxes must be [B, K, 4], scores and class_ids [B, K], got {boxes.shape}, {scores.shape} and {class_ids.shape}"
            )
        passing = scores >= self._lowest  # false for NaN
        return [self._one(passing[image], boxes[image], scores[image], class_ids[image]) for image in range(scores.shape[0])]

    def _one(
        self,
        passing: NDArray[np.bool_],
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        class_ids: NDArray[np.int32],
    ) -> Chosen:
        # Most of the K candidates are below the threshold: all that follows works on the few that are not.
        index = passing.nonzero()[0]
        if self.classes is not None and len(index):
            wanted = self.classes
            index = index[[class_id in wanted for class_id in class_ids[index].tolist()]]
        if self.per_class and len(index):
            index = index[scores[index] >= least_scores(class_ids[index], self.per_class, self.confidence)]
        if len(index) <= _LOOP_LIMIT or not self._crowded(class_ids[index]):
            return self._few(_rows(boxes, index), scores[index].tolist(), class_ids[index].tolist())
        return self._many(boxes[index], scores[index], class_ids[index])

    def _crowded(self, class_ids: NDArray[np.int32]) -> bool:
        """Whether the loop would take long: its cost grows with the square of a class's candidates, not of all."""
        return self.iou is None or int(np.unique(class_ids, return_counts=True)[1].max()) > _LOOP_LIMIT

    def _few(self, boxes: list[list[float]], scores: list[float], class_ids: list[int]) -> Chosen:
        """What is kept of a picture.

        Plain Python: for the few boxes of a usual picture, NumPy's cost of a call is more than the whole work.
        """
        # A sum is finite where all of it is.
        order = [at for at, box in enumerate(boxes) if isfinite(sum(box) + scores[at])]
        order.sort(key=scores.__getitem__, reverse=True)  # stable, in that direction too
        if self.iou is not None and len(order) > 1:
            order = _suppress_few(boxes, class_ids, order, self.iou)
        if self.max_detections is not None:
            del order[self.max_detections :]
        return [boxes[at] for at in order], [scores[at] for at in order], [class_ids[at] for at in order]

    def _many(self, boxes: NDArray[np.float32], scores: NDArray[np.float32], class_ids: NDArray[np.int32]) -> Selected:
        sound = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
        boxes, scores, class_ids = boxes[sound], scores[sound], class_ids[sound]
        order = (-scores).argsort(kind="stable")
        if self.iou is not None:
            order = order[_suppress_many(boxes[order], class_ids[order], self.iou)]
        order = order[: self.max_detections]
        return boxes[order], scores[order], class_ids[order]


def select(
    outputs: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]],
    letterboxes: Sequence[Letterbox],
    selector: Selector,
) -> list[Detections]:
    """The detections of a batch, in source pixels.

    Args:
        outputs: boxes float32 [B, K, 4] xyxy in input pixels, scores float32 [B, K], class_ids int32 [B, K]. B may be greater
            than the number of letterboxes: an engine with fixed batch sizes pads, and what lies past them is not looked at.
        letterboxes: how each picture lies in its slot.
        selector: which candidates count.

    Returns:
        One for each letterbox, best score first, clipped to the picture; boxes that are empty then are gone.
    """
    boxes, scores, class_ids = outputs
    count = len(letterboxes)
    if scores.shape[0] < count:
        raise ValueError(f"a batch of {scores.shape[0]} cannot hold {count} pictures")
    if scores.shape[0] > count:
        boxes, scores, class_ids = boxes[:count], scores[:count], class_ids[:count]
    chosen = selector.choose(boxes, scores, class_ids)
    return [_in_source(one, letterbox, selector.label_names) for one, letterbox in zip(chosen, letterboxes, strict=True)]


def least_scores(class_ids: NDArray[np.int32], per_class: Mapping[int, float], confidence: float) -> NDArray[np.float32]:
    """What each detection's score must reach.

    Args:
        class_ids: int32 [N].
        per_class: least score by class number, 0–1.
        confidence: least score for the other classes, 0–1.

    Returns:
        float32 [N], as scores are: 0.35 as a float64 is more than 0.35 as a float32, and would refuse it.
    """
    return np.array([per_class.get(class_id, confidence) for class_id in class_ids.tolist()], np.float32)


def _rows(boxes: NDArray[np.float32], index: NDArray[np.intp]) -> list[list[float]]:
    """The boxes with these numbers, which rise.

    NumPy lets go of Python's lock to gather rows: another thread goes on in the middle of a picture, which costs more than all
    of this. A slice is taken without, and as networks give the best candidates first, it holds hardly more.
    """
    if not len(index):
        return []
    first: int = index.item(0)
    rows: list[list[float]] = boxes[first : index.item(-1) + 1].tolist()
    return rows if len(rows) == len(index) else [rows[at - first] for at in index.tolist()]


def _arrays(chosen: Chosen) -> Selected:
    boxes, scores, class_ids = chosen
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(class_ids, np.int32)


def _in_source(chosen: Chosen, letterbox: Letterbox, label_names: tuple[str, ...] | None) -> Detections:
    if not len(chosen[1]):
        return Detections.empty(label_names)
    boxes = letterbox.to_source_clipped(chosen[0])
    scores, class_ids = np.array(chosen[1], np.float32), np.array(chosen[2], np.int32)
    there = boxes[:, 2:] > boxes[:, :2]
    if b"\0" not in there.tobytes():
        return Detections(boxes, scores, class_ids, label_names)
    whole = there.all(axis=1)
    return Detections(boxes[whole], scores[whole], class_ids[whole], label_names)


def _suppress_few(boxes: list[list[float]], class_ids: list[int], order: list[int], iou: float) -> list[int]:
    """Greedy NMS of one picture.

    Args:
        boxes: xyxy.
        class_ids: of each.
        order: indices of those that count, best score first.
        iou: boxes of a class that overlap a better one by more than this go.

    Returns:
        Indices of what is kept, best score first.
    """
    kept: list[int] = []
    winners: dict[int, list[tuple[float, float, float, float, float]]] = {}
    for index in order:
        x1, y1, x2, y2 = boxes[index]
        area = (x2 - x1) * (y2 - y1) if x2 > x1 and y2 > y1 else 0.0
        kind = class_ids[index]
        rivals = winners.get(kind)
        if rivals is None:
            winners[kind] = [(x1, y1, x2, y2, area)]
            kept.append(index)
            continue
        for left, top, right, bottom, size in rivals:
            width = (x2 if x2 < right else right) - (x1 if x1 > left else left)
            if width > 0:
                height = (y2 if y2 < bottom else bottom) - (y1 if y1 > top else top)
                if height > 0:
                    inter = width * height
                    if inter > iou * (area + size - inter):
                        break
        else:
            rivals.append((x1, y1, x2, y2, area))
            kept.append(index)
    return kept


def _suppress_many(boxes: NDArray[np.float32], class_ids: NDArray[np.int32], iou: float) -> list[int]:
    # One winner against all that are left at a time: an IoU matrix of 1,000 boxes is 8 MB for each intermediate result.
    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T, dtype=np.float64)
    area = np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0)
    rest = np.arange(len(boxes))
    kept: list[int] = []
    while len(rest):
        winner, rest = int(rest[0]), rest[1:]
        kept.append(winner)
        width = np.minimum(x2[rest], x2[winner]) - np.maximum(x1[rest], x1[winner])
        height = np.minimum(y2[rest], y2[winner]) - np.maximum(y1[rest], y1[winner])
        inter = np.maximum(width, 0) * np.maximum(height, 0)
        beaten = (inter > iou * (area[rest] + area[winner] - inter)) & (class_ids[rest] == class_ids[winner])
        rest = rest[~beaten]
    return kept
