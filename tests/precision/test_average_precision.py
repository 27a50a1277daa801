"""Average precision: the same figures as pycocotools, and a weight counts as a repetition."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vision_infer.core.detections import Detections
from vision_infer.precision.average_precision import average_precision, match_classes, mean_precision

FRAMES, CLASSES = 12, 3


def scene(seed: int, frames: int = FRAMES) -> tuple[list[Detections], list[Detections]]:
    """Objects, detections around them, and a few false detections."""
    chance = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(frames):
        count = int(chance.integers(0, 7))
        corner = chance.uniform(0, 200, (count, 2))
        boxes = np.concatenate((corner, corner + chance.uniform(20, 80, (count, 2))), axis=1)
        kinds = chance.integers(0, CLASSES, count)
        truth.append(detections(boxes, np.ones(count), kinds))
        moved = np.repeat(boxes, 2, axis=0) + chance.normal(0, 5, (2 * count, 4))
        stray = np.concatenate((boxes[:, 2:], boxes[:, 2:] + 30), axis=1)
        seen = np.concatenate((moved, stray))
        found.append(detections(seen, chance.uniform(0.01, 1, len(seen)), np.concatenate((np.repeat(kinds, 2), kinds))))
    return truth, found


def detections(boxes: NDArray[Any], scores: NDArray[Any], kinds: NDArray[Any]) -> Detections:
    return Detections(boxes.astype(np.float32).reshape(-1, 4), scores.astype(np.float32), kinds.astype(np.int32))


def by_pycocotools(truth: list[Detections], found: list[Detections]) -> dict[int, float]:
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")

    def rows(side: list[Detections]) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = []
        for number, one in enumerate(side):
            for box, score, kind in zip(one.boxes.tolist(), one.scores.tolist(), one.class_ids.tolist(), strict=True):
                bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
                row = {"image_id": number + 1, "category_id": kind + 1, "bbox": bbox, "score": score}
                listed.append({**row, "area": bbox[2] * bbox[3], "iscrowd": 0, "id": len(listed) + 1})
        return listed

    with contextlib.redirect_stdout(io.StringIO()):
        real = coco.COCO()
        categories = [{"id": kind + 1, "name": str(kind)} for kind in range(CLASSES)]
        images = [{"id": number + 1} for number in range(len(truth))]
        real.dataset = {"images": images, "annotations": rows(truth), "categories": categories}
        real.createIndex()
        evaluation = cocoeval.COCOeval(real, real.loadRes(rows(found)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]  # [overlap, recall, class], all sizes, 100 detections
    return {kind: float(precision[:, :, kind].mean()) for kind in range(CLASSES) if (precision[:, :, kind] > -1).all()}


@pytest.mark.parametrize("seed", range(5))
def test_the_same_as_pycocotools(seed: int) -> None:
    truth, found = scene(seed)
    matches = match_classes(truth, found)
    ours = {kind: float(average_precision(one, np.ones((1, FRAMES)))[0]) for kind, one in matches.items()}
    theirs = by_pycocotools(truth, found)
    assert ours.keys() == theirs.keys()
    for kind, value in theirs.items():
        # It compares recalls as binary fractions: 7 of 25 may be less than 0.28 there, which moves one of its 1010 readings.
        assert ours[kind] == pytest.approx(value, abs=1e-3)


def test_a_weight_counts_as_a_repetition() -> None:
    truth, found = scene(7)
    weights = np.random.default_rng(1).integers(0, 3, FRAMES)
    again = [number for number, weight in enumerate(weights.tolist()) for _ in range(weight)]
    matches = match_classes(truth, found)
    repeated = match_classes([truth[number] for number in again], [found[number] for number in again])
    for kind, one in matches.items():
        if (one.wanted * weights).sum() == 0:
            continue
        weighed = average_precision(one, weights[None].astype(np.float64))[0]
        plain = average_precision(repeated[kind], np.ones((1, len(again))))[0]
        assert weighed == pytest.approx(plain, abs=2e-3)  # equal scores may be in another order


def test_equal_boxes_give_one_and_no_boxes_give_zero() -> None:
    truth, _ = scene(2)
    nothing = [Detections.empty()] * FRAMES
    ones = np.ones((1, FRAMES))
    assert mean_precision(match_classes(truth, truth), ones)[0] == pytest.approx(1.0)
    assert mean_precision(match_classes(truth, nothing), ones)[0] == 0.0
    assert np.isnan(mean_precision(match_classes(nothing, truth), ones)[0])


def test_a_sample_without_the_class_gives_nan() -> None:
    truth, found = scene(4)
    matches = match_classes(truth, found)
    kind = next(iter(matches))
    without = (matches[kind].wanted == 0).astype(np.float64)[None]
    assert np.isnan(average_precision(matches[kind], without)[0])


def test_a_class_counts_by_its_objects() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], np.float32)
    truth = [detections(boxes, np.ones(3), np.array([0, 0, 1]))]
    seen = [detections(boxes[:2], np.ones(2), np.array([0, 0]))]
    assert mean_precision(match_classes(truth, seen), np.ones((1, 1)))[0] == pytest.approx(2 / 3)
