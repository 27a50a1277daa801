"""Engines of TensorRT: their calls of a synthetic runtime in host memory, and on a real GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.graphs import tiny_graph
from tests.engine.host_device import HostDevice, MeanModel
from tests.support.gpu import needs_gpu
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.engine.gpu.accelerator import DeviceMemoryError
from vision_infer.engine.gpu.device_engine import DeviceEngine
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.tensorrt.api import Api
from vision_infer.engine.tensorrt.plan_engine import TensorRtModel, sizes_of
from vision_infer.engine.tensorrt.plan_file import PlanFile


class Context:
    """An execution context of the synthetic runtime: the mean model computes."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        return name == "images" and shape[0] <= self._runtime.largest

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address % 256 == 0
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        outputs = dict(self._addresses)
        self._runtime.model.enqueue(self._shape[0], outputs.pop("images"), outputs, self._runtime.device._streams[stream])
        return True


class Runtime:
    """A synthetic runtime, and the engine that it loads."""

    device_memory_size_v2 = 1000
    largest = 8

    def __init__(self, device: HostDevice, card: ModelCard) -> None:
        self.device = device
        self.model = MeanModel(device, card)
        self.loads = True
        self.logger: Any = None

    def start(self, logger: Any) -> Runtime:
        self.logger = logger
        return self

    def deserialize_cuda_engine(self, plan: bytes) -> Runtime | None:
        if not self.loads:
            self.logger.log(1, "the magic tag does not match")
            return None
        return self

    def create_execution_context(self) -> Context:
        return Context(self)


class Severity:
    INTERNAL_ERROR, ERROR = 0, 1

    def __init__(self) -> None:
        pass


class NumberedDevice(HostDevice):
    """Its streams have numbers, like those of CUDA."""

    def make_stream(self) -> Any:
        stream = super().make_stream()
        number = len(self._streams) - 1
        type(stream).__int__ = lambda one: self._streams.index(one)  # type: ignore[attr-defined]
        assert int(stream) == number  # type: ignore[call-overload]
        return stream


@pytest.fixture
def device() -> NumberedDevice:
    return NumberedDevice()


@pytest.fixture
def runtime(device: NumberedDevice, card: ModelCard) -> Runtime:
    return Runtime(device, card)


@pytest.fixture
def api(runtime: Runtime) -> Api:
    class Module:
        ILogger = Severity
        Runtime = runtime.start

    return Api("tensorrt", Module, "11.0", builds_ahead=False, has_timings=True)


@pytest.fixture
def plan(runtime: Runtime, card: ModelCard) -> PlanFile:
    sizes = (1, 2, 8)
    return PlanFile(b"plan", card, "0" * 64, "tensorrt", "11.0", ("sm_89",), "fp16", sizes, runtime.model.outputs)


def test_a_plan_runs_through_the_runtime(plan: PlanFile, api: Api, device: NumberedDevice, runtime: Runtime) -> None:
    model = TensorRtModel(plan, api, device)
    with DeviceEngine(plan.engine, plan.card, model, device, sizes_of(plan, 8)) as engine:
        assert (engine.name, engine.batch_sizes) == ("tensorrt-cuda-fp16", (1, 2, 4, 8))
        engine.warm_up()
        for values in ([10], [20, 30, 40], [5] * 8):
            loan = engine.lend(len(values))
            for slot, value in zip(loan.slots, values, strict=True):
                slot.pixels[:] = value
            scores = engine.collect(engine.submit(loan)).outputs["scores"][:, 0]
            assert scores * 255 == pytest.approx(values, abs=1e-3)
    runtime.largest = 2
    model = TensorRtModel(plan, api, device)
    with DeviceEngine(plan.engine, plan.card, model, device, (1, 2), graphs=False) as engine:
        runtime.largest = 1
        with pytest.raises(EngineError, match="TensorRT does not accept a batch of 2"):
            engine.submit(engine.lend(2))
    assert (device.used, device.things) == (0, 0)
    with pytest.raises(EngineError, match="closed"):
        model.enqueue(1, 0, {}, 0)


def test_an_error_contains_the_message_of_the_runtime(plan: PlanFile, api: Api, device: NumberedDevice, runtime: Runtime) -> None:
    runtime.loads = False
    with pytest.raises(EngineError, match="does not load the plan: the magic tag does not match") as caught:
        TensorRtModel(plan, api, device)
    assert "engine build" in caught.value.hint


def test_memory_is_checked_before_a_context_is_created(
    plan: PlanFile, api: Api, device: NumberedDevice, runtime: Runtime
) -> None:
    runtime.device_memory_size_v2 = 2 * 10**9
    with pytest.raises(DeviceMemoryError, match="has 1000 MB free, the model needs 2000"):
        TensorRtModel(plan, api, device)


def test_batch_sizes_follow_from_the_plan(plan: PlanFile) -> None:
    assert [sizes_of(plan, largest) for largest in (1, 3, 8, 100)] == [(1,), (1, 2, 3), (1, 2, 4, 8), (1, 2, 4, 8)]
    object.__setattr__(plan, "batch_sizes", (4, 6))
    assert sizes_of(plan, 6) == (4, 6)
    with pytest.raises(EngineError, match="--batch 4"):
        sizes_of(plan, 2)


@pytest.mark.parametrize("engine", ["tensorrt", "tensorrt-rtx", "tensorrt-rtx-cuda-fp32", "tensorrt-cuda-fp32"])
def test_tensorrt_runs_on_a_gpu_only(engine: str, tmp_path: Path, card: ModelCard) -> None:
    path = tiny_graph(tmp_path / "x.onnx", card)
    for device in ("cpu", "cuda:99"):
        with pytest.raises(EngineError if device != "cpu" or engine.count("-") < 2 else Exception) as caught:
            open_engine(path, EngineRequest(engine, device=device))
        assert "\n" not in str(caught.value)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_on_a_gpu(runtime: str, tmp_path: Path, card: ModelCard) -> None:
    pytest.importorskip(runtime.replace("-", "_"), reason=f"needs an NVIDIA GPU and {runtime}")
    said: list[str] = []
    opened: Callable[[], Any] = lambda: open_engine(  # noqa: E731
        tiny_graph(tmp_path / "x.onnx", card), EngineRequest(runtime, batch=4), said.append
    )
    try:
        engine = opened()
    except EngineError as error:
        if "does not run on" in error.message:
            pytest.skip(f"needs an NVIDIA GPU for {runtime}: {error.message}")
        raise
    with engine:
        for _ in range(3):
            loan = engine.lend(3)
            for value, slot in enumerate(loan.slots):
                slot.pixels[:] = 50 * value
            scores = engine.collect(engine.submit(loan)).outputs["scores"][:, 0]
            assert np.allclose(scores * 255, [0, 50, 100], atol=0.01)
