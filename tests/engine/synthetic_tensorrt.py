"""A synthetic runtime of TensorRT, whose models run in host memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.engine.host_device import HostContext, HostDevice
from tests.engine.host_models import MeanModel
from vision_infer.core.card import ModelCard
from vision_infer.engine.tensorrt.api import Api
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
