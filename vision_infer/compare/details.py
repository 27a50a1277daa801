"""How similar the details of the same objects are: masks, keypoints and rotated boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.rotated import intersections
from vision_infer.core.details import Keypoints, Masks, RotatedBoxes
from vision_infer.core.detections import Detections

_TENTHS = (26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89)
COCO_SIGMAS = np.array(_TENTHS, np.float64) / 1000
"""The tolerances of COCO's 17 keypoints, as shares of the object's size (pycocotools' ``kpt_oks_sigmas``)."""
OTHER_SIGMA = 0.05
"""The tolerance of other keypoints."""
_BOX_SHARE = 0.53
"""The area of an object as a share of that of its box, where only the box is known: about the mean of the persons of COCO."""
_TINY = 1e-9


def sigmas_of(points: int) -> NDArray[np.float64]:
    """Return the tolerances of a number of keypoints for OKS, float64 [P]."""
    return COCO_SIGMAS if points == len(COCO_SIGMAS) else np.full(points, OTHER_SIGMA)


def similarities(a: Detections, b: Detections) -> NDArray[np.float64] | None:
    """Return the similarity of the details of each detection in A with those of the detection at the same place in B, 0–1.

    For masks and rotated boxes, it is their IoU; for keypoints OKS, with the keypoints and the box of A as ground truth.

    Args:
        a: N detections.
        b: N detections of the same objects in the same image.

    Returns:
        float64 [N]; None if the two do not have the same kind of details.
    """
    match a.details, b.details:
        case Masks() as one, Masks() as other:
            return np.array([_mask_iou(one, other, index) for index in range(len(one))])
        case Keypoints() as one, Keypoints() as other if one.points.shape == other.points.shape:
            return _keypoint_similarity(one, other, a.boxes)
        case RotatedBoxes() as one, RotatedBoxes() as other:
            pairs = zip(one.values, other.values, strict=True)
            return np.array([float(rotated_ious(left[None], right[None])[0, 0]) for left, right in pairs])
    return None


def rotated_ious(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the IoU of each rotated box [N, 5] in A with each in B [M, 5], float64 [N, M]."""
    ious = np.zeros((len(a), len(b)))
    if len(b):
        corners, others = RotatedBoxes(a).corners(), RotatedBoxes(b).corners()
        area, areas = (one[:, 2].astype(np.float64) * one[:, 3] for one in (a, b))
        for index in range(len(a)):
            inter = intersections(corners[index], others)
            ious[index] = inter / np.maximum(area[index] + areas - inter, _TINY)
    return ious


def _mask_iou(a: Masks, b: Masks, index: int) -> float:
    """Return the IoU of two masks, 1 if both are empty."""
    one, other = a.patch(index), b.patch(index)
    left, top = min(one.left, other.left), min(one.top, other.top)
    parts = [(patch.top - top, patch.left - left, patch.inside) for patch in (one, other)]
    height, width = (max(start[axis] + start[2].shape[axis] for start in parts) for axis in (0, 1))
    whole = np.zeros((2, height, width), np.bool_)
    for canvas, (row, column, inside) in zip(whole, parts, strict=True):
        canvas[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
    union = int((whole[0] | whole[1]).sum())
    return int((whole[0] & whole[1]).sum()) / union if union else 1.0


def _keypoint_similarity(a: Keypoints, b: Keypoints, boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return OKS over the visible keypoints of A, 1 without any."""
    apart = ((a.points[..., :2].astype(np.float64) - b.points[..., :2]) ** 2).sum(axis=2)
    sides = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
    area = np.maximum(sides.prod(axis=1) * _BOX_SHARE, _TINY)[:, None]
    close = np.exp(-apart / (2 * area * (2 * sigmas_of(a.points.shape[1])) ** 2))
    seen = a.visible()
    count = seen.sum(axis=1)
    return np.where(count, (close * seen).sum(axis=1) / np.maximum(count, 1), 1.0)
