"""A runtime is one module and one line of the registry: everything else reads its descriptor."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.graphs import tiny_graph
from tests.engine.toy_runtime import RUNTIME
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError, UsageError
from vision_infer.engine import registry
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.recipe import EngineRecipe, candidate_of
from vision_infer.engine.registry import RUNTIMES, find_runtime, parse_engine_name, runtime_version
from vision_infer.engine.selection.candidates import candidates


@pytest.fixture
def graph(tmp_path: Path, card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registry, "RUNTIMES", (*RUNTIMES, RUNTIME))
    return tiny_graph(tmp_path / "x.onnx", card)


def test_a_new_runtime_opens_engines(graph: Path) -> None:
    for name in ("toy", "toy-cpu-fp32"):
        with open_engine(graph, EngineRequest(name, workers=3)) as engine:
            assert (engine.name, engine.in_flight) == ("toy-cpu-fp32", 3)
    with pytest.raises(EngineError, match="Toy runs on the CPU only"):
        open_engine(graph, EngineRequest("toy", "cuda:0"))
    with pytest.raises(UsageError, match="does not compute in f32"):
        open_engine(graph, EngineRequest("toy-cpu-bf16", compute="f32"))
    with pytest.raises(EngineError) as caught:
        open_engine(graph, EngineRequest("toi-cpu-fp32"))
    assert "toy-cpu-fp32" in caught.value.hint


def test_a_new_runtime_is_a_candidate_and_can_be_built(graph: Path) -> None:
    possible = candidates(graph)
    (found,) = [one for one in possible if one.engine == "toy-cpu-fp32"]
    assert found.runtime == RUNTIME
    assert found.key().engine == "toy-cpu-fp32"
    assert candidate_of(EngineRecipe(model="x", runtime="toy"), tuple(possible)) == found


def test_a_missing_runtime_names_the_extra(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = replace(RUNTIME, modules=("no_such_module",), extra="toys")
    monkeypatch.setattr(registry, "RUNTIMES", (missing,))
    assert candidates(graph) == []
    with pytest.raises(EngineError, match="Toy is not installed") as caught:
        open_engine(graph, EngineRequest("toy"))
    assert ".[toys]" in caught.value.hint


def test_full_names_lead_to_their_runtime() -> None:
    for runtime in RUNTIMES:
        for device in runtime.devices:
            name = runtime.engine_name("fp32", device=device)
            assert parse_engine_name(name) == (runtime, device, "fp32")
        assert find_runtime(runtime.name) == runtime
    assert runtime_version("null") == ""


def test_descriptors_import_no_runtime() -> None:
    heavy = ("torch", "openvino", "onnxruntime", "tensorrt", "tensorrt_rtx")
    light = ("vision_infer.engine.tensorrt", "vision_infer.engine.tensorrt.names", "vision_infer.engine.tensorrt.target")
    code = (
        "import sys, vision_infer.pipeline.lanes.opening as opening;"
        f"print([name for name in {heavy} if name in sys.modules],"
        f" [name for name in sys.modules if name.startswith({light[0]!r}) and name not in {light}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"
