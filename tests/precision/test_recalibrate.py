"""Correction of the scores of a quantized detector: the fit, its limits, and the results of the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.engine.graphs import tiny_graph
from vision_infer.core.card import ModelCard
from vision_infer.core.detections import Detections
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.model.graph import check_contract, read_card
from vision_infer.precision.quantization.recalibrate import MIN_SCORES, Recalibration, apply, fit

pytest.importorskip("onnxruntime")

THRESHOLD = 0.35


def logit(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    made: NDArray[np.float64] = np.log(scores / (1 - scores)).astype(np.float64)
    return made


def sigmoid(values: NDArray[np.floating]) -> NDArray[np.float32]:
    made: NDArray[np.float32] = (1 / (1 + np.exp(-values))).astype(np.float32)
    return made


def frames(scores: NDArray[np.floating], count: int = 10) -> list[Detections]:
    """Distribute scores over frames."""
    dealt = []
    for part in np.array_split(np.asarray(scores, np.float32), count):
        boxes = np.tile(np.array([1, 1, 9, 9], np.float32), (len(part), 1))
        dealt.append(Detections(boxes, part, np.zeros(len(part), np.int32)))
    return dealt


@pytest.fixture
def true_scores() -> NDArray[np.float32]:
    return sigmoid(np.random.default_rng(0).normal(-1, 1.5, 500))


def test_a_change_of_the_scores_is_corrected(true_scores: NDArray[np.float32]) -> None:
    drifted = sigmoid(0.9 * logit(true_scores) - 0.3)
    found = fit(frames(true_scores), frames(drifted[::-1]), THRESHOLD)  # in any order: nothing is matched
    assert found is not None
    assert found.slope == pytest.approx(1 / 0.9, rel=1e-3)
    assert found.offset == pytest.approx(0.3 / 0.9, rel=1e-2)
    assert str(found) == "logit × 1.111 +0.333"


def test_the_count_at_the_threshold_is_restored_despite_noise(true_scores: NDArray[np.float32]) -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, len(true_scores))
    drifted = sigmoid(logit(true_scores) - 0.4 + noise)
    found = fit(frames(true_scores), frames(drifted), THRESHOLD)
    assert found is not None
    corrected = sigmoid(found.slope * logit(drifted) + found.offset)
    wanted = int((true_scores >= THRESHOLD).sum())
    assert int((drifted >= THRESHOLD).sum()) < 0.85 * wanted
    assert abs(int((corrected >= THRESHOLD).sum()) - wanted) <= 0.02 * wanted


def test_scores_without_a_valid_correction(true_scores: NDArray[np.float32]) -> None:
    few = true_scores[: MIN_SCORES - 1]
    for ours, theirs in (
        ([], []),
        (frames(true_scores), frames(few)),  # too little to fit
        (frames(few), frames(true_scores)),
        (frames(true_scores), frames(np.full(500, 0.4))),  # all alike
        (frames(true_scores), frames(sigmoid(0.3 * logit(true_scores)))),  # a slope of 3.3 is not accepted as a correction
    ):
        assert fit(ours, theirs, THRESHOLD) is None


def test_scores_of_nought_and_one_are_finite() -> None:
    scores = np.concatenate((np.zeros(20), np.ones(20), np.linspace(0.2, 0.6, 40)))
    found = fit(frames(scores), frames(scores), THRESHOLD)
    assert found is not None
    assert found.slope == pytest.approx(1)
    assert found.offset == pytest.approx(0, abs=1e-6)


def test_the_graph_gives_the_corrected_scores(tmp_path: Path, card: ModelCard) -> None:
    plain = tiny_graph(tmp_path / "plain.onnx", card)
    model = onnx.load(plain)
    before = model.SerializeToString(deterministic=True)
    corrected = apply(model, Recalibration(1.2, -0.5), "tiny")
    assert model.SerializeToString(deterministic=True) == before
    assert read_card(corrected, "tiny") == card
    check_contract(corrected, card, "tiny")
    onnx.save(corrected, tmp_path / "corrected.onnx")
    given = [_outputs(tmp_path / name, gray) for name in ("plain.onnx", "corrected.onnx") for gray in (0, 90, 200, 255)]
    for first, second in zip(given[:4], given[4:], strict=True):
        inside = np.clip(first["scores"], 1e-6, 1 - 1e-6)
        np.testing.assert_allclose(second["scores"], sigmoid(1.2 * logit(inside) - 0.5), atol=1e-5)
        np.testing.assert_array_equal(second["boxes"], first["boxes"])
        np.testing.assert_array_equal(second["class_ids"], first["class_ids"])
        assert np.isfinite(second["scores"]).all()


def _outputs(path: Path, gray: int) -> dict[str, NDArray[Any]]:
    with open_engine(path, EngineRequest("onnxruntime", "cpu", workers=1)) as engine:
        loan = engine.lend(1)
        loan.slots[0].pixels[:] = gray
        return dict(engine.collect(engine.submit(loan)).outputs)
