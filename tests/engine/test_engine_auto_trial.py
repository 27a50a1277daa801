"""``auto`` by a trial: engines are opened, compared and timed, and what was found is remembered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.cache_keys import no_news
from tests.engine.candidates_of_a_graph import BF16, INT8, OPENVINO, ORT, graph, loss, possible, unproven
from tests.engine.graphs import tiny_graph
from tests.engine.test_engine_measure import Time, Timed
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.engine.engine import Engine
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.selection.auto import choose_by_trial
from vision_infer.engine.selection.candidates import Candidate, candidates
from vision_infer.engine.selection.choices import Choice, recall, remember
from vision_infer.engine.selection.known import known_choice, try_here
from vision_infer.engine.store.cache import EngineCache
from vision_infer.engine.store.passport import MeasuredAccuracy

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

__all__ = ["graph", "possible"]


class Openers:
    """Opens engines that take so many milliseconds and give such scores."""

    def __init__(self, time: Time, ms: Mapping[str, int], card: ModelCard, scores: Mapping[str, float] | None = None) -> None:
        self.opened: list[str] = []
        self.closed: list[str] = []
        self._time, self._ms, self._card, self._scores = time, ms, card, scores or {}

    def __call__(self, candidate: Candidate) -> Engine:
        ours, name = self, candidate.engine
        self.opened.append(name)
        if name not in self._ms:
            raise EngineError(f"{name} does not load")

        class One(Timed):
            def __exit__(self, *_: object) -> None:
                ours.closed.append(name)

        boxes, classes = np.zeros((1, 4), np.float32), np.zeros(1, np.int32)
        scores = np.array([self._scores.get(name, 0.9)], np.float32)
        return One(name, self._card, [self._ms[name]], self._time, boxes=boxes, scores=scores, class_ids=classes)


def trial(possible: list[Candidate], openers: Openers, time: Time, **options: Any) -> tuple[Choice, list[str]]:
    said: list[str] = []
    choice = choose_by_trial(
        possible, openers, seconds=2.0, on_message=said.append, clock=time, cpu_ns=lambda: time.now_ns, **options
    )
    assert sorted(openers.closed) == sorted(name for name in openers.opened if name in openers._ms)
    return choice, said


FRAMES = [np.full((32, 32, 3), 7, np.uint8)]


def test_a_trial_takes_what_is_faster_here(possible: list[Candidate], card: ModelCard) -> None:
    time = Time()
    openers = Openers(time, {ORT: 40, OPENVINO: 30}, card)
    choice, _ = trial(possible, openers, time, frames=FRAMES)
    assert choice.candidate.engine == OPENVINO
    assert choice.reason.startswith(f"{OPENVINO}: 1.3× faster than {ORT} here (trial of 2.0 s")
    assert openers.opened == [ORT, OPENVINO]  # without a measure of accuracy neither bf16 nor INT8
    assert time.now_ns < 4 * 10**9


def test_a_trial_stays_with_float32_where_nothing_is_clearly_faster(possible: list[Candidate], card: ModelCard) -> None:
    time = Time()
    choice, _ = trial(possible, Openers(time, {ORT: 40, OPENVINO: 39}, card), time, frames=FRAMES)
    assert choice.candidate == possible[0]
    assert choice.reason.startswith(f"{ORT}: FP32 is fastest here ({OPENVINO} 1.0×; trial of 2.0 s")


@pytest.mark.parametrize("score", [0.2, float("nan")])
def test_a_trial_notices_garbage(possible: list[Candidate], card: ModelCard, score: float) -> None:
    time = Time()
    openers = Openers(time, {ORT: 40, OPENVINO: 10}, card, {OPENVINO: score})
    choice, said = trial(possible, openers, time, frames=FRAMES)
    assert choice.candidate == possible[0]
    assert f"{OPENVINO} is left out: its scores are others than those of FP32" in said
    assert "no other engine is within the budget" in choice.reason


def test_a_trial_goes_on_where_an_engine_does_not_load(possible: list[Candidate], card: ModelCard) -> None:
    time = Time()
    choice, said = trial(possible, Openers(time, {ORT: 40}, card), time)
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
def test_what_computes_in_less_has_to_prove_itself_on_the_frames(
    possible: list[Candidate], card: ModelCard, losses: Mapping[str, MeasuredAccuracy], taken: str
) -> None:
    time = Time()
    compared: list[tuple[str, str]] = []

    def agree(first: Engine, second: Engine) -> MeasuredAccuracy:
        compared.append((first.name, second.name))
        return losses.get(second.name, loss(0.0, 0.0))

    openers = Openers(time, {ORT: 40, OPENVINO: 41, BF16: 20, INT8: 5}, card)
    choice, _ = trial(possible, openers, time, frames=FRAMES, agree=agree)
    assert compared == [(ORT, OPENVINO), (ORT, BF16), (ORT, INT8)]
    assert choice.candidate.engine == taken


def test_int8_is_tried_where_a_passport_proves_it(possible: list[Candidate], card: ModelCard) -> None:
    for found, taken in ((loss(0.3, 0.8), INT8), (loss(0.3, 1.2), ORT)):
        time = Time()
        openers = Openers(time, {ORT: 40, OPENVINO: 41, INT8: 15}, card, {INT8: 0.5})
        choice, _ = trial(possible, openers, time, proven=lambda one, found=found: found if one.engine == INT8 else None)
        assert choice.candidate.engine == taken


def test_trying_for_real_is_remembered(graph: Path, tmp_path: Path) -> None:
    request = EngineRequest(workers=1, engine_dir=tmp_path / "engines")
    said: list[str] = []
    choice = try_here(graph, request, seconds=0.1, on_message=said.append)
    assert f"trying {OPENVINO}" in said
    assert known_choice(graph, tmp_path / "engines") == choice
    assert try_here(graph, EngineRequest(workers=1), seconds=0.1).candidate.lossless


def test_a_choice_is_remembered_for_the_same_candidates_only(possible: list[Candidate], tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    assert recall(folder, possible, 1.0) is None
    choice = Choice(possible[1], "it is 1.3× faster")
    remember(folder, possible, 1.0, choice)
    assert recall(folder, possible, 1.0) == choice
    assert recall(folder, possible, 0.5) is None
    assert recall(folder, possible[:3], 1.0) is None
    (file,) = (folder / "choices").iterdir()
    file.write_text("{")
    assert recall(folder, possible, 1.0) is None
    remember(folder, possible, 1.0, choice)
    tiny_graph(possible[3].graph, possible[3].facts.card, candidates=6)  # another graph: another trial
    assert recall(folder, possible, 1.0) is None
    EngineCache(folder).prune(0)


def test_auto_takes_what_a_trial_found(graph: Path, tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    request = EngineRequest(device="cpu", workers=1, engine_dir=folder)
    with open_engine(graph, request, lambda _: None) as engine:
        assert engine.name == ORT
    here = candidates(graph)
    (other,) = [one for one in here if one.engine == OPENVINO]
    remember(folder, here, 1.0, Choice(other, "it is faster"))
    said: list[str] = []
    with open_engine(graph, request, said.append) as engine:
        assert engine.name == OPENVINO
    assert said[0] == "it is faster"
    for named in (EngineRequest("onnxruntime", "cpu", 1, engine_dir=folder), EngineRequest(device="cpu", workers=1)):
        with open_engine(graph, named, no_news) as engine:
            assert engine.name == ORT
