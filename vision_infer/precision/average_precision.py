"""Average precision as COCO defines it (Lin et al., ECCV 2014), for many samples of the same frames at once.

Precision is read at 101 recalls, and is averaged over the overlaps 0.50:0.05:0.95. A bootstrap draws frames again and again:
which detection is a hit does not change by that, only how often it counts, so that frames are matched once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.track import box_overlap
from vision_infer.core.detections import Detections

OVERLAPS = np.linspace(0.5, 0.95, 10)
"""float64 [T], least overlaps at which a detection is a hit"""
MAX_DETECTIONS = 100
"""of a frame, best first; further ones do not count"""
_RECALLS = 100
"""steps between the recalls at which precision is read"""
_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class ClassMatches:
    """The detections of one class in all frames, best score first, and which of them hit at which overlap."""

    frames: NDArray[np.intp]
    """intp [N]: number of each detection's frame"""
    hits: NDArray[np.bool_]
    """bool [T, N]"""
    wanted: NDArray[np.int64]
    """int64 [F]: objects of the class in each frame"""


def match_classes(truth: Sequence[Detections], found: Sequence[Detections]) -> dict[int, ClassMatches]:
    """Match what was found with what is there, class by class; only classes that are there.

    Args:
        truth: F frames; their scores play no part.
        found: the same frames.
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
    """The average precision of a class over all overlaps.

    Args:
        matches: of the class.
        weights: float64 [R, F], how often each frame counts in each sample.

    Returns:
        float64 [R], 0–1; NaN for a sample without an object of the class.
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
    """The mean over classes, each with the weight of its objects: a class that is there once does not decide.

    Args:
        matches: by class.
        weights: float64 [R, F], how often each frame counts in each sample.

    Returns:
        float64 [R], 0–1; NaN for a sample without objects.
    """
    value, objects = np.zeros(len(weights)), np.zeros(len(weights))
    for one in matches.values():
        total = weights @ one.wanted
        value += np.where(total > 0, np.nan_to_num(average_precision(one, weights)) * total, 0.0)
        objects += total
    return np.where(objects > 0, value / np.maximum(objects, _TINY), np.nan)


def _hits(real: NDArray[np.float32], seen: NDArray[np.float32]) -> NDArray[np.bool_]:
    """COCO's greedy matching: the best detection takes the object that it overlaps most, among those still free.

    Args:
        real: float32 [M, 4].
        seen: float32 [N, 4], best first.

    Returns:
        bool [N, T].
    """
    hits = np.zeros((len(seen), len(OVERLAPS)), np.bool_)
    if not len(real) or not len(seen):
        return hits
    overlap = box_overlap(seen, real)
    free = np.ones((len(OVERLAPS), len(real)), np.bool_)
    for row in (overlap.max(axis=1) >= OVERLAPS[0]).nonzero()[0]:
        for step, least in enumerate(OVERLAPS):
            open_now = np.where(free[step], overlap[row], -1.0)
            best = int(open_now.argmax())
            if open_now[best] >= least:
                free[step, best] = False
                hits[row, step] = True
    return hits
