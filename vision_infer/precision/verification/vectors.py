"""What an engine for classification or embeddings does otherwise than FP32, frame by frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Outputs = Mapping[str, NDArray[Any]]
"""of one frame, as :class:`vision_infer.engine.engine.RawResults` has them, with B = 1"""
WORST = 6
_TOP = 5
_NEIGHBOURS = 5


@dataclass(frozen=True, slots=True)
class VectorComparison:
    """Two engines on the same frames."""

    lost: NDArray[np.float64]
    """float64 [F], points that each frame loses"""
    metric: str
    """what a point is, in words"""
    figures: Mapping[str, float]
    """by name"""
    worst: tuple[int, ...]
    """numbers of the frames that differ most, the worst first"""
    telling: bool = True
    """whether such frames can show a difference at all"""


def compare_scores(ours: Sequence[Outputs], theirs: Sequence[Outputs]) -> VectorComparison:
    """Classification: whether the best class is the same.

    Args:
        ours: FP32's outputs, ``scores`` float32 [1, C] each.
        theirs: the other engine's.
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
    metric = "per cent of the frames whose best class is another, which is the most that accuracy can lose"
    telling = len(set(best.tolist())) > 1
    if not telling:
        metric += "; the frames show one class only"
    worst = np.argsort(np.abs(a - b).max(axis=1))[::-1][:WORST]
    return VectorComparison(100 * (1 - same.astype(np.float64)), metric, figures, tuple(worst.tolist()), telling)


def compare_embeddings(ours: Sequence[Outputs], theirs: Sequence[Outputs]) -> VectorComparison:
    """Embeddings: whether they point the same way, and have the same neighbours among the frames.

    Args:
        ours: FP32's outputs, ``embedding`` float32 [1, D] of length 1 each.
        theirs: the other engine's.
    """
    a, b = (np.concatenate([one["embedding"] for one in side]).astype(np.float64) for side in (ours, theirs))
    cosine = (a * b).sum(axis=1)
    overlap = 100 * float(_neighbour_overlap(a, b).mean())
    figures = {"cosine": float(cosine.mean()), "least_cosine": float(cosine.min()), "neighbour_overlap": overlap}
    metric = "per cent by which the cosine of both embeddings falls short of 1"
    return VectorComparison(100 * (1 - cosine), metric, figures, tuple(np.argsort(cosine)[:WORST].tolist()))


def _neighbour_overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of each frame's nearest neighbours that it keeps."""
    count = min(_NEIGHBOURS, len(a) - 1)
    if count < 1:
        return np.ones(len(a))
    near = []
    for vectors in (a, b):
        likeness = vectors @ vectors.T
        np.fill_diagonal(likeness, -np.inf)
        near.append(np.argsort(-likeness, axis=1)[:, :count])
    return np.array([len(set(x) & set(y)) / count for x, y in zip(near[0].tolist(), near[1].tolist(), strict=True)])
