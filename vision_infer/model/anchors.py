"""Default boxes, anchors and points of torchvision's detectors for an input size, and the decoding of boxes against them.

Liu et al., SSD, ECCV 2016; Lin et al., RetinaNet, ICCV 2017; Tian et al., FCOS, ICCV 2019; the numbers are those of torchvision
0.28.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.geometry import Size
from vision_infer.model.decode import TopPairs, columns, corners, gather_rows
from vision_infer.model.graph import GraphBuilder

LARGEST_GROWTH = math.log(1000 / 16)
"""The maximum logarithm of the ratio of a box's side to its anchor's; larger values are clipped."""
Grids = tuple[tuple[int, int], ...]
"""Rows and columns of each level, finest first."""


def halving_grids(size: Size, first: int, levels: int) -> Grids:
    """Return the grids of a model whose convolutions each halve the previous grid, rounded up.

    Args:
        size: The input size.
        first: The stride of the first level.
        levels: The number of levels.
    """
    rows, wide = math.ceil(size.height / first), math.ceil(size.width / first)
    found = []
    for _ in range(levels):
        found.append((rows, wide))
        rows, wide = math.ceil(rows / 2), math.ceil(wide / 2)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class SsdLayout:
    """The positions of the default boxes of an SSD."""

    name: str
    grids: Grids
    ratios: tuple[tuple[float, ...], ...]
    """The aspect ratios of each level, in addition to 1."""
    scales: tuple[float, ...]
    """The scales of each level and one more, as fractions of the input."""
    steps: tuple[int, ...] = ()
    """The distances between cells in pixels; empty: the input is divided evenly."""

    @property
    def count(self) -> int:
        """The number of default boxes."""
        return sum(rows * wide * (2 + 2 * len(ratios)) for (rows, wide), ratios in zip(self.grids, self.ratios, strict=True))


def ssd_layouts(size: Size) -> tuple[SsdLayout, ...]:
    """Return torchvision's layouts for an input size: SSDLite for any, SSD300 for its own."""
    even = tuple(0.2 + 0.75 * level / 5 for level in range(6))
    found = [SsdLayout("SSDLite", halving_grids(size, 16, 6), ((2.0, 3.0),) * 6, (*even, 1.0))]
    if size == Size(300, 300):
        sides = (38, 19, 10, 5, 3, 1)
        ratios = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,))
        scales = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
        found.append(SsdLayout("SSD300", tuple((side, side) for side in sides), ratios, scales, (8, 16, 32, 64, 100, 300)))
    return tuple(found)


def ssd_boxes(size: Size, layout: SsdLayout) -> NDArray[np.float64]:
    """Return the default boxes, float64 [N, 4], center, width and height in input pixels."""
    found = []
    for level, (rows, wide) in enumerate(layout.grids):
        scale, next_scale = layout.scales[level], layout.scales[level + 1]
        shapes = [(scale, scale), (math.sqrt(scale * next_scale),) * 2]
        for ratio in layout.ratios[level]:
            long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            shapes += [(long, short), (short, long)]
        sides = np.clip(np.array(shapes), 0, 1) * (size.width, size.height)
        step = (layout.steps[level],) * 2 if layout.steps else (size.width / wide, size.height / rows)
        row, column = np.indices((rows, wide))
        centers = (np.stack([column.ravel(), row.ravel()], axis=1) + 0.5) * step
        found.append(np.concatenate([np.repeat(centers, len(sides), axis=0), np.tile(sides, (rows * wide, 1))], axis=1))
    return np.concatenate(found)


def retina_anchors(size: Size, grids: Grids) -> NDArray[np.float64]:
    """Return RetinaNet's anchors, nine in each cell, float64 [N, 4], center, width and height in input pixels."""
    found = []
    for level, (rows, wide) in enumerate(grids):
        smallest = 32 * 2**level
        scales = np.array([smallest, int(smallest * 2 ** (1 / 3)), int(smallest * 2 ** (2 / 3))], np.float64)
        tall = np.sqrt(np.array([0.5, 1.0, 2.0]))
        half_high, half_wide = (np.outer(side, scales).ravel() / 2 for side in (tall, 1 / tall))
        sides = 2 * np.stack([np.round(half_wide), np.round(half_high)], axis=1)
        centers = _corner_points(size, rows, wide)
        found.append(np.concatenate([np.repeat(centers, len(sides), axis=0), np.tile(sides, (rows * wide, 1))], axis=1))
    return np.concatenate(found)


def fcos_points(size: Size, grids: Grids) -> NDArray[np.float64]:
    """Return FCOS's points, one in each cell, and the units of their distances, float64 [N, 3], x, y and unit in input pixels."""
    found = []
    for level, (rows, wide) in enumerate(grids):
        points = _corner_points(size, rows, wide)
        found.append(np.concatenate([points, np.full((len(points), 1), 8 * 2**level)], axis=1))
    return np.concatenate(found)


def _corner_points(size: Size, rows: int, wide: int) -> NDArray[np.float64]:
    """Return the centers of a cell's anchors, which torchvision places on the upper left corner of the cell."""
    row, column = np.indices((rows, wide))
    return np.stack([column.ravel() * (size.width // wide), row.ravel() * (size.height // rows)], axis=1).astype(np.float64)


def decode_deltas(
    builder: GraphBuilder, deltas: str, anchors: NDArray[np.float64], weights: tuple[float, float], top: TopPairs
) -> str:
    """Decode boxes from their differences to anchors: xy = anchor + dxy / weight · side, wh = side · exp(dwh / weight).

    Args:
        builder: Takes the nodes.
        deltas: The differences, float32 [B, N, 4].
        anchors: The anchors, [N, 4], center, width and height in input pixels.
        weights: The weights of the center and of the sides.
        top: The anchors to decode.

    Returns:
        The name of a tensor float32 [B, K, 4], xyxy in input pixels.
    """
    rows = gather_rows(builder, deltas, top.anchors, "deltas_top")
    places = builder.constant("anchor_centres", anchors[:, :2].astype(np.float32))
    sides = builder.constant("anchor_sides", anchors[:, 2:].astype(np.float32))
    place = builder.add("Gather", places, top.anchors, name="anchor_centres_top", axis=0)
    side = builder.add("Gather", sides, top.anchors, name="anchor_sides_top", axis=0)
    move = _divided(builder, columns(builder, rows, 0, 2, "dxy"), weights[0], "dxy_scaled")
    growth = _divided(builder, columns(builder, rows, 2, 4, "dwh"), weights[1], "dwh_scaled")
    most = builder.constant("largest_growth", np.array(LARGEST_GROWTH, np.float32))
    growth = builder.add("Exp", builder.add("Min", growth, most, name="dwh_cut"), name="dwh_exp")
    center = builder.add("Add", builder.add("Mul", move, side, name="xy_move"), place, name="xy")
    return corners(builder, center, builder.add("Mul", growth, side, name="wh"))


def _divided(builder: GraphBuilder, tensor: str, weight: float, name: str) -> str:
    if weight == 1:
        return tensor
    return builder.add("Div", tensor, builder.constant(f"{name}_weight", np.array(weight, np.float32)), name=name)
