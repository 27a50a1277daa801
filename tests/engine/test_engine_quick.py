"""What is begun with while a better engine is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.graphs import tiny_graph
from vision_infer.core.card import ModelCard
from vision_infer.engine.open import EngineRequest
from vision_infer.engine.selection.candidates import candidates
from vision_infer.engine.selection.choices import Choice, remember
from vision_infer.engine.selection.quick import compile_engine, quick_start

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.fixture
def graph(tmp_path: Path, card: ModelCard) -> Path:
    return tiny_graph(tmp_path / "model.onnx", card)


@pytest.fixture
def request_here(tmp_path: Path) -> EngineRequest:
    return EngineRequest(device="cpu", workers=1, engine_dir=tmp_path / "engines")


def test_nothing_is_known(graph: Path, request_here: EngineRequest) -> None:
    quick = quick_start(graph, request_here)
    assert quick is not None
    assert (quick.first.engine, quick.better) == ("onnxruntime-cpu-fp32", None)


def test_the_best_is_not_compiled_until_it_is(graph: Path, request_here: EngineRequest, tmp_path: Path) -> None:
    possible = candidates(graph)
    best = Choice(next(one for one in possible if one.engine == "openvino-cpu-fp32"), "openvino-cpu-fp32: faster")
    remember(tmp_path / "engines", possible, 1.0, best)
    quick = quick_start(graph, request_here)
    assert quick is not None
    assert quick.first.engine == "onnxruntime-cpu-fp32"
    assert quick.better == best
    compile_engine(str(graph), best.candidate.engine, str(tmp_path / "engines"), "0", "1", "0")
    assert quick_start(graph, request_here) is None
    assert quick_start(graph, replace(request_here, batch=4)) is not None  # that is another one


def test_what_is_made_at_once_needs_no_other_to_begin_with(graph: Path, request_here: EngineRequest, tmp_path: Path) -> None:
    possible = candidates(graph)
    remember(tmp_path / "engines", possible, 1.0, Choice(possible[0], "onnxruntime-cpu-fp32: FP32 is fastest here"))
    assert quick_start(graph, request_here) is None


@pytest.mark.parametrize(
    "given", [{"engine": "onnxruntime"}, {"engine": "openvino-cpu-fp32"}, {"compute": "f32"}, {"engine_dir": None}]
)
def test_what_is_asked_for_is_taken(graph: Path, request_here: EngineRequest, given: dict[str, str | None]) -> None:
    assert quick_start(graph, replace(request_here, **given)) is None  # type: ignore[arg-type]
