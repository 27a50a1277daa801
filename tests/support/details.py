"""Detections with keypoints, masks or rotated boxes."""

from __future__ import annotations

import numpy as np

from vision_infer.core.details import Details, Keypoints, Masks, RotatedBoxes
from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Size

KINDS = {"keypoints": "keypoints", "masks": "mask", "rotated_boxes": "box_rotated"}
"""The kinds of details, and their fields of rows."""


def masks(count: int) -> Masks:
    random = np.random.default_rng(count)
    boxes = np.array([[1 + at, 2, 20 + at, 25] for at in range(count)], np.float32).reshape(-1, 4)
    logits = tuple(random.normal(0, 1, (6, 5)).astype(np.float32) for _ in range(count))
    return Masks(Size(40, 30), boxes, boxes.astype(np.float64) + np.array([-2.0, -2, 2, 2]), logits)


def details(kind: str, count: int) -> Details:
    random = np.random.default_rng(count)
    if kind == "masks":
        return masks(count)
    if kind == "keypoints":
        return Keypoints((random.uniform(0, 1, (count, 5, 3)) * [40, 30, 1]).astype(np.float32))
    return RotatedBoxes((random.uniform(0, 1, (count, 5)) * [40, 30, 9, 5, 1]).astype(np.float32))


def with_details(found: Details) -> Detections:
    numbers = np.arange(len(found))
    boxes = found.boxes if isinstance(found, Masks) else np.ones((len(found), 4), np.float32)
    return Detections(boxes, (numbers / 10).astype(np.float32), numbers.astype(np.int32), details=found)
