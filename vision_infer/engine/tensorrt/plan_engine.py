"""TensorRT and TensorRT-RTX: a plan, run through the buffers, streams and CUDA graphs of engines on a device."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from vision_infer.core.errors import EngineError
from vision_infer.engine.gpu.accelerator import Accelerator, DeviceMemoryError
from vision_infer.engine.gpu.device_engine import DeviceEngine, batch_sizes_up_to
from vision_infer.engine.store.cache import OnMessage
from vision_infer.engine.tensorrt.api import Api, Messages, load_api
from vision_infer.engine.tensorrt.plan_file import PlanFile

_BUILD_AGAIN = "build it again on this machine: vision-infer engine build"


class TensorRtModel:
    """A plan that is loaded on a GPU.

    Args:
        plan: it has to be for this GPU and this version of the runtime: see :meth:`PlanFile.why_not`.
        api: the runtime.
        device: which has been made the thread's own.

    Raises:
        DeviceMemoryError: the GPU has no memory for it.
        EngineError: the runtime does not load it.
    """

    def __init__(self, plan: PlanFile, api: Api, device: Accelerator) -> None:
        self.outputs = plan.outputs
        self._height, self._width = plan.card.input.height, plan.card.input.width
        self._messages = Messages(api)
        self._title = api.title
        before = device.memory()[0]
        self._runtime = api.module.Runtime(self._messages.logger)
        if self._runtime is None:
            raise self._failure("cannot be started")
        self._engine = self._runtime.deserialize_cuda_engine(plan.plan)
        if self._engine is None:
            raise self._failure("does not load the plan", _BUILD_AGAIN)
        need, free = int(self._engine.device_memory_size_v2), device.memory()[0]
        if need > free:
            raise DeviceMemoryError(f"{device.name} has {free / 1e6:.0f} MB free, the network needs {need / 1e6:.0f}")
        self._context = _make_context(self._engine, api)
        if self._context is None:
            raise self._failure("cannot make a context for the plan")
        self.device_bytes = max(need, before - device.memory()[0])
        """what loading it took of the GPU; another program that took memory meanwhile counts too"""

    def enqueue(self, count: int, images: int, outputs: Mapping[str, int], stream: Any) -> None:
        """Queue a batch; see :class:`vision_infer.engine.gpu.accelerator.DeviceModel`. One thread at a time."""
        context = self._context
        if context is None:
            raise EngineError("it is closed")
        self._messages.clear()
        addresses = {"images": images, **{name: outputs[name] for name in self.outputs}}
        taken = context.set_input_shape("images", (count, self._height, self._width, 3))
        taken = taken and all(context.set_tensor_address(name, address) for name, address in addresses.items())
        if not taken or not context.execute_async_v3(int(stream)):
            raise self._failure(f"does not take a batch of {count}")

    def capturing(self) -> AbstractContextManager[Any] | None:
        """It can be recorded, as it allocates nothing while it runs."""
        return nullcontext()

    def close(self) -> None:
        """In the order in which they depend on each other."""
        self._context = None
        self._engine = None
        self._runtime = None

    def _failure(self, what: str, hint: str = "") -> EngineError:
        told = self._messages.last_error()
        message = f"{self._title} {what}{f': {told}' if told else ''}"
        return DeviceMemoryError(message) if "out of memory" in told.lower() else EngineError(message, hint)


def open_plan_engine(
    plan: PlanFile, index: int, batch: int, in_flight: int, on_message: OnMessage, graphs: bool = True
) -> DeviceEngine:
    """Run a plan on one of this machine's GPUs.

    Args:
        plan: as it was built.
        index: of the GPU, as CUDA counts them.
        batch: largest batch; no larger ones than those of the plan are run.
        in_flight: batches at the same time.
        say: told what is left out where memory does not suffice.
        graphs: whether batches are recorded as CUDA graphs.

    Raises:
        EngineError: the plan is for another GPU or version, the runtime or the GPU is missing, or memory does not suffice.
    """
    from vision_infer.engine.gpu.cuda import CudaDevice

    api = load_api(plan.runtime)
    device = CudaDevice(index)
    why_not = plan.why_not(plan.runtime, api.version, device.compute_capability, device.title)
    if why_not:
        raise EngineError(f"the plan cannot be loaded: {why_not}", _BUILD_AGAIN)
    network = TensorRtModel(plan, api, device)
    return DeviceEngine(plan.engine, plan.card, network, device, sizes_of(plan, batch), in_flight, on_message, graphs)


def sizes_of(plan: PlanFile, batch: int) -> tuple[int, ...]:
    """The batch sizes that a plan runs: those that it was built for, and powers of two between them, up to ``batch``.

    Raises:
        EngineError: it was built for larger ones only.
    """
    least, most = plan.batch_sizes[0], min(batch, plan.batch_sizes[-1])
    if least > most:
        raise EngineError(f"the plan runs batches of {least} and more", f"use --batch {least}, or build it for smaller ones")
    return tuple(sorted({size for size in (*plan.batch_sizes, *batch_sizes_up_to(most)) if least <= size <= most}))


def _make_context(engine: Any, api: Api) -> Any:
    if not hasattr(engine, "create_runtime_config"):
        return engine.create_execution_context()
    # TensorRT-RTX compiles kernels where it runs. Those for the sizes of a batch are to be there before it is recorded, not later
    # and beside it: the recording would keep the slower ones that stand in until then.
    config = engine.create_runtime_config()
    strategies = getattr(api.module, "DynamicShapesKernelSpecializationStrategy", None)
    if strategies is not None:
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    return engine.create_execution_context(config)
