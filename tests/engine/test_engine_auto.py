"""``auto``: by passports, by a trial, remembered; and the reason in one line."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.engine.cache_keys import no_news
from tests.engine.graphs import tiny_graph
from tests.engine.test_engine_measure import Time, Timed
from tests.engine.test_graph_facts import SCALE, with_nodes
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.engine.auto import choose_by_passports, choose_by_trial, with_passports
from vision_infer.engine.cache import EngineCache
from vision_infer.engine.candidates import Candidate, candidates, this_device, variants
from vision_infer.engine.choices import Choice, recall, remember
from vision_infer.engine.engine import Engine
from vision_infer.engine.graph_facts import GraphFacts
from vision_infer.engine.known import known_choice, try_here
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.passport import (
    ARITHMETIC,
    DeviceFacts,
    MeasuredAccuracy,
    MeasuredSpeed,
    Passport,
    Sources,
    passport_file,
    summarise,
    write_passport,
)

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

ORT, OPENVINO, BF16, INT8 = "onnxruntime-cpu-fp32", "openvino-cpu-fp32", "openvino-cpu-bf16", "onnxruntime-cpu-int8"


@pytest.fixture
def graph(tmp_path: Path, card: ModelCard) -> Path:
    return tiny_graph(tmp_path / "model.onnx", card)


@pytest.fixture
def possible(graph: Path, card: ModelCard) -> list[Candidate]:
    """Four engines, whatever this machine has."""
    fp32, int8 = GraphFacts(card, "fp32"), GraphFacts(card, "int8")
    small = tiny_graph(graph.with_name("model.int8.onnx"), card, candidates=5)
    return [
        Candidate(graph, fp32, ORT),
        Candidate(graph, fp32, OPENVINO),
        Candidate(graph, fp32, BF16, "bf16"),
        Candidate(small, int8, INT8),
    ]


def loss(value: float, high: float, judged: str = "proven") -> MeasuredAccuracy:
    fields = {"metric": "agreement", "value": value, "low": 0, "high": high, "data": "my.mp4", "frames": 200, "judged": judged}
    return MeasuredAccuracy.model_validate(fields)


def passport(one: Candidate, times: float, accuracy: MeasuredAccuracy | None = None, p95_ms: float = 20, **more: Any) -> Passport:
    speed = MeasuredSpeed(
        batch=1, workers=2, threads=1, p50_ms=p95_ms, p95_ms=p95_ms, fps=50, fps_low=50, fps_high=50, fp32_ratio=times
    )
    fields: dict[str, Any] = {
        "engine": one.engine,
        "card": summarise(one.facts.card),
        "sources": Sources(graph=one.key().graph_sha256),
        "runtime": one.runtime,
        "runtime_version": one.key().runtime_version,
        "compute": one.compute,
        "device": this_device(),
        "accuracy": () if accuracy is None else (accuracy,),
        "speed": (speed,),
        "date": datetime.datetime.now(datetime.UTC),
    }
    return Passport.model_validate({**fields, **more})


def by_passports(possible: list[Candidate], *given: Passport, **options: Any) -> Choice | None:
    return choose_by_passports(possible[0], with_passports(possible, given, this_device()), **options)


def test_the_fastest_within_the_budget(possible: list[Candidate]) -> None:
    reference, openvino, bf16, int8 = possible
    given = [
        passport(reference, 1.0),
        passport(openvino, 1.3),
        passport(bf16, 1.7, loss(0.6, 1.4)),
        passport(int8, 2.6, loss(0.4, 0.9)),
    ]
    chosen = by_passports(possible, *given)
    assert chosen is not None
    assert chosen.candidate == int8
    assert chosen.reason == f"{INT8}: 2.6× faster than {ORT}, −0.4 points on 200 frames of my.mp4"
    for budget, expected in ((1.5, INT8), (0.8, OPENVINO), (0.0, OPENVINO)):
        chosen = by_passports(possible, *given, budget=budget)
        assert chosen is not None
        assert chosen.candidate.engine == expected


def test_what_is_not_proven_is_not_taken(possible: list[Candidate]) -> None:
    reference, openvino, bf16, int8 = possible
    chosen = by_passports(
        possible, passport(bf16, 1.7), passport(int8, 2.6, loss(0.1, 0.2, "not proven")), passport(openvino, 0.8)
    )
    assert chosen is not None
    assert chosen.candidate == reference
    assert chosen.reason == (
        f"{ORT}: nothing faster is within the budget ({OPENVINO} 0.8×, {BF16} 1.7× but its accuracy is not proven, "
        f"{INT8} 2.6× but its accuracy is not proven, by passports)"
    )


def test_where_nothing_is_faster(possible: list[Candidate]) -> None:
    chosen = by_passports(possible, passport(possible[0], 1.0), passport(possible[1], 0.8))
    assert chosen is not None
    assert chosen.reason == f"{ORT}: FP32 is fastest here ({OPENVINO} 0.8×, by passports)"


def test_a_loss_over_the_budget_is_told(possible: list[Candidate]) -> None:
    chosen = by_passports(possible, passport(possible[3], 2.6, loss(3.0, 4.2)))
    assert chosen is not None
    assert chosen.candidate == possible[0]
    assert "2.6× but up to 4.2 points lost" in chosen.reason


def test_float32_that_is_garbage_in_a_runtime_is_not_taken(possible: list[Candidate]) -> None:
    chosen = by_passports(possible, passport(possible[1], 1.5, loss(60, 70)))
    assert chosen is not None
    assert chosen.candidate == possible[0]


def test_a_latency_target(possible: list[Candidate]) -> None:
    given = [passport(possible[1], 1.3, p95_ms=15), passport(possible[3], 2.6, loss(0.4, 0.9), p95_ms=30)]
    for target, expected in ((None, INT8), (31, INT8), (20, OPENVINO), (10, ORT)):
        chosen = by_passports(possible, *given, latency_ms=target)
        assert chosen is not None
        assert chosen.candidate.engine == expected
    none = by_passports(possible, *given, latency_ms=10)
    assert none is not None
    assert "nothing faster is within the budget and the 10 ms" in none.reason


def test_passports_of_other_devices_graphs_and_versions_say_nothing(possible: list[Candidate]) -> None:
    one = possible[1]
    device = this_device()
    for more in (
        {"sources": Sources(graph="b" * 64)},
        {"runtime_version": "0.1"},
        {"device": device.model_copy(update={"name": "Another"})},
        {"device": device.model_copy(update={"instructions": ("mmx",)})},
        {"compute": "bf16"},
        {"speed": ()},
    ):
        assert by_passports(possible, passport(one, 9.0, **more)) is None


def test_a_passport_of_a_machine_that_computes_alike_is_a_guess(graph: Path, tmp_path: Path) -> None:
    here = candidates(graph)
    (other,) = [one for one in here if one.engine == OPENVINO]
    elsewhere = this_device().model_copy(update={"name": "Another"})
    write_passport(passport(other, 1.6, device=elsewhere, runtime_version="0.9"), passport_file(graph, OPENVINO))
    choice = known_choice(graph, tmp_path)
    assert choice is not None
    assert choice.reason == f"{OPENVINO}: 1.6× faster than {ORT} (as on Another, openvino 0.9)"
    assert choice.guessed
    remember(tmp_path / "engines", here, 1.0, Choice(here[0], "a trial here"))
    choice = known_choice(graph, tmp_path / "engines")
    assert choice is not None
    assert choice.reason == "a trial here"
    assert not choice.guessed


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
    choice = choose_by_trial(possible, openers, seconds=2.0, say=said.append, clock=time, cpu_ns=lambda: time.now_ns, **options)
    assert sorted(openers.closed) == sorted(name for name in openers.opened if name in openers._ms)
    return choice, said


def unproven(engine: str) -> str:
    return f"{engine} is left out: what it loses has to be measured on this processor: give frames with --data"


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
    choice = try_here(graph, request, seconds=0.1, say=said.append)
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


def test_of_passports_and_trials_the_newest_counts(graph: Path, tmp_path: Path) -> None:
    here = candidates(graph)
    remember(tmp_path / "engines", here, 1.0, Choice(here[0], "a trial"))
    (other,) = [one for one in here if one.engine == OPENVINO]
    now = datetime.datetime.now(datetime.UTC)
    write_passport(passport(other, 1.6, date=now - datetime.timedelta(hours=1)), passport_file(graph, OPENVINO))
    choice = known_choice(graph, tmp_path / "engines")
    assert choice is not None
    assert choice.reason == "a trial"
    write_passport(passport(other, 1.6, date=now + datetime.timedelta(hours=1)), passport_file(graph, OPENVINO))
    choice = known_choice(graph, tmp_path / "engines")
    assert choice is not None
    assert choice.candidate == other
    (passport_file(graph, OPENVINO)).write_text("{")
    choice = known_choice(graph, tmp_path / "engines")
    assert choice is not None
    assert choice.reason == "a trial"


@pytest.fixture
def int8(graph: Path, card: ModelCard) -> Candidate:
    """A variant of the graph that quantizes."""
    small = tiny_graph(graph.with_name("model.int8.onnx"), card)
    nodes = [
        helper.make_node("QuantizeLinear", ["share", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
    ]
    with_nodes(small, nodes, SCALE)
    (found,) = [one for one in candidates(graph) if one.engine == INT8]
    return found


@pytest.mark.parametrize("alike", [True, False])
def test_accuracy_that_was_proven_on_another_processor(graph: Path, int8: Candidate, tmp_path: Path, alike: bool) -> None:
    """It counts where INT8 is computed alike: then INT8 is tried without any frames, and else it is left out."""
    here = set(this_device().instructions)
    without = tuple(sorted(here - ARITHMETIC["int8"]))
    vnni = tuple(sorted(here & ARITHMETIC["int8"])) or ("avx_vnni",)
    has = bool(here & ARITHMETIC["int8"])
    device = DeviceFacts(name="Another", instructions=(*without, "avx512_fp16", *(vnni if has == alike else ())))
    write_passport(passport(int8, 2.6, loss(0.4, 0.9), device=device), passport_file(int8.graph, INT8))
    guess = known_choice(graph, tmp_path / "engines")
    assert (guess is not None and guess.guessed and guess.candidate == int8) == alike
    said: list[str] = []
    try_here(graph, EngineRequest(workers=1, engine_dir=tmp_path / "engines"), seconds=0.05, say=said.append)
    assert (f"trying {INT8}" in said) == alike
    assert (unproven(INT8) in said) != alike


def test_auto_opens_the_variant_that_a_passport_proves(graph: Path, int8: Candidate, tmp_path: Path) -> None:
    small = int8.graph
    request = EngineRequest(device="cpu", workers=1, engine_dir=tmp_path / "engines")
    for accuracy, name in ((loss(0.4, 0.9), INT8), (loss(0.4, 1.9), ORT)):
        write_passport(passport(int8, 2.6, accuracy), passport_file(small, INT8))
        said: list[str] = []
        with open_engine(graph, request, said.append) as engine:
            assert engine.name == name
            engine.warm_up()
        assert said[0].startswith(f"{name}: ")


def test_variants_lie_beside_the_graph(graph: Path, card: ModelCard) -> None:
    good = tiny_graph(graph.with_name("model.int8.onnx"), card)
    tiny_graph(graph.with_name("model.other.onnx"), card.model_copy(update={"name": "other"}))
    tiny_graph(graph.with_name("more.int8.onnx"), card)
    graph.with_name("model.broken.onnx").write_text("no graph")
    assert variants(graph) == [good]
    first, *rest = candidates(graph)
    assert (first.graph, first.engine) == (graph, ORT)
    assert good in {one.graph for one in rest}
