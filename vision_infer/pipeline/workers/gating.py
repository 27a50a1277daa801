"""The motion gate of one stream: which images it compares, and where in them a change counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.motion_gate import BLOCK, MotionGate, grid
from vision_infer.analyze.region import Polygons
from vision_infer.config.region import Region
from vision_infer.core.geometry import Size
from vision_infer.core.image import Image
from vision_infer.pipeline.commands import AddStream

MAX_SAMPLES = 160
"""The maximum number of samples across an image."""
LOOK_NS = 60_000_000
"""The minimum time between two comparisons; a frame in between gets the same decision as the frame before."""


class StreamGate:
    """Decides whether to infer each frame of a stream; on the stream's own thread.

    Args:
        heartbeat_s: The maximum time between two inferred frames, seconds.
        region: The region in which detections count; a change elsewhere does not. None: everywhere.
    """

    def __init__(self, heartbeat_s: float, region: Region | None) -> None:
        self._heartbeat_s = heartbeat_s
        self._gate = MotionGate(heartbeat_s)
        self._size: Size | None = None
        self._looked_ns = 0
        self._wanted = True
        self._region = None if region is None or region.everywhere else region
        self._counted: tuple[Size, NDArray[np.bool_]] | None = None

    def wants(self, image: Image, time_ns: int) -> bool:
        """Return whether to infer the frame. An image that cannot be compared is always inferred."""
        read_luma = getattr(image, "luma", None)  # of a video; isinstance() with a Protocol would take 4 µs
        if read_luma is None:
            return True
        if image.size != self._size:  # reduced images of different sizes may look the same
            self._size, self._gate = image.size, MotionGate(self._heartbeat_s)
        elif 0 <= time_ns - self._looked_ns < LOOK_NS:
            return self._wanted
        luma = read_luma(MAX_SAMPLES)
        counted = self._counted_blocks(self._region, image.size, luma) if self._region else None
        self._looked_ns, self._wanted = time_ns, self._gate.wants(luma, time_ns, counted)
        return self._wanted

    def _counted_blocks(self, region: Region, size: Size, luma: NDArray[np.uint8]) -> NDArray[np.bool_]:
        if self._counted is None or self._counted[0] != size:
            self._counted = (size, counted_blocks(region, size, luma.shape[0], luma.shape[1]))
        return self._counted[1]


def make_gate(command: AddStream) -> StreamGate | None:
    """Make the gate of a command, if it has one."""
    return None if command.policy.gate is None else StreamGate(command.policy.gate_heartbeat_s, command.region)


def counted_blocks(region: Region, size: Size, height: int, width: int) -> NDArray[np.bool_]:
    """Return the blocks in which a change counts.

    A detection is inside the region if the middle of its lower edge is, so an object extends beyond the region: the next
    blocks count too. A block is left out only if all of it is ignored.

    Args:
        region: The region in which detections count.
        size: The size of the source image, pixels.
        height: The height of the reduced luma image, samples.
        width: The width of the reduced luma image, samples.

    Returns:
        bool, in the shape of :func:`vision_infer.analyze.motion_gate.grid`.
    """
    rows, columns = grid(height, width)
    across, down = size.width / width, size.height / height
    y, x = np.mgrid[: rows * BLOCK, : columns * BLOCK].astype(np.float64)
    points = np.stack(((x.ravel() + 0.5) * across, (y.ravel() + 0.5) * down), axis=1)
    unit = (size.width, size.height) if region.units == "relative" else (1.0, 1.0)
    look, ignore = ([np.array(polygon) * unit for polygon in polygons] for polygons in (region.look, region.ignore))

    def blocks(polygons: list[NDArray[np.float64]]) -> NDArray[np.bool_]:
        return Polygons(polygons).contain(points).reshape(rows, BLOCK, columns, BLOCK)

    counted: NDArray[np.bool_] = np.ones((rows, columns), np.bool_)
    if look:
        counted = np.logical_or.reduce(blocks(look), axis=(1, 3))
        corners = np.concatenate(look) / (across * BLOCK, down * BLOCK)  # a polygon may be smaller than a block
        counted[np.clip(corners[:, 1].astype(int), 0, rows - 1), np.clip(corners[:, 0].astype(int), 0, columns - 1)] = True
        counted = _widened(counted)
    if ignore:
        counted &= ~np.logical_and.reduce(blocks(ignore), axis=(1, 3))
    return counted


def _widened(blocks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the blocks and their neighbors."""
    padded = np.pad(blocks, 1)
    rows, columns = blocks.shape
    wider: NDArray[np.bool_] = np.logical_or.reduce([padded[y : y + rows, x : x + columns] for y in range(3) for x in range(3)])
    return wider
