"""The engines that a small graph can have, and passports for them."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.engine.graphs import tiny_graph
from vision_infer.core.card import ModelCard
from vision_infer.engine.graph_facts import GraphFacts
from vision_infer.engine.selection.candidates import EngineCandidate, this_device
from vision_infer.engine.store.passport import MeasuredAccuracy, MeasuredSpeed, Passport, Sources, summarize

ORT, OPENVINO, BF16, INT8 = "onnxruntime-cpu-fp32", "openvino-cpu-fp32", "openvino-cpu-bf16", "onnxruntime-cpu-int8"


@pytest.fixture
def graph(tmp_path: Path, card: ModelCard) -> Path:
    return tiny_graph(tmp_path / "model.onnx", card)


@pytest.fixture
def possible(graph: Path, card: ModelCard) -> list[EngineCandidate]:
    """Four engines, independent of the installed runtimes."""
    fp32, int8 = GraphFacts(card, "fp32"), GraphFacts(card, "int8")
    small = tiny_graph(graph.with_name("model.int8.onnx"), card, candidates=5)
    return [
        EngineCandidate(graph, fp32, ORT),
        EngineCandidate(graph, fp32, OPENVINO),
        EngineCandidate(graph, fp32, BF16, "bf16"),
        EngineCandidate(small, int8, INT8),
    ]


def loss(value: float, high: float, judged: str = "proven") -> MeasuredAccuracy:
    fields = {"metric": "agreement", "value": value, "low": 0, "high": high, "data": "my.mp4", "frames": 200, "judged": judged}
    return MeasuredAccuracy.model_validate(fields)


def passport(
    one: EngineCandidate, times: float, accuracy: MeasuredAccuracy | None = None, p95_ms: float = 20, **more: Any
) -> Passport:
    speed = MeasuredSpeed(
        batch=1, workers=2, threads=1, p50_ms=p95_ms, p95_ms=p95_ms, fps=50, fps_low=50, fps_high=50, fp32_ratio=times
    )
    fields: dict[str, Any] = {
        "engine": one.engine,
        "card": summarize(one.facts.card),
        "sources": Sources(graph=one.key().graph_sha256),
        "runtime": one.runtime.name,
        "runtime_version": one.key().runtime_version,
        "compute": one.compute,
        "device": this_device(),
        "accuracy": () if accuracy is None else (accuracy,),
        "speed": (speed,),
        "date": datetime.datetime.now(datetime.UTC),
    }
    return Passport.model_validate({**fields, **more})


def unproven(engine: str) -> str:
    return f"{engine} is left out: its loss of accuracy has to be measured on this CPU: give frames with --data"
