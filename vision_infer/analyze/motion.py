"""How tracked boxes move: a Kalman filter with constant velocity, for all tracks at once.

The state of a track is its centre, aspect ratio (width / height) and height, and the velocity of each of the four; the noise
grows with the height of the box, as in Wojke et al., "Simple Online and Realtime Tracking with a Deep Association Metric" (2017),
which ByteTrack took over. No noise there joins two of the four quantities, so the 8×8 covariance falls apart into four 2×2 ones
and the filter into closed formulas: no matrix is inverted.

All tracks are one float64 array [5, T, 4]: position, velocity, variance of the position, covariance of both, variance of the
velocity; each for T tracks and the quantities (centre x, centre y, aspect, height). Lengths are in pixels, time is in steps.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Motion: TypeAlias = NDArray[np.float64]
"""float64 [5, T, 4], see the module's text"""

STEP_S = 1 / 30
"""seconds of a step: the noise figures below are for one frame of video at the rate of the benchmarks they were made for"""

_POSITION_NOISE = 1 / 20
"""standard deviation of centre and height, as a part of the height, for one step and for one measurement"""
_VELOCITY_NOISE = 1 / 160
"""standard deviation of their velocities, as a part of the height, for one step"""
_LEAST = 1e-3
"""least height (pixels) and aspect: keeps a shrinking or flat box a box"""


def begin(boxes: NDArray[np.floating]) -> Motion:
    """Motion of tracks seen for the first time: at rest, with a velocity that is hardly known.

    Args:
        boxes: [T, 4] xyxy, pixels.
    """
    position = _measured(boxes)
    motion = np.zeros((5, *position.shape))
    height = position[:, 3]
    motion[0] = position
    motion[2] = _variance(height, 2 * _POSITION_NOISE, 1e-2)
    motion[4] = _variance(height, 10 * _VELOCITY_NOISE, 1e-5)
    return motion


def predict(motion: Motion, steps: float) -> Motion:
    """The motion some time later, unseen meanwhile. Whole steps in one go give what they give one by one.

    Args:
        motion: as it was.
        steps: time since, in steps, greater than 0, not necessarily whole.
    """
    position, velocity, spread, cross, drift = motion
    height = position[:, 3]
    shake = _variance(height, _POSITION_NOISE, 1e-2)
    push = _variance(height, _VELOCITY_NOISE, 1e-5)
    # A push of step k has moved the position for the steps after it: sums of 0…n-1 and of their squares.
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
    np.maximum(later[0, :, 2:], _LEAST, out=later[0, :, 2:])
    return later


def correct(motion: Motion, boxes: NDArray[np.floating]) -> Motion:
    """The motion once each track has been seen.

    Args:
        motion: predicted for now, T tracks.
        boxes: [T, 4] xyxy, pixels: where each was seen.
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
    np.maximum(seen[0, :, 2:], _LEAST, out=seen[0, :, 2:])
    return seen


def to_boxes(motion: Motion) -> NDArray[np.float64]:
    """float64 [T, 4] xyxy, pixels: where the tracks are now."""
    centre, aspect, height = motion[0, :, :2], motion[0, :, 2], motion[0, :, 3]
    half = np.stack((aspect * height, height), axis=1) / 2
    return np.concatenate((centre - half, centre + half), axis=1)


def _measured(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    side = np.maximum(high - low, _LEAST)
    return np.concatenate(((low + high) / 2, side[:, :1] / side[:, 1:], side[:, 1:]), axis=1)


def _variance(height: NDArray[np.float64], part: float, aspect_deviation: float) -> NDArray[np.float64]:
    """float64 [T, 4]: centre and height vary by a part of the height, the aspect by a number of its own."""
    variance = np.empty((len(height), 4))
    variance[:] = ((height * part) ** 2)[:, None]
    variance[:, 2] = aspect_deviation**2
    return variance
