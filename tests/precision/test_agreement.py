"""Agreement of an engine with FP32, on scripted outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.precision.tiny import ScriptedEngine, frame_set
from tests.support import raw_networks as raw
from vision_infer.core.card import ModelCard, parse_card
from vision_infer.core.errors import ModelError
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.model.importing import ImportRequest, import_model
from vision_infer.precision.verification.agreement import TYPICAL_MAP, Judge, published_map

WIDTH = 64
CARD = parse_card(
    {"name": "seen", "input": {"width": WIDTH, "height": WIDTH}, "labels": ["person", "car"], "confidence": 0.4}, "test"
)
COUNT = 120


def outputs(
    shift: float = 0.0, score: float = 0.9, lost: int = 0, mirrored: bool = False, seed: int = 0
) -> list[dict[str, NDArray[Any]]]:
    """Two objects per frame, as boxes [1, 3, 4] with one empty candidate.

    Args:
        shift: of all boxes, pixels.
        score: of the first object.
        lost: every so-manieth frame has no first object; 0: none.
        mirrored: as they lie in the mirrored frame, a little off.
        seed: of the places.
    """
    chance = np.random.default_rng(seed)
    found = []
    for number in range(COUNT):
        corner = chance.uniform(4, 30, (2, 2))
        noise = chance.normal(0, 0.8, (2, 4))
        boxes = np.concatenate((corner, corner + 20), axis=1) + shift
        if mirrored:
            boxes = (boxes + noise)[:, [2, 1, 0, 3]]
            boxes[:, 0::2] = WIDTH - boxes[:, 0::2]
        first = 0.0 if lost and number % lost == 0 else score
        found.append(
            {
                "boxes": np.concatenate((boxes, np.zeros((1, 4)))).astype(np.float32)[None],
                "scores": np.array([[first, 0.7, 0.0]], np.float32),
                "class_ids": np.array([[0, 1, 0]], np.int32),
            }
        )
    return found


def judge(card: ModelCard = CARD, mirror: list[dict[str, NDArray[Any]]] | None = None) -> Judge:
    frames = frame_set([np.zeros((WIDTH, WIDTH, 3), np.uint8)] * COUNT)
    return Judge(ScriptedEngine(card, outputs() + (outputs(mirrored=True) if mirror is None else mirror)), frames)


def test_the_same_engine_loses_nothing() -> None:
    agreement = judge().compare(ScriptedEngine(CARD, outputs()))
    assert agreement.lost.value == agreement.lost.low == agreement.lost.high == 0
    assert agreement.figures["found_again"] == agreement.figures["agreement"] == pytest.approx(100)
    assert agreement.figures["mean_iou"] == pytest.approx(1)
    assert agreement.figures["count_change"] == 0
    assert agreement.worst == ()
    assert (agreement.frames, agreement.objects, agreement.conclusive) == (COUNT, 2 * COUNT, True)
    assert "mirrored" in agreement.metric


def test_lost_objects_cost_points() -> None:
    agreement = judge().compare(ScriptedEngine(CARD, outputs(lost=5)))
    # A tenth of all objects: about a tenth of the average precision, of the mAP of 40 that is taken where the card has none.
    assert agreement.lost.value == pytest.approx(TYPICAL_MAP / 10, rel=0.35)
    assert agreement.lost.low < agreement.lost.value < agreement.lost.high
    assert agreement.figures["found_again"] == pytest.approx(90)
    assert agreement.figures["count_change"] == pytest.approx(-10)
    person, car = sorted(agreement.classes, key=lambda one: one.found)
    assert (person.label, person.found, person.objects, person.count_change) == ("person", 96, 120, -24)
    assert (car.label, car.found, car.objects, car.count_change) == ("car", 120, 120, 0)
    assert len(agreement.worst) == 6
    assert all(number % 5 == 0 for number in agreement.worst)


def test_moved_boxes_cost_less_than_lost_boxes() -> None:
    little, much = (judge().compare(ScriptedEngine(CARD, outputs(shift=shift))) for shift in (0.2, 3.0))
    assert little.lost.value < much.lost.value
    assert little.figures["agreement"] > much.figures["agreement"]
    assert little.figures["found_again"] == 100


def test_a_score_below_the_threshold_changes_the_count_but_not_the_loss() -> None:
    agreement = judge().compare(ScriptedEngine(CARD, outputs(score=0.35)))
    assert agreement.figures["found_again"] == 100
    assert agreement.figures["count_change"] == pytest.approx(-50)
    assert agreement.figures["score_change"] == pytest.approx((0.35 - 0.9) / 2, abs=1e-3)


def test_points_are_a_share_of_the_published_map() -> None:
    accuracy = [{"metric": "mAP 0.50:0.95", "dataset": "COCO", "value": 20.0}]
    told = parse_card({**CARD.model_dump(mode="json"), "accuracy": accuracy}, "test")
    assert (published_map(CARD), published_map(told)) == (None, 20.0)
    small = judge(told).compare(ScriptedEngine(told, outputs(lost=5)))
    large = judge().compare(ScriptedEngine(CARD, outputs(lost=5)))
    assert large.lost.value == pytest.approx(small.lost.value * TYPICAL_MAP / 20)


def test_without_a_usable_mirror_fp32_is_compared_with_itself() -> None:
    nothing = [{**one, "scores": np.zeros((1, 3), np.float32)} for one in outputs()]
    agreement = judge(mirror=nothing).compare(ScriptedEngine(CARD, outputs(lost=5)))
    assert "judged by itself" in agreement.metric
    assert agreement.lost.value == pytest.approx(TYPICAL_MAP / 10, rel=0.1)


def test_few_frames_are_not_conclusive() -> None:
    frames = frame_set([np.zeros((WIDTH, WIDTH, 3), np.uint8)] * 20)
    short = Judge(ScriptedEngine(CARD, outputs()[:20] + outputs(mirrored=True)[:20]), frames)
    assert not short.compare(ScriptedEngine(CARD, outputs())).conclusive


def test_frames_without_objects_and_values_that_are_not_finite_are_errors() -> None:
    empty = [{**one, "scores": np.zeros((1, 3), np.float32)} for one in outputs()]
    frames = frame_set([np.zeros((WIDTH, WIDTH, 3), np.uint8)] * COUNT)
    with pytest.raises(ModelError, match="finds nothing"):
        Judge(ScriptedEngine(CARD, empty), frames)
    broken = [{**one, "boxes": one["boxes"] * np.nan} for one in outputs()]
    with pytest.raises(ModelError, match="'boxes' contains values that are not finite"):
        judge().compare(ScriptedEngine(CARD, broken))


CLASSIFIER = parse_card({"name": "kinds", "task": "classify", "input": {"width": 8, "height": 8}, "iou": None}, "test")
EMBEDDER = parse_card({"name": "vectors", "task": "embed", "input": {"width": 8, "height": 8}, "iou": None}, "test")


def other_judge(card: ModelCard, made: list[dict[str, NDArray[Any]]]) -> Judge:
    return Judge(ScriptedEngine(card, made), frame_set([np.zeros((8, 8, 3), np.uint8)] * len(made)))


def scores_of(best: list[int]) -> list[dict[str, NDArray[Any]]]:
    return [{"scores": (np.eye(10, dtype=np.float32)[kind] * 0.5 + 0.05)[None]} for kind in best]


def test_classification() -> None:
    kinds = [number % 10 for number in range(COUNT)]
    other = [(kind + 1) % 10 if number < 12 else kind for number, kind in enumerate(kinds)]
    agreement = other_judge(CLASSIFIER, scores_of(kinds)).compare(ScriptedEngine(CLASSIFIER, scores_of(other)))
    assert agreement.figures["top1_agreement"] == pytest.approx(90)
    assert agreement.lost.value == pytest.approx(10)
    assert agreement.lost.low < 10 < agreement.lost.high
    assert agreement.conclusive
    assert set(agreement.worst) <= set(range(12))


def test_a_single_class_is_not_conclusive() -> None:
    agreement = other_judge(CLASSIFIER, scores_of([3] * COUNT)).compare(ScriptedEngine(CLASSIFIER, scores_of([3] * COUNT)))
    assert not agreement.conclusive
    assert "one class only" in agreement.metric


def test_embeddings() -> None:
    chance = np.random.default_rng(0)
    vectors = chance.normal(size=(COUNT, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    noisy = vectors + chance.normal(0, 0.02, vectors.shape)
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)

    def made(rows: NDArray[Any]) -> list[dict[str, NDArray[Any]]]:
        return [{"embedding": row[None].astype(np.float32)} for row in rows]

    fp32 = other_judge(EMBEDDER, made(vectors))
    same, near = (fp32.compare(ScriptedEngine(EMBEDDER, made(rows))) for rows in (vectors, noisy))
    assert same.figures["cosine"] == pytest.approx(1, abs=1e-6)
    assert same.figures["neighbor_overlap"] == 100
    assert 0.98 < near.figures["cosine"] < 1
    assert 50 < near.figures["neighbor_overlap"] < 100
    assert near.lost.value == pytest.approx(100 * (1 - near.figures["cosine"]))


def test_reasons_for_a_shortfall() -> None:
    good, lossy, moved, faint = (
        judge().compare(ScriptedEngine(CARD, made))
        for made in (outputs(), outputs(lost=5), outputs(shift=1.5), outputs(score=0.15))
    )
    assert good.shortfall(0.0) == ""
    assert "the budget is 1" in lossy.shortfall(1.0)
    assert "90.0 % of FP32's detections are found again" in lossy.shortfall(100.0)
    assert "are found again is 0." in moved.shortfall(100.0)
    # All of a class are fainter by the same: average precision sees nothing of it, a person who looks at the picture does.
    assert faint.lost.value < 1
    assert "found again" in faint.shortfall(1.0)


def detailed(detail: str, off: float = 0.0) -> tuple[ModelCard, list[dict[str, NDArray[Any]]]]:
    """Return a card with details, and outputs whose details, but not boxes, are off by some pixels to the right."""
    names = {"keypoints": {"names": ["left", "right"]}} if detail == "keypoints" else {}
    card = parse_card({**CARD.model_dump(mode="json"), "detail": detail, **names}, "test")
    found = outputs()
    for one in found:
        boxes = one["boxes"][0]
        center, sides = (boxes[:, :2] + boxes[:, 2:]) / 2 + [off, 0], boxes[:, 2:] - boxes[:, :2]
        if detail == "keypoints":
            points = np.stack([center - np.array([5, 0]), center + np.array([5, 0])], axis=1)
            one["keypoints"] = np.concatenate([points, np.ones((3, 2, 1))], axis=2).astype(np.float32)[None]
        elif detail == "rotated_boxes":
            one["rotated_boxes"] = np.concatenate([center, sides / 2, np.full((3, 1), 0.3)], axis=1).astype(np.float32)[None]
        else:  # a stripe of the image, from its left edge to its middle
            one["coefficients"] = np.ones((1, 3, 1), np.float32)
            inside = np.arange(WIDTH) < WIDTH / 2 + off
            one["prototypes"] = np.where(inside, 1, -1).astype(np.float32)[None, None, None].repeat(WIDTH, axis=2)
    return card, found


@pytest.mark.parametrize("detail", ["masks", "keypoints", "rotated_boxes"])
def test_details_are_compared_as_well(detail: str) -> None:
    card, ours = detailed(detail)
    frames = frame_set([np.zeros((WIDTH, WIDTH, 3), np.uint8)] * COUNT)
    good, moved = (
        Judge(ScriptedEngine(card, ours + outputs(mirrored=True)), frames).compare(ScriptedEngine(card, detailed(detail, off)[1]))
        for off in (0.0, 4.0)
    )
    assert good.drift is not None
    assert moved.drift is not None
    assert good.drift.details == good.figures["mean_details"] == 1
    assert good.shortfall(0.0) == ""
    assert moved.drift.iou == 1
    assert moved.drift.details is not None
    assert 0.01 < moved.drift.details < 0.9
    assert "the mean similarity of the masks" in moved.shortfall(100.0)


def test_models_without_details_have_no_figure_for_them() -> None:
    agreement = judge().compare(ScriptedEngine(CARD, outputs()))
    assert agreement.drift is not None
    assert agreement.drift.details is None
    assert "mean_details" not in agreement.figures


@pytest.mark.parametrize("more", ["pose", "segment", "obb"])
def test_the_details_of_an_engine_agree_with_themselves(more: Any, tmp_path: Path) -> None:
    """With many overlapping boxes: the details that are compared are those of the same boxes."""
    pytest.importorskip("onnxruntime")
    file = raw.yolov8(tmp_path / "raw.onnx", more=more)
    graph = import_model(ImportRequest(file, "mine", model_dir=tmp_path / "models", candidates=60))
    chance = np.random.default_rng(0)
    shape = (raw.SIZE.height, raw.SIZE.width, 3)
    frames = frame_set([chance.integers(0, 255, shape, np.uint8) for _ in range(4)])
    with open_engine(graph, EngineRequest("onnxruntime", "cpu", workers=1, threads=1)) as engine:
        agreement = Judge(engine, frames).compare(engine)
    assert agreement.drift is not None
    assert agreement.drift.found == 100
    assert agreement.drift.details == 1
