"""Which frames of a stream show a change: those without one need not be inferred.

A small luma picture is cut into blocks of 4 × 4 samples. The mean of each is compared with a background, which follows the
picture slowly, and with the block's own noise: the median of how far it usually is from the background, so that grain, rain and
the shimmer of a codec are measured, not guessed, and a rare large difference does not count as noise. Where a block is farther
off than its noise explains, and much farther than most others in the frame, something has changed: what takes hold of the whole
picture a little, as each key frame of a codec and a passing cloud do, is none.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

BLOCK = 4
"""samples in each direction"""
MIN_CHANGE = 2.5
"""luma levels, of 255; a block whose mean changes by less has not changed, however quiet the picture is"""
DEVIATIONS = 8.0
"""standard deviations of a block's noise that are no change: there are a thousand blocks, and they are asked at every frame"""
_OF_MEDIAN = 1.4826
"""standard deviation of what is normally distributed, by the median of its absolute deviations"""
BACKGROUND_S = 5.0
"""in so long the background has taken over two thirds of a change that noise explains"""
_PASSING = 0.5
"""of any other so much more slowly, that what only passes leaves no trace"""
_NOISE_S = 8.0
_RESTLESS = 0.05
"""what moves becomes noise so much more slowly: a tree does in some minutes"""
_MIN_NOISE, _MAX_NOISE = 0.05, 9.0
LEARN_NS = 2_000_000_000
"""a new picture is looked at for so long before any of its frames is left out"""
HOLD_NS = 1_000_000_000
"""frames are wanted for so long after the last change, so that tracks come to their end"""
MAX_ABOVE = 10.0
"""so many times as far from the background as half of the blocks are: less is no change, as long as it is little"""
LITTLE = 12.0
"""luma levels; what is farther is a change however many blocks are: then it is the camera that moves"""
ANOTHER = 12.0
"""where half of the blocks are as far from it, luma levels, and farther than their noise explains, it is another picture: the
light was switched, or the camera was turned"""


class MotionGate:
    """Says of each frame of one stream whether it is to be inferred. Time is passed in; not for several threads at once.

    Args:
        heartbeat_s: a frame is wanted at least so often, whatever is seen, seconds.
        hold_ns: frames are wanted for so long after the last change.
    """

    def __init__(self, heartbeat_s: float, hold_ns: int = HOLD_NS) -> None:
        if not 0 < heartbeat_s < math.inf:
            raise ValueError(f"heartbeat_s must be a number above 0, got {heartbeat_s}")
        self._heartbeat_ns = round(heartbeat_s * 1e9)
        self._hold_ns = hold_ns
        self._background: NDArray[np.float32] = np.zeros((0, 0), np.float32)
        self._noise = self._background
        self._seen = 0
        self._began_ns = self._last_ns = self._wanted_ns = self._open_until_ns = 0

    def wants(self, luma: NDArray[np.uint8], time_ns: int, counted: NDArray[np.bool_] | None = None) -> bool:
        """Whether the frame is to be inferred; each frame is asked about once, in order.

        Args:
            luma: uint8 [H, W], the picture made small.
            time_ns: presentation or capture time, nanoseconds.
            counted: bool, of the shape of :func:`grid`, the blocks in which a change counts; None: all.
        """
        blocks = means(luma)
        if not self._seen or blocks.shape != self._background.shape or time_ns < self._last_ns:
            self._begin(blocks, time_ns)
        elif self._changed(blocks, time_ns, counted):
            self._open_until_ns = time_ns + self._hold_ns
        self._last_ns = time_ns
        due = time_ns - self._wanted_ns >= self._heartbeat_ns
        wanted = due or time_ns <= self._open_until_ns or time_ns - self._began_ns < LEARN_NS
        if wanted:
            self._wanted_ns = time_ns
        return wanted

    def _begin(self, blocks: NDArray[np.float32], time_ns: int) -> None:
        """It is another picture."""
        self._background = blocks
        self._noise = np.full_like(blocks, _MIN_NOISE)
        self._seen = 1
        self._began_ns = time_ns

    def _changed(self, blocks: NDArray[np.float32], time_ns: int, counted: NDArray[np.bool_] | None) -> bool:
        """Whether anything counted has changed; takes the picture over into background and noise."""
        elapsed_s = (time_ns - self._last_ns) / 1e9
        off = blocks - self._background
        far = np.abs(off)
        if self._seen == 1:  # until a block's own noise is known, it is that of the picture
            self._noise[:] = min(max(_median(far), _MIN_NOISE), _MAX_NOISE)
        noise = self._noise
        explained = noise * np.float32(DEVIATIONS * _OF_MEDIAN)
        most = _median(far)
        changed = far > np.maximum(explained, np.float32(max(MIN_CHANGE, min(MAX_ABOVE * most, LITTLE))))
        moved = int(np.count_nonzero(changed))
        learning = time_ns - self._began_ns < LEARN_NS
        if not learning and most > ANOTHER and np.count_nonzero(far > explained) * 2 > far.size:
            self._begin(blocks, time_ns)
            return True
        self._seen += 1
        follow, adapt = -math.expm1(-elapsed_s / BACKGROUND_S), -math.expm1(-elapsed_s / _NOISE_S)
        if learning:
            follow, adapt = max(follow, 1 / self._seen), max(adapt, 0.1)
        # A step up and a step down of the same size come to rest at the median.
        steps = np.where(far > noise, np.float32(1 + adapt), np.float32(1 - adapt))
        if moved:
            steps[changed] = 1 + adapt * _RESTLESS
        noise *= steps
        np.maximum(noise, np.float32(_MIN_NOISE), out=noise)
        np.minimum(noise, np.float32(_MAX_NOISE), out=noise)
        off *= np.float32(follow)
        if moved and not learning:
            off[changed] *= np.float32(_PASSING)
        self._background += off
        if not moved:
            return False
        if counted is not None:
            changed &= counted
        return bool(changed.any())


def _median(values: NDArray[np.float32]) -> float:
    """The median, or the value above it; at a tenth of what NumPy's own costs."""
    middle = values.size // 2
    return float(np.partition(values, middle, axis=None)[middle])


def grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the blocks of a luma picture of this size."""
    return max(1, height // BLOCK), max(1, width // BLOCK)


def means(luma: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The mean of each block, float32 of the shape of :func:`grid`; what is left over at the edges belongs to none."""
    height, width = luma.shape
    if height < BLOCK or width < BLOCK:
        return np.full((1, 1) if height < BLOCK and width < BLOCK else grid(height, width), luma.mean(), np.float32)
    rows, columns = grid(height, width)
    samples = luma[: rows * BLOCK, : columns * BLOCK].astype(np.uint16)
    sums = (
        samples[0::BLOCK] + samples[1::BLOCK] + samples[2::BLOCK] + samples[3::BLOCK]
    )  # whole rows first: they are long, and quick
    whole = sums[:, 0::BLOCK] + sums[:, 1::BLOCK] + sums[:, 2::BLOCK] + sums[:, 3::BLOCK]
    blocks: NDArray[np.float32] = whole * np.float32(1 / BLOCK**2)
    return blocks
