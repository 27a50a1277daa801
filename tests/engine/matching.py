"""Compares two sets of candidates: the same detections in any order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Outputs = Mapping[str, NDArray[Any]]


def confident(outputs: Outputs, image: int, least: float = 0.3) -> list[tuple[int, float, list[float]]]:
    """Return class, score and box of the confident candidates of an image, best first."""
    scores = outputs["scores"][image]
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= least]
    return [
        (int(outputs["class_ids"][image][at]), float(scores[at]), [float(edge) for edge in outputs["boxes"][image][at]])
        for at in order
    ]


def unmatched(
    first: list[tuple[int, float, list[float]]], second: list[tuple[int, float, list[float]]], score: float, pixels: float
) -> list[tuple[int, float, list[float]]]:
    """Return the detections of the first set without a match in the second; each is matched once."""
    left = list(second)
    alone = []
    for one in first:
        for other in left:
            same = one[0] == other[0] and abs(one[1] - other[1]) <= score
            if same and max(abs(a - b) for a, b in zip(one[2], other[2], strict=True)) <= pixels:
                left.remove(other)
                break
        else:
            alone.append(one)
    return alone


def assert_same(first: Outputs, at_first: int, second: Outputs, at_second: int, score: float = 1e-3, pixels: float = 0.1) -> int:
    """Check that both images gave the same detections, also near the threshold; return their number."""
    ours, theirs = confident(first, at_first), confident(second, at_second)
    loose = 0.3 - score
    assert not unmatched(ours, confident(second, at_second, loose), score, pixels)
    assert not unmatched(theirs, confident(first, at_first, loose), score, pixels)
    return len(ours)
