"""The engine that a run begins with while a better one is compiled."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.graphs import tiny_graph
from vision_infer.core.card import ModelCard
from vision_infer.engine import graph_facts
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.selection.candidates import candidates
from vision_infer.engine.selection.tuning_store import EngineChoice, TuningStore
from vision_infer.engine.selection.warm_start import find_warm_start

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.fixture
def graph(tmp_path: Path, card: ModelCard) -> Path:
    return tiny_graph(tmp_path / "model.onnx", card)


@pytest.fixture
def request_here(tmp_path: Path) -> EngineRequest:
    return EngineRequest(device="cpu", workers=1, engine_dir=tmp_path / "engines")


def test_without_measurements_the_run_begins_with_float32(graph: Path, request_here: EngineRequest) -> None:
    start = find_warm_start(graph, request_here)
    assert start is not None
    assert (start.first.engine, start.better) == ("onnxruntime-cpu-fp32", None)


def test_a_run_begins_with_another_engine_until_the_best_is_compiled(
    graph: Path, request_here: EngineRequest, tmp_path: Path
) -> None:
    possible = candidates(graph)
    best = EngineChoice(next(one for one in possible if one.engine == "openvino-cpu-fp32"), "openvino-cpu-fp32: faster")
    TuningStore(tmp_path / "engines", 1.0).save_choice(possible, best)
    start = find_warm_start(graph, request_here)
    assert start is not None
    assert start.first.engine == "onnxruntime-cpu-fp32"
    assert start.better == best
    with open_engine(graph, replace(request_here, engine=best.candidate.engine)):
        pass
    assert find_warm_start(graph, request_here) is None
    assert find_warm_start(graph, replace(request_here, batch=4)) is not None  # another engine


def test_each_graph_is_read_once(graph: Path, request_here: EngineRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    read, reads = graph_facts._read, itertools.count()
    monkeypatch.setattr(graph_facts, "_read", lambda content: (read(content), next(reads))[0])
    shutil.copy(graph, graph.with_name("model.copy.onnx"))
    for _ in range(2):
        assert find_warm_start(graph, request_here) is not None
    assert next(reads) == 2
    card = read_graph_facts(graph).card
    tiny_graph(graph, card.model_copy(update={"name": "other"}))
    assert read_graph_facts(graph).card.name == "other", "the file was written again"


def test_an_engine_that_opens_at_once_needs_no_warm_start(graph: Path, request_here: EngineRequest, tmp_path: Path) -> None:
    possible = candidates(graph)
    TuningStore(tmp_path / "engines", 1.0).save_choice(
        possible, EngineChoice(possible[0], "onnxruntime-cpu-fp32: FP32 is fastest here")
    )
    assert find_warm_start(graph, request_here) is None


@pytest.mark.parametrize(
    "given", [{"engine": "onnxruntime"}, {"engine": "openvino-cpu-fp32"}, {"compute": "f32"}, {"engine_dir": None}]
)
def test_an_explicit_request_has_no_warm_start(graph: Path, request_here: EngineRequest, given: dict[str, str | None]) -> None:
    assert find_warm_start(graph, replace(request_here, **given)) is None  # type: ignore[arg-type]
