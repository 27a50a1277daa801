"""Filters detections by size and position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vision_infer.config.region import Region
from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Size

_SIZES_KEPT = 64
"""The number of image sizes for which polygons are cached in pixels; a folder of images may have any number of sizes."""


class Polygons:
    """A set of polygons for point tests. A point on an edge is inside; for self-intersecting polygons, the even-odd rule applies.

    Args:
        polygons: The polygons, float64 [corners, 2] each, x and y; at least one, with at least three corners each.
    """

    def __init__(self, polygons: Sequence[NDArray[np.float64]]) -> None:
        if not polygons or any(polygon.ndim != 2 or polygon.shape[1] != 2 or len(polygon) < 3 for polygon in polygons):
            raise ValueError(f"polygons must be [3 or more, 2] each, got {[polygon.shape for polygon in polygons]}")
        begins = np.concatenate(polygons)
        ends = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons])
        self._first = np.cumsum([0, *(len(polygon) for polygon in polygons[:-1])])
        self._x, self._y = begins.T.copy()
        self._across, self._down = (ends - begins).T.copy()
        self._end_y = ends[:, 1].copy()
        self._low, self._high = np.minimum(begins, ends), np.maximum(begins, ends)

    def contain(self, points: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return whether each point is in any of the polygons.

        Args:
            points: The points, [N, 2], x and y, in the units of the polygons.

        Returns:
            bool [N].
        """
        x, y = points[:, :1].astype(np.float64), points[:, 1:].astype(np.float64)
        # The side of each edge, without a division: no special cases for steep and flat edges, and exact for whole pixels.
        side = self._across * (y - self._y) - self._down * (x - self._x)
        above = self._y > y
        crossed = (above != (self._end_y > y)) & ((side > 0) == ~above)
        odd: NDArray[np.bool_] = np.logical_xor.reduceat(crossed, self._first, axis=1)
        inside: NDArray[np.bool_] = np.logical_or.reduce(odd, axis=1)
        touching = side == 0
        if touching.any():
            between = (x >= self._low[:, 0]) & (x <= self._high[:, 0]) & (y >= self._low[:, 1]) & (y <= self._high[:, 1])
            inside |= (touching & between).any(axis=1)
        return inside


class Filter:
    """Drops detections that are too small or outside the region. For one stream; not thread-safe.

    Args:
        min_size: The minimum width and height of a box, source pixels.
        region: The region in which detections count; None: everywhere.
    """

    def __init__(self, min_size: float, region: Region | None) -> None:
        self._min_size = min_size
        self._region = None if region is None or region.everywhere else region
        self._by_size: dict[Size, tuple[Polygons | None, Polygons | None]] = {}

    def __call__(self, detections: Detections, size: Size) -> Detections:
        """Return the detections that count, in the same order.

        Args:
            detections: The detections, with boxes in source pixels.
            size: The size of the source image, pixels.
        """
        if not len(detections):
            return detections
        boxes = detections.boxes
        keep = np.ones(len(boxes), np.bool_)
        if self._min_size > 0:
            keep &= (boxes[:, 2:] - boxes[:, :2] >= self._min_size).all(axis=1)
        if self._region is not None:
            look, ignore = self._polygons(self._region, size)
            points = anchors(boxes, self._region.anchor == "center")
            if look is not None:
                keep &= look.contain(points)
            if ignore is not None:
                keep &= ~ignore.contain(points)
        return detections if keep.all() else detections[keep]

    def _polygons(self, region: Region, size: Size) -> tuple[Polygons | None, Polygons | None]:
        found = self._by_size.get(size)
        if found is None:
            unit = (size.width, size.height) if region.units == "relative" else (1.0, 1.0)
            look, ignore = ([np.array(polygon) * unit for polygon in polygons] for polygons in (region.look, region.ignore))
            if len(self._by_size) >= _SIZES_KEPT:
                self._by_size.clear()
            found = self._by_size[size] = (Polygons(look) if look else None, Polygons(ignore) if ignore else None)
        return found


def anchors(boxes: NDArray[np.float32], center: bool) -> NDArray[np.float64]:
    """Return the points that determine the position of boxes.

    Args:
        boxes: The boxes, float32 [N, 4] xyxy, pixels.
        center: Whether to use the center; otherwise the middle of the lower edge, where an object touches the ground.

    Returns:
        float64 [N, 2].
    """
    x = (boxes[:, 0].astype(np.float64) + boxes[:, 2]) / 2
    y = (boxes[:, 1].astype(np.float64) + boxes[:, 3]) / 2 if center else boxes[:, 3].astype(np.float64)
    return np.stack((x, y), axis=1)
