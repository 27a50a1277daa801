"""The choice by passports, and its reason in one line."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from onnx import helper

from tests.engine.candidates_of_a_graph import BF16, INT8, OPENVINO, ORT, graph, loss, passport, possible, unproven
from tests.engine.graphs import tiny_graph
from tests.engine.test_graph_facts import SCALE, with_nodes
from vision_infer.core.card import ModelCard
from vision_infer.engine.graph_facts import variants
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.selection.auto import AutotuneOptions, autotune_model
from vision_infer.engine.selection.by_passport import choose_by_passports, with_passports
from vision_infer.engine.selection.candidates import EngineCandidate, candidates, this_device
from vision_infer.engine.selection.lookup import find_choice
from vision_infer.engine.selection.tuning_store import EngineChoice, TuningStore
from vision_infer.engine.store.passport import ARITHMETIC, DeviceFacts, MeasuredDrift, Passport, Sources, passport_file

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

__all__ = ["graph", "possible"]


def write_passport(made: Passport, path: Path) -> None:
    path.write_text(made.to_json(), encoding="utf-8")


def by_passports(possible: list[EngineCandidate], *given: Passport, **options: Any) -> EngineChoice | None:
    return choose_by_passports(possible[0], with_passports(possible, given, this_device()), **options)


def test_the_fastest_within_the_budget(possible: list[EngineCandidate]) -> None:
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
    assert chosen.reason == f"{INT8}: 2.6× as fast as {ORT}, −0.40 points on 200 frames of my.mp4"
    for budget, expected in ((1.5, INT8), (0.8, OPENVINO), (0.0, OPENVINO)):
        chosen = by_passports(possible, *given, budget=budget)
        assert chosen is not None
        assert chosen.candidate.engine == expected


def test_unverified_accuracy_rules_an_engine_out(possible: list[EngineCandidate]) -> None:
    reference, openvino, bf16, int8 = possible
    chosen = by_passports(
        possible, passport(bf16, 1.7), passport(int8, 2.6, loss(0.1, 0.2, "not proven")), passport(openvino, 0.8)
    )
    assert chosen is not None
    assert chosen.candidate == reference
    assert chosen.reason == (
        f"{ORT}: nothing faster is within the budget ({BF16} 1.7×, {INT8} 2.6×); "
        f"'vision-infer engine list {reference.facts.card.name}' has the reasons"
    )


def test_float32_is_chosen_if_nothing_is_faster(possible: list[EngineCandidate]) -> None:
    chosen = by_passports(possible, passport(possible[0], 1.0), passport(possible[1], 0.8))
    assert chosen is not None
    assert chosen.reason == f"{ORT}: FP32 is fastest here ({OPENVINO} 0.8×, by passports)"


def test_a_loss_over_the_budget_is_in_the_reason(possible: list[EngineCandidate]) -> None:
    chosen = by_passports(possible, passport(possible[3], 2.6, loss(3.0, 4.2)))
    assert chosen is not None
    assert chosen.candidate == possible[0]
    assert f"nothing faster is within the budget ({INT8} 2.6×)" in chosen.reason


def test_an_accepted_loss_is_honored_and_shown(possible: list[EngineCandidate]) -> None:
    for accuracy in (loss(3.0, 4.2), loss(0.1, 0.2, "not proven")):
        chosen = by_passports(possible, passport(possible[3], 2.6, accuracy, accepted=True), budget=0.5)
        assert chosen is not None
        assert chosen.candidate == possible[3]
        assert ", loss accepted" in chosen.reason


@pytest.mark.parametrize(
    ("figure", "at_the_limit", "beyond"),
    [("count", -2.04, -2.06), ("found", 97.96, 97.94), ("iou", 0.9296, 0.9294), ("score", 0.0304, 0.0306)],
)
def test_figures_are_judged_as_they_are_printed(figure: str, at_the_limit: float, beyond: float) -> None:
    good: dict[str, Any] = {
        "threshold": 0.35, "objects": 200, "count": 0, "count_low": -4.3, "count_high": 0.2, "score": 0, "score_difference": 0,
        "found": 100, "iou": 0.97,
    }  # fmt: skip
    assert MeasuredDrift.model_validate({**good, figure: at_the_limit}).shortfall() == ""
    assert MeasuredDrift.model_validate({**good, figure: beyond}).shortfall()
    for high, short in ((1.004, False), (1.006, True)):
        assert bool(loss(0.4, high).shortfall(1.0)) == short


def test_float32_with_wrong_results_is_not_chosen(possible: list[EngineCandidate]) -> None:
    chosen = by_passports(possible, passport(possible[1], 1.5, loss(60, 70)))
    assert chosen is not None
    assert chosen.candidate == possible[0]


def test_passports_of_other_devices_graphs_and_versions_do_not_count(possible: list[EngineCandidate]) -> None:
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


def test_a_passport_of_a_similar_machine_is_an_estimate(graph: Path, tmp_path: Path) -> None:
    here = candidates(graph)
    (other,) = [one for one in here if one.engine == OPENVINO]
    elsewhere = this_device().model_copy(update={"name": "Another"})
    write_passport(passport(other, 1.6, device=elsewhere, runtime_version="0.9"), passport_file(graph, OPENVINO))
    choice = find_choice(graph, tmp_path)
    assert choice is not None
    assert choice.reason == f"{OPENVINO}: 1.6× as fast as {ORT} (as on Another, openvino 0.9)"
    assert choice.estimated
    TuningStore(tmp_path / "engines", 1.0).save_choice(here, EngineChoice(here[0], "autotuned here"))
    choice = find_choice(graph, tmp_path / "engines")
    assert choice is not None
    assert choice.reason == "autotuned here"
    assert not choice.estimated


def test_the_latest_of_passports_and_autotuning_counts(graph: Path, tmp_path: Path) -> None:
    here = candidates(graph)
    TuningStore(tmp_path / "engines", 1.0).save_choice(here, EngineChoice(here[0], "autotuned"))
    (other,) = [one for one in here if one.engine == OPENVINO]
    now = datetime.datetime.now(datetime.UTC)
    write_passport(passport(other, 1.6, date=now - datetime.timedelta(hours=1)), passport_file(graph, OPENVINO))
    choice = find_choice(graph, tmp_path / "engines")
    assert choice is not None
    assert choice.reason == "autotuned"
    write_passport(passport(other, 1.6, date=now + datetime.timedelta(hours=1)), passport_file(graph, OPENVINO))
    choice = find_choice(graph, tmp_path / "engines")
    assert choice is not None
    assert choice.candidate == other
    (passport_file(graph, OPENVINO)).write_text("{")
    choice = find_choice(graph, tmp_path / "engines")
    assert choice is not None
    assert choice.reason == "autotuned"


@pytest.fixture
def int8(graph: Path, card: ModelCard) -> EngineCandidate:
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
def test_accuracy_that_was_verified_on_another_cpu(graph: Path, int8: EngineCandidate, tmp_path: Path, alike: bool) -> None:
    """It counts if INT8 is computed in the same way: then INT8 is tried without frames; otherwise it is left out."""
    here = set(this_device().instructions)
    without = tuple(sorted(here - ARITHMETIC["int8"]))
    vnni = tuple(sorted(here & ARITHMETIC["int8"])) or ("avx_vnni",)
    has = bool(here & ARITHMETIC["int8"])
    device = DeviceFacts(name="Another", instructions=(*without, "avx512_fp16", *(vnni if has == alike else ())))
    write_passport(passport(int8, 2.6, loss(0.4, 0.9), device=device), passport_file(int8.graph, INT8))
    guess = find_choice(graph, tmp_path / "engines")
    assert (guess is not None and guess.estimated and guess.candidate == int8) == alike
    said: list[str] = []
    request = EngineRequest(workers=1, engine_dir=tmp_path / "engines")
    autotune_model(graph, request, AutotuneOptions(seconds=0.05), said.append)
    assert (f"trying {INT8}" in said) == alike
    assert (unproven(INT8) in said) != alike


def test_auto_opens_the_variant_that_a_passport_verifies(graph: Path, int8: EngineCandidate, tmp_path: Path) -> None:
    small = int8.graph
    request = EngineRequest(device="cpu", workers=1, engine_dir=tmp_path / "engines")
    for accuracy, name in ((loss(0.4, 0.9), INT8), (loss(0.4, 1.9), ORT)):
        write_passport(passport(int8, 2.6, accuracy), passport_file(small, INT8))
        said: list[str] = []
        with open_engine(graph, request, said.append) as engine:
            assert engine.name == name
            engine.warm_up()
        assert said[0].startswith(f"{name}: ")


def test_variants_are_next_to_the_graph(graph: Path, card: ModelCard) -> None:
    good = tiny_graph(graph.with_name("model.int8.onnx"), card)
    tiny_graph(graph.with_name("model.other.onnx"), card.model_copy(update={"name": "other"}))
    tiny_graph(graph.with_name("more.int8.onnx"), card)
    graph.with_name("model.broken.onnx").write_text("no graph")
    assert variants(graph) == [good]
    first, *rest = candidates(graph)
    assert (first.graph, first.engine) == (graph, ORT)
    assert good in {one.graph for one in rest}
