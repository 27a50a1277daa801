"""The matching of boxes: overlap, nearness, and the best pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.assignment import assign

_DOUBLE_IOU = 0.45
"""The IoU above which two boxes of one class are of the same object."""
_PART, _PART_IOU = 0.8, 0.3
"""A box is a part of an object if this fraction of it is in the object's box, and their IoU exceeds the second figure."""


def match(
    overlap: NDArray[np.float64],
    tracks: NDArray[np.bool_],
    detections: NDArray[np.bool_],
    min_iou: float,
    track_of: NDArray[np.intp],
) -> None:
    """Match the unmatched tracks and detections of the masks.

    The sum of the IoU above the minimum is maximized. A pair that is not above it gains nothing, so that no good match is
    replaced by two poor ones.

    Args:
        overlap: The IoU, float64 [T, N].
        tracks: The mask of tracks, bool [T].
        detections: The mask of detections, bool [N].
        min_iou: The IoU that a pair must exceed.
        track_of: The track of each detection, intp [N], -1 for none; it is written.
    """
    free = tracks.copy()
    free[track_of[track_of >= 0]] = False
    rows = free.nonzero()[0]
    columns = (detections & (track_of < 0)).nonzero()[0]
    if not len(rows) or not len(columns):
        return
    chosen_rows, chosen_columns = assign(np.maximum(overlap[np.ix_(rows, columns)] - min_iou, 0))
    track_of[columns[chosen_columns]] = rows[chosen_rows]


def box_overlap(boxes: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the IoU, float64 [N, M], of boxes [N, 4] and [M, 4], xyxy; 0 if neither has an area."""
    a, b = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    inter = _area(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]))
    union = _area(a[..., 2:] - a[..., :2]) + _area(b[..., 2:] - b[..., :2]) - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def same_object(boxes: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return whether boxes [N, 4] and [M, 4], xyxy, of one class are probably of the same object, bool [N, M]."""
    a, b = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    inter = _area(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]))
    mine, theirs = _area(a[..., 2:] - a[..., :2]), _area(b[..., 2:] - b[..., :2])
    union = mine + theirs - inter
    same: NDArray[np.bool_] = (inter > _DOUBLE_IOU * union) | (
        (inter > _PART_IOU * union) & (inter > _PART * np.minimum(mine, theirs))
    )
    return same


def nearness(boxes: NDArray[np.floating], others: NDArray[np.floating], reach: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how near the boxes [M, 4] are to boxes [N, 4] of similar size, float64 [N, M].

    It is 1 for the same center and 0 or less at a distance of ``reach`` [N], in sizes (roots of the area) of the first boxes.
    """
    a, b = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    apart = np.hypot(a[..., 0] + a[..., 2] - b[..., 0] - b[..., 2], a[..., 1] + a[..., 3] - b[..., 1] - b[..., 3]) / 2
    mine, theirs = _area(a[..., 2:] - a[..., :2]), _area(b[..., 2:] - b[..., :2])
    alike = (theirs < 2 * mine) & (mine < 2 * theirs)
    distance = np.divide(apart, reach[:, None] * np.sqrt(mine), out=np.ones_like(apart), where=alike)
    return 1 - distance


def _area(sides: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the area of boxes by their sides, [..., 2]; a negative side counts as 0."""
    area: NDArray[np.float64] = np.maximum(sides[..., 0], 0) * np.maximum(sides[..., 1], 0)
    return area
