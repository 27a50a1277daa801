"""Pairs of detections of two runs: compared with an exhaustive search."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_infer.analyze.matching import box_overlap
from vision_infer.compare.detections import ClassAccount, account, compare
from vision_infer.core.detections import Detections

# Boxes on a coarse grid: many overlap, many are equal, and one has several possible partners.
BOX = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(2, 5), st.integers(2, 5)).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)
FOUND = st.lists(st.tuples(BOX, st.integers(1, 10), st.integers(0, 1)), max_size=5)

Row = tuple[tuple[int, int, int, int], int, int]


def detections(rows: list[Row]) -> Detections:
    return Detections(
        np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] / 10 for row in rows], np.float32),
        np.array([row[2] for row in rows], np.int32),
    )


def greatest_sum(a: Detections, b: Detections, iou: float) -> float:
    """Return the maximum sum of overlaps over all possible pairings."""
    overlap = box_overlap(a.boxes, b.boxes)
    best = 0.0
    size = max(len(a), len(b))
    for order in itertools.permutations(range(size)):
        pairs = [(row, column) for row, column in enumerate(order) if row < len(a) and column < len(b)]
        good = [pair for pair in pairs if overlap[pair] >= iou and a.class_ids[pair[0]] == b.class_ids[pair[1]]]
        best = max(best, sum(float(overlap[pair]) for pair in good))
    return best


@given(FOUND, FOUND, st.sampled_from([0.1, 0.3, 0.5, 0.9]))
def test_pairs_maximize_the_overlap_and_all_detections_are_counted(ones: list[Row], others: list[Row], iou: float) -> None:
    a, b = detections(ones), detections(others)
    found = compare(a, b, iou)
    assert sorted([*found.pairs[:, 0].tolist(), *found.only_a.tolist()]) == list(range(len(a)))
    assert sorted([*found.pairs[:, 1].tolist(), *found.only_b.tolist()]) == list(range(len(b)))
    assert (found.ious >= iou).all()
    assert (a.class_ids[found.pairs[:, 0]] == b.class_ids[found.pairs[:, 1]]).all()
    assert float(found.ious.sum()) == pytest.approx(greatest_sum(a, b, iou))
    mirrored = compare(b, a, iou)
    assert len(mirrored.pairs) == len(found.pairs)
    assert mirrored.ious.sum() == pytest.approx(found.ious.sum())


def test_a_run_is_equal_to_itself() -> None:
    rows: list[Row] = [((0, 0, 4, 4), 9, 0), ((0, 0, 4, 4), 8, 0), ((1, 1, 1, 1), 5, 1)]  # a box without area too
    found = compare(detections(rows), detections(rows), 0.5)
    assert found.pairs.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert found.size == (0, 0.0)
    assert not found.changed(0.0).any()


def test_the_counts_of_each_class() -> None:
    a = detections([((0, 0, 4, 4), 9, 0), ((10, 0, 14, 4), 8, 1), ((20, 0, 24, 4), 5, 1)])
    b = detections([((0, 0, 4, 4), 7, 0), ((10, 0, 14, 4), 8, 0), ((20, 1, 24, 5), 6, 1)])
    found = compare(a, b, 0.5)
    assert found.size[0] == 2
    assert found.size[1] == pytest.approx(0.2 + 0.1 + 0.4, abs=1e-6)
    assert found.changed(0.15).tolist() == [True, False]
    by_class: dict[int, ClassAccount] = {}
    for _ in range(2):
        account(by_class, a, b, found, 0.15)
    first, second = by_class[0], by_class[1]
    assert (first.matched, first.only_a, first.only_b, first.score_changed) == (2, 0, 2, 2)
    assert (second.matched, second.only_a, second.only_b, second.score_changed) == (2, 2, 0, 0)
    assert [first.iou_sum, second.iou_sum] == pytest.approx([2.0, 1.2])
    assert [first.change_sum, first.difference_sum, first.difference_max] == pytest.approx([-0.4, 0.4, 0.2], abs=1e-6)
    assert [second.change_sum, second.difference_max] == pytest.approx([0.2, 0.1], abs=1e-6)
