"""The motion gate: frames of a stream without a change need not be inferred.

A small luma image is divided into blocks of 4 × 4 samples. The mean of each is compared with a background, which follows the
image slowly, and with the noise of the block: the median of its usual distance from the background. So grain, rain and codec
flicker are measured, and a rare large difference does not count as noise. A block has changed if its distance exceeds its noise,
and is much larger than that of most other blocks: a small difference in the whole image, as from a key frame or a passing cloud,
is not a change.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

BLOCK = 4
"""The size of a block in each direction, samples."""
MIN_CHANGE = 2.5
"""The minimum change of a block's mean, luma levels of 255, even in a very quiet image."""
DEVIATIONS = 8.0
"""The number of standard deviations of a block's noise that are not a change: a thousand blocks are compared in every frame."""
_OF_MEDIAN = 1.4826
"""The ratio of standard deviation to median absolute deviation of a normal distribution."""
BACKGROUND_S = 5.0
"""The time in which the background follows two thirds of a change within the noise, seconds."""
_PASSING = 0.5
"""The factor by which it follows any other change more slowly, so that a passing object leaves no trace."""
_NOISE_S = 8.0
_RESTLESS = 0.05
"""The factor by which motion becomes noise more slowly: a moving tree does in some minutes."""
_MIN_NOISE, _MAX_NOISE = 0.05, 9.0
LEARN_NS = 2_000_000_000
"""The time for which a new scene is learned before any of its frames is gated, nanoseconds."""
HOLD_NS = 1_000_000_000
"""The time for which frames are inferred after the last change, so that tracks end, nanoseconds."""
MAX_ABOVE = 10.0
"""The multiple of the median distance below which a small distance is not a change."""
SMALL = 12.0
"""The limit of a small distance, luma levels; a larger one is a change in any number of blocks, as when the camera moves."""
NEW_SCENE = 12.0
"""The median distance, luma levels, from which the scene is new, if half of the blocks also exceed their noise: the light was
switched, or the camera was turned."""


class MotionGate:
    """Decides which frames of one stream are inferred. Time is passed in. Not thread-safe.

    Args:
        heartbeat_s: The maximum time between inferred frames, seconds.
        hold_ns: The time for which frames are inferred after the last change, nanoseconds.
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
        """Return whether to infer the frame. Call it once for each frame, in order.

        Args:
            luma: The small luma image, uint8 [H, W].
            time_ns: The presentation or capture time, nanoseconds.
            counted: The blocks in which a change counts, bool, of the shape of :func:`grid`; None: all.
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
        """Begin with a new scene."""
        self._background = blocks
        self._noise = np.full_like(blocks, _MIN_NOISE)
        self._seen = 1
        self._began_ns = time_ns

    def _changed(self, blocks: NDArray[np.float32], time_ns: int, counted: NDArray[np.bool_] | None) -> bool:
        """Return whether a counted block has changed, and update background and noise."""
        elapsed_s = (time_ns - self._last_ns) / 1e9
        off = blocks - self._background
        far = np.abs(off)
        if self._seen == 1:  # until the noise of a block is known, it is that of the image
            self._noise[:] = min(max(_median(far), _MIN_NOISE), _MAX_NOISE)
        # 1. Find the blocks that are farther from the background than their noise and than most other blocks.
        noise = self._noise
        explained = noise * np.float32(DEVIATIONS * _OF_MEDIAN)
        median = _median(far)
        changed = far > np.maximum(explained, np.float32(max(MIN_CHANGE, min(MAX_ABOVE * median, SMALL))))
        moved = int(np.count_nonzero(changed))
        # 2. Begin again if most of the image is different.
        learning = time_ns - self._began_ns < LEARN_NS
        if not learning and median > NEW_SCENE and np.count_nonzero(far > explained) * 2 > far.size:
            self._begin(blocks, time_ns)
            return True
        self._seen += 1
        # 3. Update the noise, faster while learning and hardly in changed blocks.
        follow, adapt = -math.expm1(-elapsed_s / BACKGROUND_S), -math.expm1(-elapsed_s / _NOISE_S)
        if learning:
            follow, adapt = max(follow, 1 / self._seen), max(adapt, 0.1)
        # Steps up and down of the same size converge to the median.
        steps = np.where(far > noise, np.float32(1 + adapt), np.float32(1 - adapt))
        if moved:
            steps[changed] = 1 + adapt * _RESTLESS
        noise *= steps
        np.maximum(noise, np.float32(_MIN_NOISE), out=noise)
        np.minimum(noise, np.float32(_MAX_NOISE), out=noise)
        # 4. Move the background towards the image.
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
    """Return the median, or the value above it, at a tenth of the cost of NumPy's median."""
    middle = values.size // 2
    return float(np.partition(values, middle, axis=None)[middle])


def grid(height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns of the blocks of a luma image of this size."""
    return max(1, height // BLOCK), max(1, width // BLOCK)


def means(luma: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the mean of each block, float32 of the shape of :func:`grid`; remaining samples at the edges are ignored."""
    height, width = luma.shape
    if height < BLOCK or width < BLOCK:
        return np.full((1, 1) if height < BLOCK and width < BLOCK else grid(height, width), luma.mean(), np.float32)
    rows, columns = grid(height, width)
    samples = luma[: rows * BLOCK, : columns * BLOCK].astype(np.uint16)
    sums = (
        samples[0::BLOCK] + samples[1::BLOCK] + samples[2::BLOCK] + samples[3::BLOCK]
    )  # whole rows first: they are long, which is faster
    whole = sums[:, 0::BLOCK] + sums[:, 1::BLOCK] + sums[:, 2::BLOCK] + sums[:, 3::BLOCK]
    blocks: NDArray[np.float32] = whole * np.float32(1 / BLOCK**2)
    return blocks
