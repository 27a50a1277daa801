"""Tiles: parts of a frame that are inferred each as an image, so that small objects of a large frame are found.

The detections of the tiles are joined to those of the frame. Tiles overlap, so an object in the overlap has a box in each of
them, and an object at the border of a tile may be cut there. In the overlap of two tiles, the boxes of one object are the same,
also if one of them is cut: so boxes are compared there. The best pairs are joined first, and an object gets at most one box of
each tile. Of its boxes, one that is not cut remains; if all are cut, the one around them all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.matching import box_overlap, same_object
from vision_infer.analyze.similar import Groups, group_numbers
from vision_infer.config.region import Region
from vision_infer.config.stream_policy import MAX_TILES, TileSettings
from vision_infer.core.details import Details, Keypoints, Masks, RotatedBoxes
from vision_infer.core.detections import Detections
from vision_infer.core.errors import UsageError
from vision_infer.core.geometry import Size, Tile

REGION_MARGIN = 0.25
"""The part of the width and height of a region's rectangle that is inferred around it, on each side: an object inside the region
extends beyond it."""
_SIZES_KEPT = 64
"""The number of image sizes for which tiles are kept; a folder of images may have any number of sizes."""
_CUT = 0.01
"""A box that is nearer to the edge of its tile than this part of the tile's side, or two pixels, may be cut there."""


class Tiling:
    """Cuts images into tiles. Not thread-safe.

    Args:
        settings: The tiles; None: one for the whole region.
        region: The region whose rectangle is cut, with a margin; None: the whole image.
    """

    def __init__(self, settings: TileSettings | None, region: Region | None) -> None:
        self._settings = settings
        self._region = region
        self._by_size: dict[Size, tuple[Tile, ...]] = {}

    @classmethod
    def made(cls, settings: TileSettings | None, region: Region | None) -> Tiling | None:
        """Return the tiling of these settings; None if images are inferred whole."""
        return None if settings is None and (region is None or not region.look) else cls(settings, region)

    def of(self, image: Size) -> tuple[Tile, ...]:
        """Return the tiles of an image: row by row, then the whole; empty if it is inferred as it is.

        Raises:
            UsageError: The tiles are larger than the image, or there are more than ``MAX_TILES``.
        """
        tiles = self._by_size.get(image)
        if tiles is None:
            if len(self._by_size) >= _SIZES_KEPT:
                self._by_size.clear()
            tiles = self._by_size[image] = self._cut(image)
        return tiles

    def _cut(self, image: Size) -> tuple[Tile, ...]:
        area, settings = self._area(image), self._settings
        if settings is None:
            return () if area.size == image else (area,)
        size, where = settings.size, "the region" if area.size != image else "the image"
        if size is not None and size > max(area.size.width, area.size.height):
            raise UsageError(
                f"tiles of {size} pixels are larger than {where}, {area.size}", "Use smaller tiles, or leave them out."
            )
        columns = _spread(area.left, area.size.width, size, settings.columns, settings.overlap)
        rows = _spread(area.top, area.size.height, size, settings.rows, settings.overlap)
        count = len(rows) * len(columns) + settings.whole
        if count > MAX_TILES:
            what = f"tiles of {size} pixels with an overlap of {settings.overlap:g} are {count} for {where}, {area.size}"
            raise UsageError(f"{what}; the maximum is {MAX_TILES}", "Use larger tiles or less overlap.")
        tiles = [Tile(x, y, Size(right - x, bottom - y)) for y, bottom in rows for x, right in columns]
        if len(tiles) == 1:
            return () if area.size == image else (area,)
        return (*tiles, area) if settings.whole else tuple(tiles)

    def _area(self, image: Size) -> Tile:
        """Return the rectangle of the region with its margin; the whole image without a region."""
        region = self._region
        if region is None or not region.look:
            return Tile(0, 0, image)
        unit = (image.width, image.height) if region.units == "relative" else (1, 1)
        corners = np.concatenate([np.array(polygon, np.float64) for polygon in region.look]) * unit
        low, high = corners.min(axis=0), corners.max(axis=0)
        margin = (high - low) * REGION_MARGIN
        left, top = (max(0, int(edge) & ~1) for edge in np.floor(low - margin))
        right, bottom = (int(edge) for edge in np.minimum(np.ceil(high + margin), (image.width, image.height)))
        if right - left < 2 or bottom - top < 2:
            raise UsageError(f"the region is outside of the image, {image}", "Correct its polygons, or leave out crop_region.")
        return Tile(left, top, Size(right - left, bottom - top))


def _spread(start: int, length: int, size: int | None, count: int | None, overlap: float) -> list[tuple[int, int]]:
    """Return the first and the last edge of tiles along one axis, evenly spread. They begin at even pixels, as chroma does.

    Args:
        start: The first pixel, even.
        length: The number of pixels.
        size: The length of a tile; None: that of ``count`` tiles.
        count: The number of tiles; None: as many as needed.
        overlap: The minimum overlap of neighbors, as a part of a tile.
    """
    if size is None:
        assert count is not None
        size = min(length, math.ceil(length / (count - (count - 1) * overlap)) + 1)  # one more, as edges are rounded
    else:
        size = min(length, size)
        count = 1 + max(0, math.ceil((length - size) / (size * (1 - overlap)) - 1e-9))
    if count == 1:
        return [(start, start + length)]
    begins = [round(number * (length - size) / (count - 1)) & ~1 for number in range(count)]
    return [(start + begin, start + (begin + size if begin != begins[-1] else length)) for begin in begins]


def join_tiles(found: Sequence[Detections], tiles: Sequence[Tile], image: Size, groups: Groups) -> Detections:
    """Return the detections of an image from those of its tiles, best score first.

    Args:
        found: The detections of each tile, in its pixels.
        tiles: The tiles.
        image: The size of the image.
        groups: The groups of classes; boxes of one group may be of one object.
    """
    parts = [(detections, tile) for detections, tile in zip(found, tiles, strict=True) if len(detections)]
    if not parts:
        return found[0]
    whole = Detections(
        np.concatenate([one.boxes + np.array([tile.left, tile.top] * 2, np.float32) for one, tile in parts]),
        np.concatenate([one.scores for one, _ in parts]),
        np.concatenate([one.class_ids for one, _ in parts]),
        found[0].label_names,
        details=_details_in_image(parts, image),
    )
    if len(parts) > 1:
        number_of = np.repeat(np.arange(len(parts)), [len(one) for one, _ in parts])
        whole = _merged(whole, number_of, [tile for _, tile in parts], image, groups)
    return whole[np.argsort(-whole.scores, kind="stable")]


def _details_in_image(parts: Sequence[tuple[Detections, Tile]], image: Size) -> Details | None:
    """Return the details of the detections of all tiles, in pixels of the image."""
    first = parts[0][0].details
    if first is None:
        return None
    details = [(one.details, tile.left, tile.top) for one, tile in parts]
    if isinstance(first, Keypoints):
        points = [one.points + np.array([x, y, 0], np.float32) for one, x, y in details if isinstance(one, Keypoints)]
        return Keypoints(np.concatenate(points), first.layout)
    if isinstance(first, RotatedBoxes):
        values = [one.values + np.array([x, y, 0, 0, 0], np.float32) for one, x, y in details if isinstance(one, RotatedBoxes)]
        return RotatedBoxes(np.concatenate(values))
    masks = [(one, np.array([x, y, x, y])) for one, x, y in details if isinstance(one, Masks)]
    return Masks(
        image,
        np.concatenate([(one.boxes + offset).astype(np.float32) for one, offset in masks]),
        np.concatenate([one.places + offset for one, offset in masks]),
        tuple(logits for one, _ in masks for logits in one.logits),
    )


def _merged(whole: Detections, number_of: NDArray[np.intp], tiles: Sequence[Tile], image: Size, groups: Groups) -> Detections:
    """Join the boxes of one object, at most one of each tile, the most similar pairs first.

    Args:
        whole: The detections of all tiles, in pixels of the image.
        number_of: The number of the tile of each, intp [N].
        tiles: The tiles.
        image: The size of the image.
        groups: The groups of classes.
    """
    kinds = np.array(group_numbers(whole.class_ids.tolist(), groups), np.int64)
    edges = np.array([[tile.left, tile.top, tile.right, tile.bottom] for tile in tiles], np.float64)
    reach = np.maximum(2.0, _CUT * (edges[:, 2:] - edges[:, :2]))[:, [0, 1, 0, 1]]
    inner = edges != np.array([0, 0, image.width, image.height])
    near = np.abs(whole.boxes - edges[number_of]) <= reach[number_of]
    cut = (near & inner[number_of]).any(axis=1)
    clusters = [{index} for index in range(len(number_of))]
    for _, one, other in _pairs(whole.boxes, number_of, kinds, edges, near):
        mine, others = clusters[one], clusters[other]
        if not {number_of[index] for index in mine} & {number_of[index] for index in others}:
            mine |= others
            for index in others:
                clusters[index] = mine
    boxes, scores, class_ids = whole.boxes.copy(), whole.scores.copy(), whole.class_ids.copy()
    kept: list[int] = []
    for cluster in {id(cluster): cluster for cluster in clusters}.values():
        members = sorted(cluster, key=lambda index: -float(whole.scores[index]))
        uncut = [index for index in members if not cut[index]]
        sizes = (boxes[members, 2:] - boxes[members, :2]).prod(axis=1)
        best = uncut[0] if uncut else members[int(sizes.argmax())]
        if not uncut and whole.details is None:  # details are those of one box, and stay inside it
            boxes[best] = *boxes[members, :2].min(axis=0), *boxes[members, 2:].max(axis=0)
        scores[best], class_ids[best] = whole.scores[members[0]], whole.class_ids[members[0]]
        kept.append(best)
    joined = Detections(boxes, scores, class_ids, whole.label_names, details=whole.details)
    return joined[np.array(kept, np.intp)]


def _pairs(
    boxes: NDArray[np.float32],
    number_of: NDArray[np.intp],
    kinds: NDArray[np.int64],
    edges: NDArray[np.float64],
    near: NDArray[np.bool_],
) -> list[tuple[float, int, int]]:
    """Return the pairs of boxes of two tiles that are of one object: the IoU and the indices, the most similar first.

    Args:
        boxes: The boxes, float32 [N, 4] xyxy.
        number_of: The tile of each, intp [N].
        kinds: The group of the class of each, int64 [N].
        edges: The edges of the tiles, float64 [T, 4] xyxy.
        near: Whether each edge of a box is near that of its tile, bool [N, 4].
    """
    pairs: list[tuple[float, int, int]] = []
    bounds = np.searchsorted(number_of, np.arange(len(edges) + 1)).tolist()
    corners = edges.tolist()
    for a, b in combinations(range(len(edges)), 2):
        low = max(corners[a][0], corners[b][0]), max(corners[a][1], corners[b][1])
        high = min(corners[a][2], corners[b][2]), min(corners[a][3], corners[b][3])
        if low[0] >= high[0] or low[1] >= high[1]:
            continue
        mine, my_part = _in_strip(boxes, bounds[a], bounds[a + 1], (*low, *high))
        others, their_part = _in_strip(boxes, bounds[b], bounds[b + 1], (*low, *high))
        if not len(mine) or not len(others):
            continue
        cut = _cut_at(near[mine], edges[a], edges[b])[:, None] | _cut_at(near[others], edges[b], edges[a])
        same = same_object(boxes[mine], boxes[others]) | (cut & same_object(my_part, their_part))
        same &= kinds[mine][:, None] == kinds[others]
        overlap = box_overlap(my_part, their_part)
        pairs += [(float(overlap[i, j]), int(mine[i]), int(others[j])) for i, j in np.argwhere(same)]
    return sorted(pairs, key=lambda pair: -pair[0])


def _in_strip(
    boxes: NDArray[np.float32], start: int, stop: int, strip: tuple[float, float, float, float]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the indices of the boxes from ``start`` to ``stop`` that extend into a rectangle, xyxy, and their parts in it."""
    clipped = np.clip(boxes[start:stop], np.array(strip[:2] * 2, np.float32), np.array(strip[2:] * 2, np.float32))
    shared = np.flatnonzero((clipped[:, 2:] > clipped[:, :2]).all(axis=1))
    return shared + start, clipped[shared]


def _cut_at(near: NDArray[np.bool_], edges: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether each box ends at an edge of its tile, xyxy, that is inside another tile, bool [N]."""
    inside = (edges > other[[0, 1, 0, 1]]) & (edges < other[[2, 3, 2, 3]])
    cut: NDArray[np.bool_] = np.logical_or.reduce(near & inside, axis=1)
    return cut
