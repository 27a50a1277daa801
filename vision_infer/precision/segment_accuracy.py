"""Accuracy of semantic segmentation: the mean intersection over union (mIoU) of the classes, against masks in COCO format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.card import ModelCard
from vision_infer.core.details.class_map import BACKGROUND
from vision_infer.core.result import Result

_IGNORED = -1
"""The class of pixels that do not count."""


@dataclass(frozen=True, slots=True)
class SegmentAccuracy:
    """The accuracy of the classes of pixels."""

    figures: dict[str, float]
    """``mIoU`` over the classes with annotations, and ``pixels``: the share of pixels with the right class; in per cent."""
    table: str
    """The IoU of each class, as text."""


def score_segments(
    card: ModelCard, truth: Any, results: Sequence[Result], entries: Sequence[Mapping[str, Any]], categories: Mapping[int, int]
) -> SegmentAccuracy:
    """Compare the classes of pixels with the masks of annotations.

    The annotations of an image are painted in the order of their size, the largest first. Pixels without one are those of the
    background if the model has a label for it; otherwise they do not count, as those of crowds do not.

    Args:
        card: The card of the model.
        truth: The annotations, read by pycocotools.
        results: The results, with the index of the image in ``entries`` as frame.
        entries: The images of the annotations.
        categories: The category of each class number.
    """
    labels = [label.lower() for label in card.labels or ()]
    nothing = next((number for number, label in enumerate(labels) if label in BACKGROUND), _IGNORED)
    count = max(len(labels), 256)
    confusion = np.zeros((count, count), np.int64)
    classes = {category: number for number, category in categories.items()}
    for result in results:
        entry = entries[result.frame]
        assert result.description is not None
        assert result.description.segments is not None
        wanted = _painted(truth, entry, classes, nothing).ravel()
        found = result.description.segments.pixels(result.size).ravel()
        counted = wanted != _IGNORED
        pairs = wanted[counted] * count + found[counted]
        confusion += np.bincount(pairs, minlength=count * count).reshape(count, count)
    right, annotated = np.diag(confusion), confusion.sum(axis=1)
    present = np.flatnonzero(annotated)
    ious = 100 * right[present] / (annotated + confusion.sum(axis=0) - right)[present]
    figures = {"mIoU": float(ious.mean()), "pixels": 100 * float(right.sum() / annotated.sum())}
    lines = [f"mIoU {figures['mIoU']:.1f} %, {figures['pixels']:.1f} % of the pixels have the right class", "IoU      class"]
    lines += [f"{iou:5.1f} %  {card.label(number)}" for number, iou in zip(present.tolist(), ious.tolist(), strict=True)]
    return SegmentAccuracy(figures, "\n".join(lines))


def _painted(truth: Any, entry: Mapping[str, Any], classes: Mapping[int, int], nothing: int) -> NDArray[np.int64]:
    """Return the class of each pixel of an image, int64 [H, W]."""
    painted = np.full((entry["height"], entry["width"]), nothing, np.int64)
    for one in sorted(truth.loadAnns(truth.getAnnIds(imgIds=entry["id"])), key=lambda one: -one["area"]):
        number = _IGNORED if one["iscrowd"] else classes.get(one["category_id"], _IGNORED)
        painted[truth.annToMask(one) > 0] = number
    return painted
