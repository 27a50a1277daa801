"""The names of engines and devices, and the engines that they open."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.engine.graphs import tiny_graph
from tests.engine.host_device import HostDevice
from tests.engine.host_models import FailingModel, MeanModel
from tests.precision.tiny import noise_frames, write_tiny
from tests.support.gpu import missing_cuda
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError, UsageError
from vision_infer.engine import open as module
from vision_infer.engine import registry
from vision_infer.engine.gpu.accelerator import DeviceMemoryError
from vision_infer.engine.gpu.device_engine import DeviceEngine, batch_sizes_up_to
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.runtime import EngineSettings, OpenEngine
from vision_infer.engine.store.cache import EngineCache, OnMessage
from vision_infer.precision.quantization.int8 import Int8Recipe, calibrated_tensors, quantize, simplify
from vision_infer.precision.quantization.ranges import collect_activations, find_ranges

ort = pytest.importorskip("onnxruntime")
needs_no_gpu = pytest.mark.skipif(not missing_cuda(), reason="auto would choose the GPU")


NAMES = [runtime.name for runtime in registry.RUNTIMES if runtime.name != "null"]


@pytest.fixture
def graph(tmp_path: Path, card: ModelCard) -> Path:
    return tiny_graph(tmp_path / "x.onnx", card)


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_cpus", lambda: 8)


def replace_tensorrt(monkeypatch: pytest.MonkeyPatch, opener: OpenEngine) -> None:
    """Let TensorRT, installed or not, open engines with a function."""
    found = registry.find_runtime("tensorrt")
    others = [runtime for runtime in registry.RUNTIMES if runtime != found]
    monkeypatch.setattr(registry, "RUNTIMES", (*others, replace(found, open=opener, modules=())))


@pytest.mark.parametrize("name", ["auto", "onnxruntime", "onnxruntime-cpu-fp32"])
def test_names_that_open_onnxruntime(graph: Path, name: str) -> None:
    with open_engine(graph, EngineRequest(name, "auto" if name.endswith("fp32") else "cpu", 1)) as engine:
        assert engine.name == "onnxruntime-cpu-fp32"


@pytest.mark.parametrize("name", ["null", "null-cpu-none"])
def test_names_that_open_the_null_engine(graph: Path, name: str, card: ModelCard) -> None:
    with open_engine(graph, EngineRequest(name, "cpu", workers=3, batch=2)) as engine:
        assert engine.name == "null-cpu-none"
        assert engine.card == card
        assert (engine.in_flight, engine.batch_sizes) == (3, (1, 2))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("onnxruntme", "onnxruntime"),
        ("onnxruntime-cpu", "onnxruntime-cpu-fp32"),
        ("onnxruntime-foo-bar", "Use auto, onnxruntime, onnxruntime-cpu-fp32, or onnxruntime-cuda-fp32"),
        ("onnxruntime-cpu-fp32-x", "onnxruntime-cpu-fp32"),
        ("onnxruntime-gpu-fp32", "onnxruntime-cuda-fp32"),
        ("openvno", "openvino"),
        ("openvino-bf16", "openvino-cpu-bf16"),
        ("zzz", f"Use auto, {', '.join(NAMES[:-1])}, or {NAMES[-1]}"),
        ("", f"Use auto, {', '.join(NAMES[:-1])}, or {NAMES[-1]}"),
    ],
)
def test_unknown_engines_name_the_nearest(graph: Path, name: str, near: str) -> None:
    with pytest.raises(EngineError) as caught:
        open_engine(graph, EngineRequest(name))
    assert caught.value.message == f"unknown engine {name!r}"
    assert near in caught.value.hint
    assert "null" not in caught.value.hint


def test_a_full_name_has_to_match_the_engine(graph: Path) -> None:
    with pytest.raises(EngineError) as caught:
        open_engine(graph, EngineRequest("onnxruntime-cpu-int8"))
    assert "onnxruntime-cpu-fp32" in caught.value.message
    assert "onnxruntime-cpu-fp32" in caught.value.hint


def test_a_full_name_opens_the_graph_next_to_the_model(tmp_path: Path) -> None:
    path = write_tiny(tmp_path)
    model = simplify(onnx.load(path), "tiny")
    pixels = noise_frames(20)
    ranges = find_ranges(collect_activations(model, calibrated_tensors(model), pixels, "tiny"), "minmax")
    onnx.save(quantize(model, ranges, Int8Recipe("tensorrt"), "tiny"), path.with_name("model.int8-tensorrt.onnx"))
    with pytest.raises(EngineError, match="'vision-infer model quantize' makes a graph in int8"):
        open_engine(path, EngineRequest("onnxruntime-cpu-int8"))
    onnx.save(quantize(model, ranges, Int8Recipe("cpu"), "tiny"), path.with_name("model.int8.onnx"))
    with open_engine(path, EngineRequest("onnxruntime-cpu-int8", workers=1)) as engine:
        assert engine.name == "onnxruntime-cpu-int8"
    with open_engine(path, EngineRequest("onnxruntime-cpu-fp32", workers=1)) as engine:
        assert engine.name == "onnxruntime-cpu-fp32"
    with pytest.raises(EngineError, match="'vision-infer model quantize' makes a graph in fp16"):
        open_engine(path, EngineRequest("onnxruntime-cpu-fp16"))


def test_an_unknown_device(graph: Path) -> None:
    with pytest.raises(UsageError, match="cuda:N"):
        open_engine(graph, EngineRequest(device="gpu"))


@needs_no_gpu
def test_cuda_without_a_gpu(graph: Path) -> None:
    for request in (EngineRequest(device="cuda:0"), EngineRequest("onnxruntime-cuda-fp32")):
        with pytest.raises(EngineError, match="no CUDA"):
            open_engine(graph, request)


@pytest.mark.parametrize(
    ("request_", "in_flight", "largest"),
    [
        (EngineRequest(device="cpu"), 8, 1),
        (EngineRequest(device="cpu", threads=2), 4, 1),
        (EngineRequest(device="cpu", threads=3), 2, 1),
        (EngineRequest(device="cpu", threads=16), 1, 1),
        (EngineRequest(device="cpu", workers=3, threads=1, batch=4), 3, 4),
    ],
)
def test_defaults_follow_from_the_cpus(graph: Path, eight: None, request_: EngineRequest, in_flight: int, largest: int) -> None:
    with open_engine(graph, request_) as engine:
        assert engine.in_flight == in_flight
        assert engine.batch_sizes == tuple(range(1, largest + 1))


@pytest.mark.parametrize("name", ["openvino", "openvino-cpu-fp32"])
def test_names_that_open_openvino(graph: Path, name: str) -> None:
    pytest.importorskip("openvino")
    with open_engine(graph, EngineRequest(name, workers=3, threads=2, batch=2)) as engine:
        assert (engine.name, engine.in_flight, engine.batch_sizes) == ("openvino-cpu-fp32", 3, (1, 2))


def test_openvino_runs_on_the_cpu(graph: Path) -> None:
    for request in (EngineRequest("openvino", "cuda:0"), EngineRequest("openvino-cuda-fp32")):
        with pytest.raises(EngineError, match="OpenVINO runs on the CPU"):
            open_engine(graph, request)


@pytest.mark.parametrize(
    ("request_", "kind", "word"),
    [
        (EngineRequest(compute="f16"), UsageError, "'f16'"),
        (EngineRequest("openvino-cpu-bf16", compute="f32"), UsageError, "f32"),
        (EngineRequest("onnxruntime", compute="bf16"), EngineError, "openvino-cpu-bf16"),
        (EngineRequest("null", compute="bf16"), EngineError, "openvino-cpu-bf16"),
    ],
)
def test_types_of_arithmetic_that_do_not_fit(graph: Path, request_: EngineRequest, kind: type[Exception], word: str) -> None:
    with pytest.raises(kind, match=word):
        open_engine(graph, request_)


@pytest.mark.parametrize("request_", [EngineRequest("openvino", compute="bf16"), EngineRequest("openvino-cpu-bf16")])
def test_two_ways_to_request_bfloat16(graph: Path, request_: EngineRequest) -> None:
    openvino = pytest.importorskip("openvino")
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with open_engine(graph, request_) as engine:
            assert engine.name == "openvino-cpu-bf16"
    else:
        with pytest.raises(EngineError, match="bfloat16"):
            open_engine(graph, request_)


def test_auto_uses_openvino_if_it_is_the_only_runtime(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr("vision_infer.engine.runtime.find_spec", lambda name: None if name == "onnxruntime" else "there")
    with open_engine(graph, EngineRequest(workers=1)) as engine:
        assert engine.name == "openvino-cpu-fp32"


def test_without_a_runtime(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.engine.runtime.find_spec", lambda _: None)
    with pytest.raises(EngineError, match="no inference engine is installed"):
        open_engine(graph, EngineRequest())


@pytest.mark.parametrize("device", ["cuda:1", "tpu"])
def test_a_name_and_another_device_contradict_each_other(bundled: Path, device: str) -> None:
    with pytest.raises(UsageError, match=device):
        open_engine(bundled, EngineRequest("onnxruntime-cpu-fp32", device))


@pytest.mark.parametrize("largest", [8, 2, 0])
@pytest.mark.parametrize("device", ["auto", "cuda:0"])
def test_without_memory_batches_become_smaller_and_finally_the_cpu_is_used(
    graph: Path, card: ModelCard, monkeypatch: pytest.MonkeyPatch, device: str, largest: int
) -> None:
    host = HostDevice()

    def on_the_host(path: Path, settings: EngineSettings, cache: EngineCache | None, on_message: OnMessage) -> DeviceEngine:
        model = FailingModel(MeanModel(host, card), largest)
        return DeviceEngine("tensorrt-cuda-fp32", card, model, host, batch_sizes_up_to(8), 2, on_message)

    replace_tensorrt(monkeypatch, on_the_host)
    said: list[str] = []
    request = EngineRequest("tensorrt", device)
    if largest == 0 and device != "auto":  # the request names the device: no fallback
        with pytest.raises(DeviceMemoryError, match="out of memory"):
            open_engine(graph, request, said.append)
    else:
        with open_engine(graph, request, said.append) as engine:
            sizes = {8: (1, 2, 4, 8), 2: (1, 2)}
            assert (engine.name, engine.batch_sizes) == (
                ("tensorrt-cuda-fp32", sizes[largest]) if largest else ("onnxruntime-cpu-fp32", (1,))
            )
            engine.collect(engine.submit(engine.lend(1)))
    name = "tensorrt-cuda-fp32"
    why = f"{name} failed on a batch of %d: out of memory"
    left_out = [f"{name}: batches of {size} are left out: {why % size}" for size in (8, 4, 2) if size > largest]
    without = [f"falling back to the CPU: cuda:0 is not available ({why % 1})"] if largest == 0 and device == "auto" else []
    assert said == left_out + without
    assert (host.used, host.things) == (0, 0)


def test_other_failures_do_not_fall_back(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> DeviceEngine:
        raise EngineError("the plan cannot be loaded")

    replace_tensorrt(monkeypatch, broken)
    with pytest.raises(EngineError, match="cannot be loaded"):
        open_engine(graph, EngineRequest("tensorrt"))
