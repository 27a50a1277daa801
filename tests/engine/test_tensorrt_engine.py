"""Engines of TensorRT: their calls of a synthetic runtime in host memory, and on a real GPU."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.engine.graphs import tiny_graph
from tests.engine.host_device import HostContext, HostDevice, MeanModel
from tests.support.gpu import needs_cuda
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.engine.gpu.accelerator import DeviceMemoryError
from vision_infer.engine.gpu.device_engine import DeviceEngine
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.tensorrt import plan_engine
from vision_infer.engine.tensorrt.api import Api
from vision_infer.engine.tensorrt.kernels import kernels_file
from vision_infer.engine.tensorrt.plan_engine import TensorRtModel, sizes_of
from vision_infer.engine.tensorrt.plan_file import PlanFile


class Config:
    """The runtime configuration of the synthetic runtime."""

    def __init__(self) -> None:
        self.strategy: Any = None

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy


class Context:
    """An execution context of the synthetic runtime, with the memory that it receives: the mean model computes."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._state = HostContext()
        self._count = 0
        self._addresses: dict[str, int] = {}
        self.memory = (0, 0)
        self.active_optimization_profile = 0

    def set_device_memory(self, address: int, nbytes: int) -> None:
        self.memory = (address, nbytes)

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.active_optimization_profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, high = self._runtime.profiles[self.active_optimization_profile]
        assert low <= shape[0] <= high
        self._count = shape[0]
        self._state.set_shape((self.active_optimization_profile, shape))
        return name == "images" and shape[0] <= self._runtime.largest

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address % 256 == 0
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        device, count, outputs = self._runtime.device, self._count, dict(self._addresses)
        images, (scratch, nbytes) = outputs.pop("images"), self.memory
        assert nbytes >= self._runtime.device_memory_size_v2

        def compute() -> None:
            device.at(scratch, nbytes)[:] = count
            self._runtime.model.compute(count, images, outputs)

        device.run(self._state, device._streams[stream], compute)
        return True


class CapturableContext(Context):
    """A context of TensorRT-RTX, which can be asked whether it can be recorded."""

    def is_stream_capturable(self, stream: int) -> bool:
        assert self._addresses
        return self._runtime.capturable


class Runtime:
    """A synthetic runtime, and the engine that it loads."""

    device_memory_size_v2 = 1000
    largest = 8
    profiles: Sequence[tuple[int, int]] = ((1, 8),)
    context: type[Context] = Context
    engine_host_code_allowed = False
    tempfile_control_flags = 0b11

    def __init__(self, device: HostDevice, card: ModelCard) -> None:
        self.device = device
        self.model = MeanModel(device, card)
        self.loads = True
        self.why = "the magic tag does not match"
        self.capturable = True
        self.logger: Any = None
        self.contexts: list[Context] = []
        self.config = Config()

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        low, high = self.profiles[index]
        return [(low, 32, 32, 3), (high, 32, 32, 3), (high, 32, 32, 3)]

    def start(self, logger: Any) -> Runtime:
        self.logger = logger
        return self

    def deserialize_cuda_engine(self, plan: bytes) -> Runtime | None:
        if not self.loads:
            self.logger.log(Severity.ERROR, self.why)
            return None
        return self

    def create_runtime_config(self) -> Config:
        return self.config

    def create_execution_context(self, config: Config) -> Context:
        assert config.strategy == "user managed"
        self.contexts.append(self.context(self))
        return self.contexts[-1]


class Severity:
    INTERNAL_ERROR, ERROR, WARNING = 0, 1, 2

    def __init__(self) -> None:
        pass


class Strategy:
    USER_MANAGED = "user managed"


class Files:
    ALLOW_IN_MEMORY_FILES = 0


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
        ExecutionContextAllocationStrategy = Strategy
        TempfileControlFlag = Files

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


def test_each_recorded_batch_has_a_context_and_all_share_their_memory(
    plan: PlanFile, api: Api, device: NumberedDevice, runtime: Runtime
) -> None:
    said: list[str] = []
    model = TensorRtModel(plan, api, device)
    with DeviceEngine(plan.engine, plan.card, model, device, sizes_of(plan, 8), 2, said.append) as engine:
        assert len(runtime.contexts) == 1
        engine.warm_up()
        assert len(runtime.contexts) == 1 + 2 * 4
        assert len({context.memory for context in runtime.contexts}) == 1
        launched = device.launched
        for size in (8, 1, 4, 1, 2):
            engine.collect(engine.submit(engine.lend(size)))
        assert (device.launched - launched, len(runtime.contexts), said) == (5, 9, [])
    assert (device.used, device.things) == (0, 0)


def test_a_plan_that_cannot_be_recorded_runs_without_graphs(
    plan: PlanFile, api: Api, device: NumberedDevice, runtime: Runtime
) -> None:
    runtime.context, runtime.capturable = CapturableContext, False
    said: list[str] = []
    model = TensorRtModel(plan, api, device)
    with DeviceEngine(plan.engine, plan.card, model, device, (1, 2), 1, said.append) as engine:
        engine.warm_up()
        engine.collect(engine.submit(engine.lend(1)))
        assert device.launched == 0
    assert said == [f"{plan.engine}: batches of 1 and more run without CUDA graphs: the model cannot be recorded"]


def test_a_single_image_runs_in_its_own_profile(plan: PlanFile, api: Api, device: NumberedDevice, runtime: Runtime) -> None:
    runtime.profiles = ((1, 1), (2, 8))
    model = TensorRtModel(plan, api, device)
    with DeviceEngine(plan.engine, plan.card, model, device, (1, 2, 8), 1) as engine:
        engine.warm_up()
        assert [context.active_optimization_profile for context in runtime.contexts] == [1, 0, 1, 1]
        with pytest.raises(EngineError, match="has no optimization profile for a batch of 9"):
            model.recordable(9, 0, dict.fromkeys(model.outputs, 0), 0)


class Blob:
    """The runtime cache of the synthetic TensorRT-RTX, which knows its own content only."""

    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, content: bytes) -> bool:
        known = content.startswith(b"kernels")
        self.content = content if known else b""
        return known

    def serialize(self) -> bytes:
        return self.content


class RtxConfig(Config):
    """The runtime configuration of the synthetic TensorRT-RTX: a kernel is compiled for each new batch size."""

    dynamic_shapes_kernel_specialization_strategy = "lazy"

    def create_runtime_cache(self) -> Blob:
        return Blob()

    def set_runtime_cache(self, cache: Blob) -> bool:
        self.cache = cache
        return True


class RtxContext(CapturableContext):
    """It compiles at its first run in a shape, unless the cache has the kernel."""

    compiled = 0

    def execute_async_v3(self, stream: int) -> bool:
        config = self._runtime.config
        assert isinstance(config, RtxConfig)
        assert config.dynamic_shapes_kernel_specialization_strategy == "eager"
        name = f" {self._count}".encode()
        if name not in config.cache.content:
            assert self._runtime.device._recording is None
            config.cache.content = (config.cache.content or b"kernels") + name
            RtxContext.compiled += 1
        return super().execute_async_v3(stream)


class Kernels:
    EAGER = "eager"


def test_a_second_start_of_tensorrt_rtx_compiles_nothing(
    plan: PlanFile, api: Api, device: NumberedDevice, runtime: Runtime, tmp_path: Path
) -> None:
    api.module.DynamicShapesKernelSpecializationStrategy = Kernels
    runtime.context = RtxContext
    file = kernels_file(replace(plan, file=tmp_path / "engine.bin"), "NVIDIA L4")
    assert file is not None
    said: list[str] = []

    def starts() -> int:
        runtime.config = RtxConfig()
        before = RtxContext.compiled
        model = TensorRtModel(plan, api, device, file, said.append)
        with DeviceEngine(plan.engine, plan.card, model, device, (1, 2, 8), 1, said.append) as engine:
            engine.warm_up()
        return RtxContext.compiled - before

    assert [starts(), starts(), said] == [3, 0, []]
    content = file.read_bytes()
    for wrong in (content[:-1], hashlib.sha256(b"of another driver").digest() + b"of another driver", b""):
        file.write_bytes(wrong)
        assert [starts(), starts()] == [3, 0]
        assert "they are compiled again" in said.pop()
        assert said == []
    file = tmp_path / "removed meanwhile" / file.name
    assert starts() == 3
    assert "cannot be stored: No such file or directory" in said.pop()
    assert kernels_file(plan, "NVIDIA L4") is None


def test_code_for_the_host_is_allowed_for_version_compatible_plans_only(
    plan: PlanFile, api: Api, device: NumberedDevice, runtime: Runtime
) -> None:
    found = []
    for compatible in (False, True):
        TensorRtModel(replace(plan, version_compatible=compatible), api, device).close()
        found.append((runtime.engine_host_code_allowed, runtime.tempfile_control_flags))
    assert found == [(False, 3), (True, 1)]  # in memory only: /tmp may be small, or without execute permission


def test_an_error_contains_the_message_of_the_runtime(plan: PlanFile, api: Api, device: NumberedDevice, runtime: Runtime) -> None:
    runtime.loads = False
    with pytest.raises(EngineError, match="does not load the plan: the magic tag does not match") as caught:
        TensorRtModel(plan, api, device)
    assert "engine build" in caught.value.hint


@pytest.mark.parametrize(
    ("severity", "why"),
    [
        (1, "[executionContext.cpp::allocate::12] Error Code 2: OutOfMemory (Requested size was 1000000 bytes.)"),
        (1, "Error Code 2: OutOfMemory (no further information)"),
        (1, "CUDA error: out of memory"),
        (2, "Requested amount of GPU memory (9 bytes) could not be allocated. There may not be enough free memory."),
    ],
)
def test_a_lack_of_memory_is_recognized(
    plan: PlanFile,
    api: Api,
    device: NumberedDevice,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    severity: int,
    why: str,
) -> None:
    def without_memory(_: bytes) -> Runtime | None:
        runtime.logger.log(severity, why)
        runtime.logger.log(Severity.ERROR, "Assertion engine != nullptr failed.")
        return None

    monkeypatch.setattr(runtime, "deserialize_cuda_engine", without_memory)
    with pytest.raises(DeviceMemoryError) as caught:
        TensorRtModel(plan, api, device)
    assert why[:30] in caught.value.message


@pytest.mark.parametrize(("weights", "scratch", "needs"), [(2 * 10**9, 1000, 2000), (4, 2 * 10**9, 2000)])
def test_memory_is_checked_before_it_is_used(
    plan: PlanFile, api: Api, device: NumberedDevice, runtime: Runtime, weights: int, scratch: int, needs: int
) -> None:
    class Long(bytes):
        def __len__(self) -> int:
            return weights

    runtime.device_memory_size_v2 = scratch
    with pytest.raises(DeviceMemoryError, match=f"about {needs} MB are needed for .*, but .* has 1000 of 1000 MB free"):
        TensorRtModel(replace(plan, plan=Long()), api, device)
    assert device.used == 0


def test_a_runtime_that_does_not_start(plan: PlanFile, api: Api, device: NumberedDevice, runtime: Runtime) -> None:
    def null(logger: Any) -> None:
        logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    api.module.Runtime = null
    with pytest.raises(
        EngineError, match=r"TensorRT 11\.0 cannot be started: CUDA initialization failure with error: 35"
    ) as caught:
        TensorRtModel(plan, api, device)
    assert "Update NVIDIA's driver" in caught.value.hint


@pytest.mark.parametrize(
    ("version", "capability", "gpu", "why"),
    [
        ("11.1", "sm_89", "NVIDIA L4", "it was built by tensorrt 11.0, installed is 11.1"),
        ("11.0", "sm_90", "NVIDIA H100", "it was built for sm_89, this GPU is sm_90"),
        ("11.0", "sm_89", "NVIDIA L40", "it was built on NVIDIA L4, this GPU is NVIDIA L40"),
    ],
)
def test_a_plan_of_another_version_or_gpu_never_reaches_the_runtime(
    plan: PlanFile, api: Api, monkeypatch: pytest.MonkeyPatch, version: str, capability: str, gpu: str, why: str
) -> None:
    cuda = pytest.importorskip("vision_infer.engine.gpu.cuda", reason="cuda-bindings is not here")
    monkeypatch.setattr(cuda, "cuda_device", lambda _: SimpleNamespace(compute_capability=capability, title=gpu))
    monkeypatch.setattr(plan_engine, "load_api", lambda _: replace(api, version=version))
    with pytest.raises(EngineError) as caught:
        plan_engine.open_plan_engine(replace(plan, hardware="NVIDIA L4"), 0, 8, 2, lambda _: None)
    expected = f"the plan cannot be loaded: {why}. Build it again on this machine: vision-infer engine build"
    assert str(caught.value) == expected


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
@needs_cuda
@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_on_a_gpu(runtime: str, tmp_path: Path, card: ModelCard) -> None:
    pytest.importorskip(runtime.replace("-", "_"), reason=f"needs an NVIDIA GPU and {runtime}")
    said: list[str] = []
    path, request = tiny_graph(tmp_path / "x.onnx", card), EngineRequest(runtime, batch=4, engine_dir=tmp_path / "engines")
    for start in ("first", "second"):
        try:
            engine = open_engine(path, request, said.append)
        except EngineError as error:
            if "does not run on" in error.message:
                pytest.skip(f"needs an NVIDIA GPU for {runtime}: {error.message}")
            raise
        with engine:
            check_on_a_gpu(engine)
        assert not [line for line in said if "CUDA graphs" in line]
        assert start == "first" or not said  # the plan and its kernels are found again
        said.clear()
    assert len(list(tmp_path.glob("engines/*/kernels-*.bin"))) == (runtime == "tensorrt-rtx")


def check_on_a_gpu(engine: Any) -> None:
    """Run batches that are not recorded, and then recorded ones."""
    for recorded in (False, True):
        if recorded:
            engine.warm_up()
        for _ in range(3):
            loan = engine.lend(3)
            for value, slot in enumerate(loan.slots):
                slot.pixels[:] = 50 * value
            scores = engine.collect(engine.submit(loan)).outputs["scores"][:, 0]
            assert np.allclose(scores * 255, [0, 50, 100], atol=0.01)
