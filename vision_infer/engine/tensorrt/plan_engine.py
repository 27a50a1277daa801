"""Runs plans of TensorRT and TensorRT-RTX with the buffers, streams and CUDA graphs of engines on a device."""

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

_BUILD_AGAIN = "Build it again on this machine: vision-infer engine build"


class TensorRtModel:
    """A plan that is loaded on a GPU.

    Args:
        plan: The plan, built for this GPU and this version of the runtime: see :meth:`PlanFile.why_not`.
        device: The device, which the calling thread already uses.

    Raises:
        DeviceMemoryError: The GPU has not enough memory.
        EngineError: The runtime does not load it.
    """

    def __init__(self, plan: PlanFile, api: Api, device: Accelerator) -> None:
        self.outputs = plan.outputs
        self._height, self._width = plan.card.input.height, plan.card.input.width
        self._messages = Messages(api)
        self._title = api.title
        self._runtime = api.module.Runtime(self._messages.logger)
        if self._runtime is None:
            raise self._failure("cannot be started")
        self._engine = self._runtime.deserialize_cuda_engine(plan.plan)
        if self._engine is None:
            raise self._failure("does not load the plan", _BUILD_AGAIN)
        need, free = int(self._engine.device_memory_size_v2), device.memory()[0]
        if need > free:
            raise DeviceMemoryError(f"{device.name} has {free / 1e6:.0f} MB free, the model needs {need / 1e6:.0f}")
        self._context = _make_context(self._engine, api)
        if self._context is None:
            raise self._failure("cannot create an execution context for the plan")

    def enqueue(self, count: int, images: int, outputs: Mapping[str, int], stream: Any) -> None:
        """Queue a batch; see :class:`vision_infer.engine.gpu.accelerator.DeviceModel`. Not thread-safe."""
        context = self._context
        if context is None:
            raise EngineError("it is closed")
        self._messages.clear()
        addresses = {"images": images, **{name: outputs[name] for name in self.outputs}}
        accepted = context.set_input_shape("images", (count, self._height, self._width, 3))
        accepted = accepted and all(context.set_tensor_address(name, address) for name, address in addresses.items())
        if not accepted or not context.execute_async_v3(int(stream)):
            raise self._failure(f"does not accept a batch of {count}")

    def capturing(self) -> AbstractContextManager[Any] | None:
        """Return an empty context: the model allocates nothing while it runs, and can be recorded."""
        return nullcontext()

    def close(self) -> None:
        """Free context, engine and runtime, in this order: each depends on the next."""
        self._context = None
        self._engine = None
        self._runtime = None

    def _failure(self, what: str, hint: str = "") -> EngineError:
        error = self._messages.last_error()
        message = f"{self._title} {what}{f': {error}' if error else ''}"
        return DeviceMemoryError(message) if "out of memory" in error.lower() else EngineError(message, hint)


def open_plan_engine(
    plan: PlanFile, index: int, batch: int, in_flight: int, on_message: OnMessage, graphs: bool = True
) -> DeviceEngine:
    """Open an engine that runs a plan on one of this machine's GPUs.

    Args:
        batch: The largest batch size; the plan may allow only smaller ones.
        on_message: Receives which batch sizes are left out because of the memory.

    Raises:
        EngineError: The plan is for another GPU or version, the runtime or the GPU is missing, or there is not enough memory.
    """
    from vision_infer.engine.gpu.cuda import cuda_device

    api = load_api(plan.runtime)
    device = cuda_device(index)
    why_not = plan.why_not(plan.runtime, api.version, device.compute_capability, device.title)
    if why_not:
        raise EngineError(f"the plan cannot be loaded: {why_not}", _BUILD_AGAIN)
    model = TensorRtModel(plan, api, device)
    return DeviceEngine(plan.engine, plan.card, model, device, sizes_of(plan, batch), in_flight, on_message, graphs)


def sizes_of(plan: PlanFile, batch: int) -> tuple[int, ...]:
    """Return the batch sizes that a plan runs: those that it was built for, and powers of two between them, up to ``batch``.

    Raises:
        EngineError: It was built for larger ones only.
    """
    smallest, largest = plan.batch_sizes[0], min(batch, plan.batch_sizes[-1])
    if smallest > largest:
        raise EngineError(
            f"the plan runs batches of {smallest} and more", f"Use --batch {smallest}, or build it for smaller ones."
        )
    return tuple(sorted({size for size in (*plan.batch_sizes, *batch_sizes_up_to(largest)) if smallest <= size <= largest}))


def _make_context(engine: Any, api: Api) -> Any:
    if not hasattr(engine, "create_runtime_config"):
        return engine.create_execution_context()
    # TensorRT-RTX compiles kernels at run time. Those for the batch size have to exist before the batch is recorded; otherwise
    # the CUDA graph would contain the slower fallback kernels for good.
    config = engine.create_runtime_config()
    strategies = getattr(api.module, "DynamicShapesKernelSpecializationStrategy", None)
    if strategies is not None:
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    return engine.create_execution_context(config)
