"""From an engine's candidates to detections: minimum confidence, non-maximum suppression (NMS), back to the source image.

NMS is the classic greedy algorithm, for each class or group of classes separately: the best box suppresses every box whose
overlap (intersection over union, IoU) with it is greater than the threshold. Overlaps are compared in float64 as
``inter > iou * union``: without a division there is no special case for boxes without area, which neither suppress nor are
suppressed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.details import Outputs, details_of, without_gaps
from vision_infer.analyze.rotated import boxes_of_maps, suppress_rotated
from vision_infer.analyze.similar import Groups, group_numbers
from vision_infer.core.card import KeypointLayout
from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Letterbox

Selected: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]
"""The boxes float32 [N, 4] xyxy, scores float32 [N], class_ids int32 [N] of one image, best score first."""

Chosen: TypeAlias = tuple[
    NDArray[np.float32] | list[list[float]],
    NDArray[np.float32] | list[float],
    NDArray[np.int32] | list[int],
    NDArray[np.intp],
    NDArray[np.intp] | list[int],
]
"""The same for one image, or as lists; then two arrays, the second of which selects the candidates of these from the first. Only
models with details need that."""

_LOOP_LIMIT = 300
"""The number of candidates of a class up to which a Python loop beats NumPy (7–11 against 18 µs for 20 candidates)."""


@dataclass(frozen=True, slots=True)
class Selector:
    """Selects the candidates that become detections, in input pixels; :func:`select` also maps them to the source image."""

    confidence: float
    """The minimum confidence, 0–1."""
    iou: float | None
    """The IoU threshold of NMS, 0–1; None: no NMS, for models that need none."""
    classes: frozenset[int] | None = None
    """The class numbers to keep, applied before NMS; None: all."""
    label_names: tuple[str, ...] | None = None
    """The labels by class number, passed on to the detections."""
    max_detections: int | None = None
    """The maximum number of detections of an image, the best ones; None: all."""
    per_class: Mapping[int, float] = field(default_factory=dict, hash=False)
    """The minimum confidence by class number, 0–1; ``confidence`` applies to the other classes."""
    groups: Groups = field(default_factory=dict, hash=False)
    """The groups of classes; NMS compares the boxes of a group."""
    keypoints: KeypointLayout | None = None
    """The names and the skeleton of the keypoints, passed on to the detections."""
    unclip: float = 0.0
    """How far regions of a map of probabilities grow, see the card."""
    _lowest: float = field(init=False, repr=False, compare=False, default=0.0)
    """The lowest of all these scores."""

    def __post_init__(self) -> None:
        for minimum in (self.confidence, *self.per_class.values()):
            if not 0 <= minimum <= 1:
                raise ValueError(f"confidence must be within 0 and 1, got {minimum}")
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
            The remaining boxes of each of the B images, copied, in input pixels. Equal scores keep the order of the
            candidates. Candidates whose box or score is not finite are gone.
        """
        return [_arrays(chosen) for chosen in self.choose(boxes, scores, class_ids)]

    def choose(
        self,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        class_ids: NDArray[np.int32],
        rotated: NDArray[np.float32] | None = None,
    ) -> list[Chosen]:
        """Select in a whole batch, with lists instead of arrays for images with few candidates.

        With the rotated boxes float32 [B, K, 5] inside the boxes, NMS compares those.
        """
        if boxes.shape != (*scores.shape, 4) or class_ids.shape != scores.shape or scores.ndim != 2:
            raise ValueError(
                f"boxes must be [B, K, 4], scores and class_ids [B, K], got {boxes.shape}, {scores.shape} and {class_ids.shape}"
            )
        passing = scores >= self._lowest  # false for NaN
        return [
            self._choose_in(
                passing[image], boxes[image], scores[image], class_ids[image], None if rotated is None else rotated[image]
            )
            for image in range(scores.shape[0])
        ]

    def _choose_in(
        self,
        passing: NDArray[np.bool_],
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        class_ids: NDArray[np.int32],
        rotated: NDArray[np.float32] | None,
    ) -> Chosen:
        # Most of the K candidates are below the minimum: all that follows works on the few that are not.
        index = passing.nonzero()[0]
        if self.classes is not None and len(index):
            wanted = self.classes
            index = index[[class_id in wanted for class_id in class_ids[index].tolist()]]
        if self.per_class and len(index):
            index = index[scores[index] >= minimum_scores(class_ids[index], self.per_class, self.confidence)]
        if rotated is not None:
            return self._many(boxes[index], scores[index], class_ids[index], index, rotated)
        if len(index) <= _LOOP_LIMIT or not self._crowded(class_ids[index].tolist()):
            return self._few(_rows(boxes, index), scores[index].tolist(), class_ids[index].tolist(), index)
        return self._many(boxes[index], scores[index], class_ids[index], index)

    def _crowded(self, class_ids: list[int]) -> bool:
        """Return whether the loop would be slow: its cost grows with the square of the candidates of a group, not of all."""
        return self.iou is None or max(Counter(group_numbers(class_ids, self.groups)).values()) > _LOOP_LIMIT

    def _few(self, boxes: list[list[float]], scores: list[float], class_ids: list[int], index: NDArray[np.intp]) -> Chosen:
        """Select the detections of an image with few candidates.

        Plain Python: for the few boxes of a usual image, the overhead of NumPy calls exceeds the whole work.
        """
        order = list(range(len(scores)))
        if not isfinite(sum(map(sum, boxes)) + sum(scores)):  # a sum is finite only if all its terms are
            order = [at for at in order if isfinite(sum(boxes[at]) + scores[at])]
        order.sort(key=scores.__getitem__, reverse=True)  # stable, in that direction too
        if self.iou is not None and len(order) > 1:
            order = _suppress_few(boxes, group_numbers(class_ids, self.groups), order, self.iou)
        if self.max_detections is not None:
            del order[self.max_detections :]
        return [boxes[at] for at in order], [scores[at] for at in order], [class_ids[at] for at in order], index, order

    def _many(
        self,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        class_ids: NDArray[np.int32],
        index: NDArray[np.intp],
        rotated: NDArray[np.float32] | None = None,
    ) -> Chosen:
        sound = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
        boxes, scores, class_ids, index = boxes[sound], scores[sound], class_ids[sound], index[sound]
        order = (-scores).argsort(kind="stable")
        if self.iou is not None and rotated is not None:
            groups = np.array(group_numbers(class_ids[order].tolist(), self.groups), np.intp)
            order = order[suppress_rotated(rotated[index[order]], boxes[order], groups, self.iou)]
        elif self.iou is not None:
            groups = np.array(group_numbers(class_ids[order].tolist(), self.groups), np.intp)
            order = order[_suppress_many(boxes[order], groups, self.iou)]
        order = order[: self.max_detections]
        return boxes[order], scores[order], class_ids[order], index, order


def select(outputs: Outputs, letterboxes: Sequence[Letterbox], selector: Selector) -> list[Detections]:
    """Return the detections of a batch, in source pixels.

    Args:
        outputs: boxes float32 [B, K, 4] xyxy in input pixels, scores float32 [B, K], class_ids int32 [B, K], by name; and those
            of the model's details; or only probabilities uint8 [B, h, w]. B may be greater than the number of letterboxes: an
            engine with fixed batch sizes pads, and what lies past them is not looked at.
        letterboxes: The position of each image in its slot.
        selector: The selector.

    Returns:
        One for each letterbox, best score first, clipped to the image; boxes that are then empty are dropped.
    """
    if "probabilities" in outputs:
        outputs = boxes_of_maps(outputs["probabilities"][: len(letterboxes)], letterboxes[0].input, selector.unclip)
    boxes, scores, class_ids = outputs["boxes"], outputs["scores"], outputs["class_ids"]
    detailed = len(outputs) > 3
    if detailed:
        scores = without_gaps(outputs)
    count, size = len(letterboxes), scores.shape[0]
    if size < count:
        raise ValueError(f"a batch of {size} cannot hold {count} images")
    if size > count:
        boxes, scores, class_ids = boxes[:count], scores[:count], class_ids[:count]
    if not detailed:
        chosen = selector.choose(boxes, scores, class_ids)
        return [_in_source(one, letterbox, selector.label_names) for one, letterbox in zip(chosen, letterboxes, strict=True)]
    chosen = selector.choose(boxes, scores, class_ids, outputs.get("rotated_boxes"))
    return [
        _with_details(outputs, image, one, letterbox, selector)
        for image, (one, letterbox) in enumerate(zip(chosen, letterboxes, strict=True))
    ]


def minimum_scores(class_ids: NDArray[np.int32], per_class: Mapping[int, float], confidence: float) -> NDArray[np.float32]:
    """Return the minimum confidence of each detection.

    Args:
        class_ids: The class numbers, int32 [N].
        per_class: The minimum confidence by class number, 0–1.
        confidence: The minimum confidence for the other classes, 0–1.

    Returns:
        float32 [N], as scores are: 0.35 as a float64 is more than 0.35 as a float32, and would exclude it.
    """
    return np.array([per_class.get(class_id, confidence) for class_id in class_ids.tolist()], np.float32)


def _rows(boxes: NDArray[np.float32], index: NDArray[np.intp]) -> list[list[float]]:
    """Return the boxes with these ascending indices.

    NumPy releases the GIL to gather rows: another thread then runs in the middle of an image, which costs more than all of this.
    A slice does not, and because models give the best candidates first, it contains hardly more rows.
    """
    if not len(index):
        return []
    first: int = index.item(0)
    rows: list[list[float]] = boxes[first : index.item(-1) + 1].tolist()
    return rows if len(rows) == len(index) else [rows[at - first] for at in index.tolist()]


def _arrays(chosen: Chosen) -> Selected:
    boxes, scores, class_ids, *_ = chosen
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(class_ids, np.int32)


def _in_source(chosen: Chosen, letterbox: Letterbox, label_names: tuple[str, ...] | None) -> Detections:
    if not len(chosen[1]):
        return Detections.empty(label_names)
    boxes = letterbox.to_source_clipped(chosen[0])
    scores, class_ids = np.array(chosen[1], np.float32), np.array(chosen[2], np.int32)
    positive = boxes[:, 2:] > boxes[:, :2]
    if b"\0" not in positive.tobytes():
        return Detections(boxes, scores, class_ids, label_names)
    whole = positive.all(axis=1)
    return Detections(boxes[whole], scores[whole], class_ids[whole], label_names)


def _with_details(outputs: Outputs, image: int, chosen: Chosen, letterbox: Letterbox, selector: Selector) -> Detections:
    _, scores, class_ids, index, order = chosen
    kept = index[order]
    if not len(kept):
        return Detections.empty(selector.label_names)
    boxes = letterbox.to_source_clipped(chosen[0])
    details = details_of(outputs, image, kept, letterbox, boxes, selector.keypoints)
    values = np.array(scores, np.float32), np.array(class_ids, np.int32)
    found = Detections(boxes, *values, selector.label_names, details=details)
    return found[np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))]


def _suppress_few(boxes: list[list[float]], groups: list[int], order: list[int], iou: float) -> list[int]:
    """Run greedy NMS on one image.

    Args:
        boxes: The boxes, xyxy.
        groups: The group of each box; only boxes of one group are compared.
        order: The indices of the candidates, best score first.
        iou: The IoU threshold.

    Returns:
        The indices of the remaining boxes, best score first.
    """
    kept: list[int] = []
    winners: dict[int, list[tuple[float, float, float, float, float]]] = {}
    for index in order:
        x1, y1, x2, y2 = boxes[index]
        area = (x2 - x1) * (y2 - y1) if x2 > x1 and y2 > y1 else 0.0
        kind = groups[index]
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


def _suppress_many(boxes: NDArray[np.float32], groups: NDArray[np.intp], iou: float) -> list[int]:
    # One winner against all remaining boxes at a time: an IoU matrix of 1,000 boxes is 8 MB for each intermediate result.
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
        beaten = inter > iou * (area[rest] + area[winner] - inter)
        beaten &= groups[rest] == groups[winner]
        rest = rest[~beaten]
    return kept
