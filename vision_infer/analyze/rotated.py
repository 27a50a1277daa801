"""Overlap and NMS of rotated boxes, and rotated boxes of regions in maps of probabilities."""

from __future__ import annotations

from math import pi, radians
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.details.rotated_boxes import corners_of_rotated
from vision_infer.core.geometry import Size

_NEAR = 1e-7
"""The tolerance of a corner on an edge, as a share of the greater box's size."""
_REGION = 0.3
"""The probability above which an element of a map belongs to a region, as in the paper of DBNet."""
_MIN_SIDE = 4
"""The minimum side of a region, elements of the map."""
_MAX_REGIONS = 1000
"""The maximum number of regions of an image."""


def boxes_of_maps(probabilities: NDArray[np.uint8], size: Size, unclip: float) -> dict[str, NDArray[Any]]:
    """Make rotated boxes of the regions in maps of probabilities, as DBNet does.

    A box is the smallest rectangle around a region, and its score the mean probability of the region. Each side then moves
    outwards by ``unclip`` · area / outline of the rectangle. The longer side is the width.

    Args:
        probabilities: The maps, uint8 [B, h, w]; 255 is 1.
        size: The size of the model's input, which the maps cover.
        unclip: The factor.

    Returns:
        The outputs of a detector with rotated boxes, see :class:`vision_infer.engine.engine.RawResults`; missing ones of an image
        with fewer boxes have a score of NaN.
    """
    found = [_regions(plane, size.width / plane.shape[1], unclip) for plane in probabilities]
    count = max([1, *map(len, found)])
    rows = np.zeros((len(found), count, 6), np.float32)
    rows[..., 0] = np.nan
    for row, regions in zip(rows, found, strict=True):
        row[: len(regions)] = np.array(regions, np.float32).reshape(-1, 6)
    rotated = rows[..., 1:]
    corners = corners_of_rotated(rotated.reshape(-1, 5)).reshape(*rows.shape[:2], 4, 2)
    boxes = np.concatenate([corners.min(axis=2), corners.max(axis=2)], axis=2).astype(np.float32)
    return {
        "boxes": boxes,
        "scores": rows[..., 0],
        "class_ids": np.zeros(rows.shape[:2], np.int32),
        "rotated_boxes": rotated,
    }


def _regions(plane: NDArray[np.uint8], stride: float, unclip: float) -> list[tuple[float, ...]]:
    """Return the score, center x and y, width, height, and angle of each region of a map [h, w], in input pixels."""
    from vision_infer.core.opencv import cv2

    above = (plane > _REGION * 255).astype(np.uint8)
    contours, _ = cv2.findContours(above, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    found: list[tuple[float, ...]] = []
    for contour in contours:
        if len(contour) < 3:  # a line or a point
            continue
        # Points are the centers of elements: their outermost edges are half an element further out.
        (x, y), (width, height), angle = cv2.minAreaRect(contour)
        x, y, width, height, angle = x + 0.5, y + 0.5, width + 1, height + 1, radians(angle)
        if min(width, height) < _MIN_SIDE:
            continue
        if width < height:
            width, height, angle = height, width, angle + pi / 2
        left, top, columns, rows = cv2.boundingRect(contour)
        inside = np.zeros((rows, columns), np.uint8)
        cv2.drawContours(inside, [contour], 0, 1, cv2.FILLED, offset=(-left, -top))
        score = cv2.mean(plane[top : top + rows, left : left + columns], inside)[0] / 255
        further = 2 * unclip * width * height / (2 * (width + height))
        pixels = ((value * stride) for value in (x, y, width + further, height + further))
        found.append((score, *pixels, (angle + pi / 2) % pi - pi / 2))
        if len(found) == _MAX_REGIONS:
            break
    return found


def suppress_rotated(rotated: NDArray[np.float32], boxes: NDArray[np.float32], groups: NDArray[np.intp], iou: float) -> list[int]:
    """Run greedy NMS with the exact overlap of rotated boxes.

    Args:
        rotated: The rotated boxes, float32 [N, 5], best score first.
        boxes: Boxes that enclose them, float32 [N, 4] xyxy; only pairs whose enclosing boxes overlap are compared.
        groups: The group of each box; only boxes of one group are compared.
        iou: The IoU threshold.

    Returns:
        The indices of the remaining boxes, best score first.
    """
    x1, y1, x2, y2 = boxes.T
    corners, area = corners_of_rotated(rotated), (rotated[:, 2].astype(np.float64) * rotated[:, 3])
    rest = np.arange(len(rotated))
    kept: list[int] = []
    while len(rest):
        winner, rest = int(rest[0]), rest[1:]
        kept.append(winner)
        near = (x1[rest] < x2[winner]) & (x2[rest] > x1[winner]) & (y1[rest] < y2[winner]) & (y2[rest] > y1[winner])
        near &= groups[rest] == groups[winner]
        rivals = rest[near]
        if len(rivals):
            inter = intersections(corners[winner], corners[rivals])
            near[near] = inter > iou * (area[rivals] + area[winner] - inter)
            rest = rest[~near]
    return kept


def intersections(one: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the area in which a rectangle [4, 2] overlaps each of others [N, 4, 2], pixels².

    The overlap of two rectangles is the convex polygon of the corners of each that are inside the other one, and of the points
    at which their edges cross.
    """
    ones = np.broadcast_to(one, others.shape)
    crossings, crossed = _crossings(ones, others)
    points = np.concatenate([ones, others, crossings], axis=1)
    valid = np.concatenate([_inside(ones, others), _inside(others, ones), crossed], axis=1)
    some = valid.any(axis=1)
    first = points[np.arange(len(points)), valid.argmax(axis=1)]
    points = np.where(valid[..., None], points, first[:, None]) - first[:, None]  # a point that is repeated adds no area
    center = (points * valid[..., None]).sum(axis=1) / np.maximum(valid.sum(axis=1), 1)[:, None]
    angle = np.arctan2(points[..., 1] - center[:, 1, None], points[..., 0] - center[:, 0, None])
    around = np.take_along_axis(points, angle.argsort(axis=1)[..., None], axis=1)
    following = np.roll(around, -1, axis=1)
    area = np.abs((around[..., 0] * following[..., 1] - around[..., 1] * following[..., 0]).sum(axis=1)) / 2
    return np.where(some, area, 0.0)


def _inside(points: NDArray[np.float64], rectangles: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether points [N, P, 2] are inside the rectangle [N, 4, 2] of the same row, or on its edge, bool [N, P]."""
    inside = np.ones(points.shape[:2], np.bool_)
    for start, end in ((0, 1), (0, 3)):
        side = rectangles[:, end] - rectangles[:, start]
        length = (side * side).sum(axis=1)[:, None]
        along = ((points - rectangles[:, start, None]) * side[:, None]).sum(axis=2)
        inside &= (along >= -_NEAR * length) & (along <= (1 + _NEAR) * length)
    return inside


def _crossings(ones: NDArray[np.float64], others: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the points at which each pair of edges crosses, [N, 16, 2], and whether they do, [N, 16]; not for parallel edges."""
    begin_a, begin_b = ones[:, :, None], others[:, None]
    side_a, side_b = (np.roll(corners, -1, axis=1) - corners for corners in (ones, others))
    side_a, side_b = side_a[:, :, None], side_b[:, None]
    scale = _cross(side_a, side_b)
    apart = begin_b - begin_a
    lengths = np.hypot(side_a[..., 0], side_a[..., 1]) * np.hypot(side_b[..., 0], side_b[..., 1])
    parallel = np.abs(scale) <= _NEAR * lengths
    scale = np.where(parallel, 1.0, scale)
    at_a, at_b = _cross(apart, side_b) / scale, _cross(apart, side_a) / scale
    crossed = ~parallel & (at_a >= 0) & (at_a <= 1) & (at_b >= 0) & (at_b <= 1)
    points = begin_a + at_a[..., None] * side_a
    return points.reshape(len(ones), 16, 2), crossed.reshape(len(ones), 16)


def _cross(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    product: NDArray[np.float64] = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return product
