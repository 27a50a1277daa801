"""The motion of tracked boxes: a Kalman filter with constant velocity, for all tracks at once.

The state of a track is its center, aspect ratio (width / height) and height, and the velocity of each of the four; the noise
grows with the height of the box, as in Wojke et al., "Simple Online and Realtime Tracking with a Deep Association Metric"
(2017), which ByteTrack adopted. No noise term there couples two of the four quantities, so the 8×8 covariance separates into
four 2×2 ones and the filter into closed formulas: no matrix is inverted.

All tracks are one float64 array [5, T, 4]: position, velocity, variance of the position, covariance of both, variance of the
velocity; each for T tracks and the quantities (center x, center y, aspect, height). Lengths are in pixels, time is in steps.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Motion: TypeAlias = NDArray[np.float64]
"""The motion of T tracks, float64 [5, T, 4]; see the module's documentation."""

STEP_S = 1 / 30
"""The duration of a step, seconds: the noise figures below are for one frame at the rate of the paper's benchmarks."""

_POSITION_NOISE = 1 / 20
"""The standard deviation of center and height, as a fraction of the height, for one step and for one measurement."""
_VELOCITY_NOISE = 1 / 160
"""The standard deviation of their velocities, as a fraction of the height, for one step."""
_MIN_SIDE = 1e-3
"""The minimum height (pixels) and aspect ratio: a shrinking or flat box remains a box."""


def begin(boxes: NDArray[np.floating]) -> Motion:
    """Return the motion of new tracks: at rest, with a very uncertain velocity.

    Args:
        boxes: The boxes, [T, 4] xyxy, pixels.
    """
    position = _measured(boxes)
    motion = np.zeros((5, *position.shape))
    height = position[:, 3]
    motion[0] = position
    motion[2] = _variance(height, 2 * _POSITION_NOISE, 1e-2)
    motion[4] = _variance(height, 10 * _VELOCITY_NOISE, 1e-5)
    return motion


def predict(motion: Motion, steps: float) -> Motion:
    """Return the motion after some time without detections. Several steps at once give the same result as single steps.

    Args:
        motion: The previous motion.
        steps: The elapsed time, in steps, greater than 0, not necessarily whole.
    """
    position, velocity, spread, cross, drift = motion
    height = position[:, 3]
    shake = _variance(height, _POSITION_NOISE, 1e-2)
    push = _variance(height, _VELOCITY_NOISE, 1e-5)
    # The noise of step k moves the position in the steps after it: sums of 0…n-1 and of their squares.
    pushed = max(0.0, steps * (steps - 1) / 2)
    pushed_twice = max(0.0, steps * (steps - 1) * (2 * steps - 1) / 6)
    later = np.stack(
        (
            position + steps * velocity,
            velocity,
            spread + 2 * steps * cross + steps * steps * drift + steps * shake + pushed_twice * push,
            cross + steps * drift + pushed * push,
            drift + steps * push,
        )
    )
    np.maximum(later[0, :, 2:], _MIN_SIDE, out=later[0, :, 2:])
    return later


def correct(motion: Motion, boxes: NDArray[np.floating]) -> Motion:
    """Return the motion corrected by a detection for each track.

    Args:
        motion: The predicted motion of T tracks.
        boxes: The detected boxes, [T, 4] xyxy, pixels.
    """
    position, velocity, spread, cross, drift = motion
    gain = 1 / (spread + _variance(position[:, 3], _POSITION_NOISE, 1e-1))
    surprise = (_measured(boxes) - position) * gain
    seen = np.stack(
        (
            position + spread * surprise,
            velocity + cross * surprise,
            spread - spread * spread * gain,
            cross - cross * spread * gain,
            drift - cross * cross * gain,
        )
    )
    np.maximum(seen[0, :, 2:], _MIN_SIDE, out=seen[0, :, 2:])
    return seen


def warp(motion: Motion, affine: NDArray[np.float64]) -> Motion:
    """Return the motion as a camera sees it that has moved.

    Args:
        motion: The motion of T tracks.
        affine: The map of positions, float64 [2, 3]: a rotation with a scale, and a shift in pixels.
    """
    turn, scale = affine[:, :2], np.sqrt(abs(np.linalg.det(affine[:, :2])))
    warped = motion.copy()
    warped[0, :, :2] = motion[0, :, :2] @ turn.T + affine[:, 2]
    warped[1, :, :2] = motion[1, :, :2] @ turn.T
    warped[:2, :, 3] *= scale
    return warped


def to_boxes(motion: Motion) -> NDArray[np.float64]:
    """Return the present boxes of the tracks, float64 [T, 4] xyxy, pixels."""
    center, aspect, height = motion[0, :, :2], motion[0, :, 2], motion[0, :, 3]
    half = np.stack((aspect * height, height), axis=1) / 2
    return np.concatenate((center - half, center + half), axis=1)


def _measured(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    side = np.maximum(high - low, _MIN_SIDE)
    return np.concatenate(((low + high) / 2, side[:, :1] / side[:, 1:], side[:, 1:]), axis=1)


def _variance(height: NDArray[np.float64], part: float, aspect_deviation: float) -> NDArray[np.float64]:
    """Return variances, float64 [T, 4]: center and height vary in proportion to the height, the aspect by a constant."""
    variance = np.empty((len(height), 4))
    variance[:] = ((height * part) ** 2)[:, None]
    variance[:, 2] = aspect_deviation**2
    return variance
