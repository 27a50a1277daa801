"""Autotuning: engines are opened, compared and timed, and the choice is saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.cache_keys import no_news
from tests.engine.candidates_of_a_graph import BF16, INT8, OPENVINO, ORT, graph, loss, passport, possible, unproven
from tests.engine.graphs import tiny_graph
from tests.engine.test_engine_measure import Time, Timed
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.engine.engine import Engine
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.selection.auto import AutotuneOptions, AutotuneRequest, autotune, autotune_model
from vision_infer.engine.selection.candidates import EngineCandidate, candidates
from vision_infer.engine.selection.lookup import find_choice
from vision_infer.engine.selection.tuning_store import EngineChoice, TuningStore
from vision_infer.engine.store.cache import EngineCache
from vision_infer.engine.store.passport import MeasuredAccuracy, Passport

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

__all__ = ["graph", "possible"]


class Openers:
    """Opens engines with the given durations (ms) and scores."""

    def __init__(self, time: Time, ms: Mapping[str, int], card: ModelCard, scores: Mapping[str, float] | None = None) -> None:
        self.opened: list[str] = []
        self.closed: list[str] = []
        self._time, self._ms, self._card, self._scores = time, ms, card, scores or {}

    def __call__(self, candidate: EngineCandidate) -> Engine:
        ours, name = self, candidate.engine
        self.opened.append(name)
        if name not in self._ms:
            raise EngineError(f"{name} does not load")

        class TimedEngine(Timed):
            def __exit__(self, *_: object) -> None:
                ours.closed.append(name)

        boxes, classes = np.zeros((1, 4), np.float32), np.zeros(1, np.int32)
        scores = np.array([self._scores.get(name, 0.9)], np.float32)
        return TimedEngine(name, self._card, [self._ms[name]], self._time, boxes=boxes, scores=scores, class_ids=classes)


def tune(
    possible: list[EngineCandidate],
    openers: Openers,
    time: Time,
    verified: Callable[[EngineCandidate], Passport | None] = lambda _: None,
    **options: Any,
) -> tuple[EngineChoice, list[str]]:
    said: list[str] = []
    choice = autotune(
        AutotuneRequest(
            possible,
            openers,
            AutotuneOptions(seconds=2.0, **options),
            verified,
            on_message=said.append,
            clock=time,
            cpu_ns=lambda: time.now_ns,
        )
    )
    assert sorted(openers.closed) == sorted(name for name in openers.opened if name in openers._ms)
    return choice, said


FRAMES = [np.full((32, 32, 3), 7, np.uint8)]


def test_autotuning_chooses_the_faster_engine(possible: list[EngineCandidate], card: ModelCard) -> None:
    time = Time()
    openers = Openers(time, {ORT: 40, OPENVINO: 30}, card)
    choice, _ = tune(possible, openers, time, frames=FRAMES)
    assert choice.candidate.engine == OPENVINO
    assert choice.reason.startswith(f"{OPENVINO}: 1.3× as fast as {ORT} here (autotuned in 2.0 s")
    assert openers.opened == [ORT, OPENVINO]  # without a comparison neither bf16 nor INT8 is tried
    assert time.now_ns < 4 * 10**9


def test_autotuning_keeps_float32_if_nothing_is_clearly_faster(possible: list[EngineCandidate], card: ModelCard) -> None:
    time = Time()
    choice, _ = tune(possible, Openers(time, {ORT: 40, OPENVINO: 39}, card), time, frames=FRAMES)
    assert choice.candidate == possible[0]
    assert choice.reason.startswith(f"{ORT}: FP32 is fastest here ({OPENVINO} 1.0×; autotuned in 2.0 s")


@pytest.mark.parametrize("score", [0.2, float("nan")])
def test_autotuning_notices_wrong_scores(possible: list[EngineCandidate], card: ModelCard, score: float) -> None:
    time = Time()
    openers = Openers(time, {ORT: 40, OPENVINO: 10}, card, {OPENVINO: score})
    choice, said = tune(possible, openers, time, frames=FRAMES)
    assert choice.candidate == possible[0]
    assert f"{OPENVINO} is left out: its scores differ from those of FP32" in said
    assert "no other engine is within the budget" in choice.reason


def test_autotuning_continues_if_an_engine_does_not_load(possible: list[EngineCandidate], card: ModelCard) -> None:
    time = Time()
    choice, said = tune(possible, Openers(time, {ORT: 40}, card), time)
    assert choice.candidate == possible[0]
    assert said == [f"trying {OPENVINO}", f"{OPENVINO} is left out: {OPENVINO} does not load", unproven(BF16), unproven(INT8)]


@pytest.mark.parametrize(
    ("losses", "taken"),
    [
        ({BF16: loss(0.3, 0.8), INT8: loss(0.3, 0.9)}, INT8),
        ({BF16: loss(0.3, 0.8), INT8: loss(0.3, 1.2)}, BF16),
        ({BF16: loss(0.3, 1.2), INT8: loss(0.3, 1.2)}, ORT),
        ({BF16: loss(0.0, 0.0, "not proven"), INT8: loss(0.0, 0.0, "not proven")}, ORT),
    ],
)
def test_lower_precision_is_accepted_only_if_its_accuracy_is_verified(
    possible: list[EngineCandidate], card: ModelCard, losses: Mapping[str, MeasuredAccuracy], taken: str
) -> None:
    time = Time()
    compared: list[tuple[str, str]] = []

    def compare(first: Engine, second: Engine) -> MeasuredAccuracy:
        compared.append((first.name, second.name))
        return losses.get(second.name, loss(0.0, 0.0))

    openers = Openers(time, {ORT: 40, OPENVINO: 41, BF16: 20, INT8: 5}, card)
    choice, _ = tune(possible, openers, time, frames=FRAMES, compare=compare)
    assert compared == [(ORT, OPENVINO), (ORT, BF16), (ORT, INT8)]
    assert choice.candidate.engine == taken


def test_int8_is_tried_if_a_passport_verifies_it(possible: list[EngineCandidate], card: ModelCard) -> None:
    int8 = possible[3]
    for found, accepted, taken in ((loss(0.3, 0.8), False, INT8), (loss(0.3, 1.2), False, ORT), (loss(0.3, 1.2), True, INT8)):
        time = Time()
        openers = Openers(time, {ORT: 40, OPENVINO: 41, INT8: 15}, card, {INT8: 0.5})
        known = {INT8: passport(int8, 2.6, found, accepted=accepted)}
        choice, _ = tune(possible, openers, time, lambda candidate, known=known: known.get(candidate.engine))  # type: ignore[misc]
        assert choice.candidate.engine == taken
        assert choice.reason.endswith(", loss accepted") == accepted


def test_the_choice_of_real_engines_is_saved(graph: Path, tmp_path: Path) -> None:
    request = EngineRequest(workers=1, engine_dir=tmp_path / "engines")
    said: list[str] = []
    choice = autotune_model(graph, request, AutotuneOptions(seconds=0.1), said.append)
    assert f"trying {OPENVINO}" in said
    assert find_choice(graph, tmp_path / "engines") == choice
    assert autotune_model(graph, EngineRequest(workers=1), AutotuneOptions(seconds=0.1)).candidate.lossless


def test_a_saved_choice_counts_for_the_same_candidates_only(possible: list[EngineCandidate], tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    assert TuningStore(folder, 1.0).choice(possible) is None
    choice = EngineChoice(possible[1], "it is 1.3× as fast")
    TuningStore(folder, 1.0).save_choice(possible, choice)
    assert TuningStore(folder, 1.0).choice(possible) == choice
    assert TuningStore(folder, 0.5).choice(possible) is None
    assert TuningStore(folder, 1.0).choice(possible[:3]) is None
    (file,) = (folder / "choices").iterdir()
    file.write_text("{")
    assert TuningStore(folder, 1.0).choice(possible) is None
    TuningStore(folder, 1.0).save_choice(possible, choice)
    tiny_graph(possible[3].graph, possible[3].facts.card, candidates=6)  # another graph is tuned again
    assert TuningStore(folder, 1.0).choice(possible) is None
    EngineCache(folder).prune(0)


def test_auto_uses_the_saved_choice(graph: Path, tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    request = EngineRequest(device="cpu", workers=1, engine_dir=folder)
    with open_engine(graph, request, lambda _: None) as engine:
        assert engine.name == ORT
    here = candidates(graph)
    (other,) = [one for one in here if one.engine == OPENVINO]
    TuningStore(folder, 1.0).save_choice(here, EngineChoice(other, "it is faster"))
    said: list[str] = []
    with open_engine(graph, request, said.append) as engine:
        assert engine.name == OPENVINO
    assert said[0] == "it is faster"
    for named in (EngineRequest("onnxruntime", "cpu", 1, engine_dir=folder), EngineRequest(device="cpu", workers=1)):
        with open_engine(graph, named, no_news) as engine:
            assert engine.name == ORT
