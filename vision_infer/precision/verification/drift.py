"""What a user sees of a cheaper engine at the model's own score threshold: how many detections, and how sure it is of them.

Average precision looks at the order of scores. It does not see that all of them fall, which leaves less above the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vision_infer.compare.detections import FrameDifference, compare
from vision_infer.core.detections import Detections
from vision_infer.engine.store.passport import MeasuredDrift

SAMPLES = 400
"""of the bootstrap over frames"""
FOUND_IOU = 0.5


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the 95 % interval of its bootstrap over frames."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True, slots=True)
class Seen:
    """FP32 and a cheaper engine at the threshold."""

    shown: tuple[Detections, ...]
    """the cheaper engine's, of each frame"""
    again: tuple[Detections, ...]
    """the same down to half the threshold, among which FP32's are looked for"""
    differences: tuple[FrameDifference, ...]
    """of each frame: FP32's ``shown`` against ``again``"""
    missed: tuple[int, ...]
    """of each frame: how many of FP32's are not found again"""
    found_low: float
    """per cent, lower end of the interval"""
    drift: MeasuredDrift


def see(ours: Sequence[Detections], low: Sequence[Detections], threshold: float, weights: NDArray[np.float64]) -> Seen:
    """Compare what two engines show.

    Args:
        ours: FP32's detections at the threshold, of each frame; not all empty.
        low: the cheaper engine's, down to half the threshold at least.
        threshold: the model's own.
        weights: as :func:`sample_weights` gives them.
    """
    shown = tuple(one[one.scores >= np.float32(threshold)] for one in low)
    again = tuple(one[one.scores >= np.float32(threshold / 2)] for one in low)
    differences = tuple(compare(a, b, FOUND_IOU) for a, b in zip(ours, again, strict=True))
    objects = weights @ np.array([len(one) for one in ours], np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = interval(100 * (weights @ np.array([len(one.ious) for one in differences], np.float64)) / objects)
        count = interval(100 * ((weights @ np.array([len(one) for one in shown], np.float64)) / objects - 1))
    ious = np.concatenate([one.ious for one in differences])
    changes = np.concatenate([one.score_changes for one in differences])
    drift = MeasuredDrift(
        threshold=threshold,
        objects=int(objects[0]),
        count=round(count.value, 3),
        count_low=round(count.low, 3),
        count_high=round(count.high, 3),
        score=round(float(changes.mean()), 4) if changes.size else 0.0,
        score_difference=round(float(np.abs(changes).mean()), 4) if changes.size else 0.0,
        found=round(found.value, 3),
        iou=round(float(ious.mean()), 4) if ious.size else 0.0,
    )
    missed = tuple(len(a) - len(one.ious) for a, one in zip(ours, differences, strict=True))
    return Seen(shown, again, differences, missed, found.low, drift)


def sample_weights(frames: int) -> NDArray[np.float64]:
    """How often each frame counts: once in the first row, as a bootstrap draws them in the others; the same in every process."""
    draws = np.random.default_rng(0).multinomial(frames, np.full(frames, 1 / frames), SAMPLES)
    return np.vstack((np.ones(frames), draws)).astype(np.float64)


def interval(samples: NDArray[np.float64]) -> Interval:
    """The figure of the frames as they are, which comes first, and the interval of the others."""
    rest = samples[1:][np.isfinite(samples[1:])]
    low, high = np.percentile(rest, (2.5, 97.5)) if rest.size else (np.nan, np.nan)
    return Interval(float(samples[0]), float(low), float(high))
