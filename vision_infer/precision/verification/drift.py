"""Changes of an engine at the model's confidence threshold: the number of detections, and their scores.

Average precision depends on the order of scores only, so it does not show that all of them fall, which leaves fewer detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vision_infer.compare.details import similarities
from vision_infer.compare.detections import FrameDifference, compare
from vision_infer.core.detections import Detections
from vision_infer.engine.store.passport import MeasuredDrift

SAMPLES = 400
"""The number of samples of the bootstrap over frames."""
FOUND_IOU = 0.5


@dataclass(frozen=True, slots=True)
class BootstrapInterval:
    """A figure and the 95 % interval of its bootstrap over frames."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True, slots=True)
class ThresholdComparison:
    """FP32 and an engine at the threshold."""

    shown: tuple[Detections, ...]
    """The engine's detections, of each frame."""
    again: tuple[Detections, ...]
    """The same down to half the threshold, to match with FP32's."""
    differences: tuple[FrameDifference, ...]
    """The differences between FP32's detections and ``again``, of each frame."""
    missed: tuple[int, ...]
    """The number of FP32's detections without a match, of each frame."""
    found_low: float
    """The lower end of the interval of detections with a match, in per cent."""
    drift: MeasuredDrift


def compare_at_threshold(
    ours: Sequence[Detections],
    low: Sequence[Detections],
    threshold: float,
    weights: NDArray[np.float64],
    details: tuple[Sequence[Detections], Sequence[Detections]] = ((), ()),
) -> ThresholdComparison:
    """Compare the detections of two engines.

    Args:
        ours: FP32's detections at the threshold, of each frame; not all empty.
        low: The engine's detections, at least down to half the threshold.
        threshold: The model's confidence threshold.
        weights: The weights of :func:`sample_weights`.
        details: The detections of both with their details, down to half the threshold; empty for models without details.
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
        details=_mean_similarity(differences, *details),
    )
    missed = tuple(len(a) - len(one.ious) for a, one in zip(ours, differences, strict=True))
    return ThresholdComparison(shown, again, differences, missed, found.low, drift)


def _mean_similarity(
    differences: Sequence[FrameDifference], ours: Sequence[Detections], theirs: Sequence[Detections]
) -> float | None:
    """Return the mean similarity of the details of all pairs; None without details.

    The detections are those that were compared, in the same order, because a lower threshold adds others at the end only.
    """
    if not ours:
        return None
    found = [
        similarities(a[one.pairs[:, 0]], b[one.pairs[:, 1]])
        for one, a, b in zip(differences, ours, theirs, strict=True)
        if len(one.pairs)
    ]
    values = np.concatenate([np.zeros(0), *(one for one in found if one is not None)])
    return round(float(values.mean()), 4) if values.size else 0.0


def sample_weights(frames: int) -> NDArray[np.float64]:
    """Return the weights of each frame: 1 in the first row, those of a bootstrap with a fixed seed in the others."""
    draws = np.random.default_rng(0).multinomial(frames, np.full(frames, 1 / frames), SAMPLES)
    return np.vstack((np.ones(frames), draws)).astype(np.float64)


def interval(samples: NDArray[np.float64]) -> BootstrapInterval:
    """Return the first value and the interval of the others, for the rows of :func:`sample_weights`."""
    rest = samples[1:][np.isfinite(samples[1:])]
    low, high = np.percentile(rest, (2.5, 97.5)) if rest.size else (np.nan, np.nan)
    return BootstrapInterval(float(samples[0]), float(low), float(high))
