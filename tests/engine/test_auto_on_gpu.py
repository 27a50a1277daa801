"""``auto`` on a GPU: a cached plan at once, else ONNX Runtime; never a plan whose loss is not verified."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.candidates_of_a_graph import loss
from tests.engine.graphs import tiny_graph
from tests.engine.stand_in_gpu import StandInGpu, half_graph, stand_in_gpu
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.engine.engine import Engine, gpu_of
from vision_infer.engine.open import EngineRequest, auto_device, open_engine
from vision_infer.engine.selection.candidates import candidates
from vision_infer.engine.selection.lookup import expected_build_s, find_choices, store_accuracy
from vision_infer.engine.selection.tuning_store import EngineChoice, TuningStore
from vision_infer.engine.selection.warm_start import find_warm_start
from vision_infer.engine.store.passport import MeasuredAccuracy
from vision_infer.engine.tensorrt.target import LocalGpu

__all__ = ["stand_in_gpu"]


@pytest.fixture
def graph(tmp_path: Path, card: ModelCard) -> Path:
    return tiny_graph(tmp_path / "model.onnx", card)


@pytest.fixture
def request_here(tmp_path: Path) -> EngineRequest:
    return EngineRequest(engine_dir=tmp_path / "engines")


@pytest.fixture
def said() -> list[str]:
    return []


def without_builds(said: list[str]) -> list[str]:
    """Return the lines but those about the cache of ONNX Runtime."""
    return [line for line in said if not line.startswith("building onnxruntime")]


def folder_of(request: EngineRequest) -> Path:
    assert request.engine_dir is not None
    return request.engine_dir


def mean_of(engine: Engine, value: int) -> float:
    loan = engine.lend(1)
    loan.slots[0].pixels[:] = value
    return float(engine.collect(engine.submit(loan)).outputs["scores"][0, 0]) * 255


def test_auto_takes_a_cached_plan_at_once(
    stand_in_gpu: StandInGpu, graph: Path, request_here: EngineRequest, said: list[str]
) -> None:
    stand_in_gpu.keep(graph, folder_of(request_here))
    assert auto_device(request_here) == "cuda:0"
    with open_engine(graph, request_here, said.append) as engine:
        assert (engine.name, gpu_of(engine), engine.batch_sizes) == ("tensorrt-cuda-fp32", 0, (1, 2, 4, 8))
        assert mean_of(engine, 100) == pytest.approx(100, abs=0.01)
    assert said == ["tensorrt-cuda-fp32: a cached plan"]
    assert stand_in_gpu.built == []
    assert find_warm_start(graph, request_here) is None


def test_without_a_plan_auto_starts_with_onnx_runtime_and_builds_nothing(
    stand_in_gpu: StandInGpu, graph: Path, request_here: EngineRequest, said: list[str]
) -> None:
    with open_engine(graph, request_here, said.append) as engine:
        assert engine.name == "onnxruntime-cpu-fp32"
    assert len(without_builds(said)) == 1
    assert said[0].startswith("falling back to the CPU: cuda:0 is not available")
    assert stand_in_gpu.built == []
    quick = find_warm_start(graph, request_here)
    assert quick is not None
    assert (quick.device, quick.better) == ("cuda:0", None)


def proven(candidate_loss: MeasuredAccuracy, graph: Path, request: EngineRequest) -> None:
    (half,) = [one for one in candidates(graph, "cuda:0") if one.facts.precision == "fp16"]
    store_accuracy(half, candidate_loss, folder_of(request))


def test_a_plan_in_fp16_needs_a_passport_within_the_budget(
    stand_in_gpu: StandInGpu, graph: Path, card: ModelCard, request_here: EngineRequest, said: list[str]
) -> None:
    half = half_graph(graph.with_name("model.fp16.onnx"), card)
    stand_in_gpu.keep(half, folder_of(request_here))
    for accuracy, why in (
        (None, "its loss of accuracy was not measured on this GPU"),
        (loss(0.2, 0.5, "not proven"), "its loss of accuracy was not measured on this GPU"),
        (loss(0.9, 1.2), "0.90 points lost (0.00 to 1.20) on 200 frames, the budget is 1"),
    ):
        if accuracy is not None:
            proven(accuracy, graph, request_here)
        said.clear()
        with open_engine(graph, request_here, said.append) as engine:
            assert engine.name == "onnxruntime-cpu-fp32"
        assert said[0] == f"the cached plan tensorrt-cuda-fp16 is not used: {why}"
    proven(loss(0.2, 0.5), graph, request_here)
    with open_engine(graph, request_here, said.append) as engine:
        assert engine.name == "tensorrt-cuda-fp16"
    assert said[-1] == "tensorrt-cuda-fp16: a cached plan, 0.20 points lost on 200 frames"


def test_the_user_may_name_a_plan_without_a_passport(
    stand_in_gpu: StandInGpu, graph: Path, card: ModelCard, request_here: EngineRequest
) -> None:
    half_graph(graph.with_name("model.fp16.onnx"), card)
    with open_engine(graph, EngineRequest("tensorrt-cuda-fp16", engine_dir=request_here.engine_dir)) as engine:
        assert engine.name == "tensorrt-cuda-fp16"
    assert stand_in_gpu.built == ["model.fp16.onnx"]
    assert stand_in_gpu.workspaces == [250_000_000]  # a quarter of the memory of the stand-in


def test_the_user_may_name_a_plan_in_tf32(
    stand_in_gpu: StandInGpu, graph: Path, request_here: EngineRequest, said: list[str]
) -> None:
    with open_engine(graph, EngineRequest("tensorrt-cuda-tf32", engine_dir=request_here.engine_dir)) as engine:
        assert engine.name == "tensorrt-cuda-tf32"
    assert stand_in_gpu.built == ["model.onnx"]
    with open_engine(graph, request_here, said.append) as engine:  # auto does not take it for FP32
        assert engine.name == "onnxruntime-cpu-fp32"


def test_autotuning_decides_between_cached_plans(
    stand_in_gpu: StandInGpu, graph: Path, card: ModelCard, request_here: EngineRequest
) -> None:
    folder = folder_of(request_here)
    stand_in_gpu.keep(half_graph(graph.with_name("model.fp16.onnx"), card), folder)
    stand_in_gpu.keep(graph, folder)
    proven(loss(0.2, 0.5), graph, request_here)
    assert [choice.candidate.engine for choice in find_choices(graph, folder, "cuda:0")] == [
        "tensorrt-cuda-fp16",
        "tensorrt-cuda-fp32",
    ]
    possible = candidates(graph, "cuda:0")
    TuningStore(folder, 1.0).save_choice(possible, EngineChoice(possible[-1], "tensorrt-cuda-fp32: 2.0× as fast"))
    assert find_choices(graph, folder, "cuda:0")[0].reason == "tensorrt-cuda-fp32: 2.0× as fast"
    TuningStore(folder, 1.0).save_choice(possible, EngineChoice(possible[0], "ONNX Runtime is fastest"))
    with open_engine(graph, request_here) as engine:
        assert engine.name.startswith("onnxruntime")
    assert find_warm_start(graph, request_here) is None


def test_a_plan_for_smaller_batches_is_not_taken(
    stand_in_gpu: StandInGpu, graph: Path, request_here: EngineRequest, said: list[str]
) -> None:
    stand_in_gpu.keep(graph, folder_of(request_here))
    assert find_choices(graph, folder_of(request_here), "cuda:0", 16, on_message=said.append) == []
    assert said == ["the cached plan tensorrt-cuda-fp32 is not used: it runs batches of up to 8, not 16"]


def truncate(folder: Path) -> None:
    (file,) = folder.glob("*/engine.bin")
    file.write_bytes(file.read_bytes()[:-10])


def test_a_plan_that_cannot_be_used_gives_one_line_and_the_next_engine(
    stand_in_gpu: StandInGpu, graph: Path, request_here: EngineRequest, said: list[str]
) -> None:
    folder = folder_of(request_here)
    stand_in_gpu.keep(graph, folder)
    truncate(folder)
    with open_engine(graph, request_here, said.append) as engine:
        assert engine.name == "onnxruntime-cpu-fp32"
    assert said[0] == (
        "tensorrt-cuda-fp32 is not used: the cache has no complete plan of model.onnx for NVIDIA Stand-In and TensorRT 11.4.0"
    )
    assert len(without_builds(said)) == 2
    assert stand_in_gpu.built == []


def test_a_plan_of_another_gpu_gives_one_line(
    stand_in_gpu: StandInGpu, graph: Path, request_here: EngineRequest, said: list[str]
) -> None:
    stand_in_gpu.keep(graph, folder_of(request_here), LocalGpu("NVIDIA T4", "sm_75"))
    with open_engine(graph, request_here, said.append) as engine:
        assert engine.name == "onnxruntime-cpu-fp32"
    assert said[0] == "the cached plan tensorrt-cuda-fp32 is not used: for sm_75, this GPU is sm_89"
    assert len(without_builds(said)) == 2
    assert find_warm_start(graph, request_here) is not None  # one for this GPU is built


def test_a_missing_library_gives_one_line(
    stand_in_gpu: StandInGpu, graph: Path, request_here: EngineRequest, said: list[str]
) -> None:
    stand_in_gpu.api_error = EngineError("TensorRT cannot be loaded: libnvinfer.so.11: cannot open shared object file")
    assert auto_device(request_here) == "cpu"
    with open_engine(graph, request_here, said.append) as engine:
        assert engine.name == "onnxruntime-cpu-fp32"
    lines = [line for line in without_builds(said) if "TensorRT-RTX" not in line]  # which may be installed
    assert lines == [f"TensorRT is not used: {stand_in_gpu.api_error.message}"]


def test_the_expected_build_time_is_that_of_the_last_builds(
    stand_in_gpu: StandInGpu, graph: Path, card: ModelCard, request_here: EngineRequest
) -> None:
    folder = folder_of(request_here)
    half_graph(graph.with_name("model.fp16.onnx"), card)
    assert expected_build_s(graph, folder, "cuda:0") == 120
    stand_in_gpu.keep(graph, folder)
    assert expected_build_s(graph, folder, "cuda:0") == 90
