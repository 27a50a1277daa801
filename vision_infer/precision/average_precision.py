"""Average precision as COCO defines it (Lin et al., ECCV 2014), for many bootstrap samples of the same frames at once.

Precision is read at 101 recalls and averaged over the IoUs 0.50:0.05:0.95. A bootstrap changes only the weights of the frames,
so the frames are matched once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.matching import box_overlap
from vision_infer.core.detections import Detections

OVERLAPS = np.linspace(0.5, 0.95, 10)
"""The minimum IoUs of a hit, float64 [T]."""
MAX_DETECTIONS = 100
"""The maximum number of detections per frame, best first."""
_RECALLS = 100
"""The number of steps between recalls."""
_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class ClassMatches:
    """The detections of one class in all frames, best score first, and their hits at each IoU."""

    frames: NDArray[np.intp]
    """The frame of each detection, intp [N]."""
    hits: NDArray[np.bool_]
    """The hits, bool [T, N]."""
    wanted: NDArray[np.int64]
    """The number of objects of the class in each frame, int64 [F]."""


def match_classes(truth: Sequence[Detections], found: Sequence[Detections]) -> dict[int, ClassMatches]:
    """Match detections with the ground truth, for each class of the ground truth.

    Args:
        truth: The ground truth of F frames; its scores are not used.
        found: The detections of the same frames.
    """
    entries: dict[int, list[tuple[float, int, NDArray[np.bool_]]]] = {}
    wanted: dict[int, NDArray[np.int64]] = {}
    for number, one in enumerate(truth):
        for class_id in one.class_ids.tolist():
            wanted.setdefault(class_id, np.zeros(len(truth), np.int64))[number] += 1
    for number, (real, seen) in enumerate(zip(truth, found, strict=True)):
        order = np.argsort(-seen.scores, kind="stable")[:MAX_DETECTIONS]
        kinds = seen.class_ids[order]
        for class_id in set(kinds.tolist()) & wanted.keys():
            rows = order[kinds == class_id]
            hits = _hits(real.boxes[real.class_ids == class_id], seen.boxes[rows])
            scores = seen.scores[rows].tolist()
            entries.setdefault(class_id, []).extend((-score, number, hit) for score, hit in zip(scores, hits, strict=True))
    matches = {}
    for class_id, counts in wanted.items():
        rows_of = sorted(entries.get(class_id, ()), key=lambda entry: entry[0])
        hits = np.array([entry[2] for entry in rows_of], np.bool_).reshape(-1, len(OVERLAPS)).T
        matches[class_id] = ClassMatches(np.array([entry[1] for entry in rows_of], np.intp), hits, counts)
    return matches


def average_precision(matches: ClassMatches, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the average precision of a class over all IoUs.

    Args:
        matches: The matches of the class.
        weights: The weight of each frame in each sample, float64 [R, F].

    Returns:
        The average precision, float64 [R], 0–1; NaN for a sample without an object of the class.
    """
    total = weights @ matches.wanted
    some = np.maximum(total, _TINY)[:, None]
    count = weights[:, matches.frames]
    reached = np.zeros(len(weights))
    seen = np.cumsum(count, axis=1)
    for hit in matches.hits:
        good = np.cumsum(count * hit, axis=1)
        precision = good / np.maximum(seen, _TINY)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        steps = np.floor(good / some * _RECALLS + _TINY)
        reads = np.diff(steps, axis=1, prepend=-1.0)  # the first detection also serves the recall of 0
        reached += (precision * reads).sum(axis=1) / (_RECALLS + 1)
    return np.where(total > 0, reached / len(OVERLAPS), np.nan)


def mean_precision(matches: dict[int, ClassMatches], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over classes, weighted by their numbers of objects, so that rare classes do not dominate.

    Args:
        matches: The matches by class.
        weights: The weight of each frame in each sample, float64 [R, F].

    Returns:
        The mean, float64 [R], 0–1; NaN for a sample without objects.
    """
    value, objects = np.zeros(len(weights)), np.zeros(len(weights))
    for one in matches.values():
        total = weights @ one.wanted
        value += np.where(total > 0, np.nan_to_num(average_precision(one, weights)) * total, 0.0)
        objects += total
    return np.where(objects > 0, value / np.maximum(objects, _TINY), np.nan)


def _hits(real: NDArray[np.float32], seen: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Match as COCO does: the best detection (of ``seen``, best first) takes the free object of largest IoU; bool [N, T]."""
    hits = np.zeros((len(seen), len(OVERLAPS)), np.bool_)
    if not len(real) or not len(seen):
        return hits
    overlap = box_overlap(seen, real)
    free = np.ones((len(OVERLAPS), len(real)), np.bool_)
    for row in (overlap.max(axis=1) >= OVERLAPS[0]).nonzero()[0]:
        for step, minimum in enumerate(OVERLAPS):
            open_now = np.where(free[step], overlap[row], -1.0)
            best = int(open_now.argmax())
            if open_now[best] >= minimum:
                free[step, best] = False
                hits[row, step] = True
    return hits
