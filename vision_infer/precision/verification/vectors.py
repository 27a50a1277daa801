"""Differences between FP32 and another engine for models other than detectors, frame by frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Outputs = Mapping[str, NDArray[Any]]
"""The outputs of one frame, as in :class:`vision_infer.engine.engine.RawResults`, with B = 1."""
WORST = 6
_TOP = 5
_NEIGHBORS = 5
_NEAR = 2.0
"""The maximum distance of a keypoint that is found again, pixels of the input."""


@dataclass(frozen=True, slots=True)
class VectorComparison:
    """The differences of two engines on the same frames."""

    lost: NDArray[np.float64]
    """The loss of each frame in points, float64 [F]."""
    metric: str
    """The meaning of a point, in words."""
    figures: Mapping[str, float]
    """The figures by name."""
    worst: tuple[int, ...]
    """The numbers of the frames that differ most, the worst first."""
    conclusive: bool = True
    """Whether such frames can show a difference."""


def compare_scores(ours: Sequence[Outputs], theirs: Sequence[Outputs]) -> VectorComparison:
    """Compare the best classes of two classifiers.

    Args:
        ours: FP32's outputs, ``scores`` float32 [1, C] each.
        theirs: The outputs of the other engine.
    """
    a, b = (np.concatenate([one["scores"] for one in side]).astype(np.float64) for side in (ours, theirs))
    best = a.argmax(axis=1)
    same = best == b.argmax(axis=1)
    count = min(_TOP, a.shape[1])
    within = np.array([kind in row for kind, row in zip(best, np.argsort(-b, axis=1)[:, :count], strict=True)])
    figures = {
        "top1_agreement": 100 * float(same.mean()),
        "top5_agreement": 100 * float(within.mean()),
        "score_difference": float(np.abs(a.max(axis=1) - b[np.arange(len(b)), best]).mean()),
    }
    metric = "per cent of the frames with another best class, the maximum loss of accuracy"
    conclusive = len(set(best.tolist())) > 1
    if not conclusive:
        metric += "; the frames show one class only"
    worst = np.argsort(np.abs(a - b).max(axis=1))[::-1][:WORST]
    return VectorComparison(100 * (1 - same.astype(np.float64)), metric, figures, tuple(worst.tolist()), conclusive)


def compare_embeddings(ours: Sequence[Outputs], theirs: Sequence[Outputs]) -> VectorComparison:
    """Compare the directions of embeddings, and their neighbors among the frames.

    Args:
        ours: FP32's outputs, ``embedding`` float32 [1, D] of length 1 each.
        theirs: The outputs of the other engine.
    """
    a, b = (np.concatenate([one["embedding"] for one in side]).astype(np.float64) for side in (ours, theirs))
    cosine = (a * b).sum(axis=1)
    overlap = 100 * float(_neighbor_overlap(a, b).mean())
    figures = {"cosine": float(cosine.mean()), "least_cosine": float(cosine.min()), "neighbor_overlap": overlap}
    metric = "per cent by which the cosine of both embeddings is below 1"
    return VectorComparison(100 * (1 - cosine), metric, figures, tuple(np.argsort(cosine)[:WORST].tolist()))


def compare_maps(ours: Sequence[Outputs], theirs: Sequence[Outputs]) -> VectorComparison:
    """Compare the classes of pixels.

    Args:
        ours: FP32's outputs, ``classes`` uint8 [1, h, w] each.
        theirs: The outputs of the other engine.
    """
    a, b = (np.concatenate([one["classes"] for one in side]) for side in (ours, theirs))
    same = (a == b).mean(axis=(1, 2))
    ious = [float(((a == kind) & (b == kind)).sum() / ((a == kind) | (b == kind)).sum()) for kind in np.unique(a)]
    figures = {"pixel_agreement": 100 * float(same.mean()), "mean_iou": float(np.mean(ious))}
    worst = np.argsort(same, kind="stable")[:WORST]
    metric = "per cent of the pixels with another class"
    return VectorComparison(100 * (1 - same), metric, figures, tuple(worst.tolist()), len(ious) > 1)


def compare_keypoints(ours: Sequence[Outputs], theirs: Sequence[Outputs]) -> VectorComparison:
    """Compare the keypoints of one object.

    Args:
        ours: FP32's outputs, ``keypoints`` float32 [1, 1, P, 3] each, in pixels of the input.
        theirs: The outputs of the other engine.
    """
    a, b = (np.concatenate([one["keypoints"] for one in side]).astype(np.float64) for side in (ours, theirs))
    apart = np.hypot(*np.moveaxis(a[..., :2] - b[..., :2], -1, 0))
    lost = 100 * (apart > _NEAR).mean(axis=(1, 2))
    figures = {"distance": float(apart.mean()), "largest_distance": float(apart.max())}
    metric = f"per cent of the keypoints that are more than {_NEAR:g} pixels of the input away"
    return VectorComparison(lost, metric, figures, tuple(np.argsort(-lost, kind="stable")[:WORST].tolist()))


def _neighbor_overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of each frame's nearest neighbors that is the same."""
    count = min(_NEIGHBORS, len(a) - 1)
    if count < 1:
        return np.ones(len(a))
    near = []
    for vectors in (a, b):
        likeness = vectors @ vectors.T
        np.fill_diagonal(likeness, -np.inf)
        near.append(np.argsort(-likeness, axis=1)[:, :count])
    return np.array([len(set(x) & set(y)) / count for x, y in zip(near[0].tolist(), near[1].tolist(), strict=True)])
