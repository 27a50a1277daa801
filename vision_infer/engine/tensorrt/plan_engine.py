"""Runs plans of TensorRT and TensorRT-RTX with the buffers, streams and CUDA graphs of engines on a device.

All batches run on one stream, so that all execution contexts share one block of working memory: one context for the batches that
are not recorded, and one for each recorded batch, because a graph refers to data of its context that depends on the shape.
Recording is the engine's own for both runtimes. TensorRT-RTX has a strategy that records by itself
(``IRuntimeConfig.cuda_graph_strategy``), but decides itself when, which may be while serving, and TensorRT does not have it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vision_infer.core.errors import EngineError
from vision_infer.engine.gpu.accelerator import Accelerator
from vision_infer.engine.gpu.device_engine import DeviceEngine, batch_sizes_up_to
from vision_infer.engine.gpu.ledger import ledger_of
from vision_infer.engine.store.cache import OnMessage
from vision_infer.engine.tensorrt.api import Api, Messages, created, failure, load_api, start
from vision_infer.engine.tensorrt.kernels import Kernels, kernels_file
from vision_infer.engine.tensorrt.plan_file import PlanFile

_BUILD_AGAIN = "Build it again on this machine: vision-infer engine build"


class TensorRtModel:
    """A plan that is loaded on a GPU.

    Args:
        plan: The plan, built for this GPU and this version of the runtime: see :meth:`PlanFile.why_not`.
        device: The device, which the calling thread already uses.
        kernels: TensorRT-RTX only: the file of the kernels that are compiled for this GPU; None: they are not kept.
        on_message: Receives that kernels cannot be used or stored.

    Raises:
        DeviceMemoryError: The GPU has not enough memory.
        EngineError: The runtime does not start, or does not load it.
    """

    def __init__(
        self,
        plan: PlanFile,
        api: Api,
        device: Accelerator,
        kernels: Path | None = None,
        on_message: OnMessage = lambda _: None,
    ) -> None:
        self.outputs = plan.outputs
        self._height, self._width = plan.card.input.height, plan.card.input.width
        self._messages = Messages(api)
        self._api = api
        self._device = device
        self._runtime = start(api, self._messages, "Runtime")
        if plan.version_compatible:
            _allow_host_code(api, self._runtime)
        weights = len(plan.plan)  # about the size of its weights and kernels on the device
        ledger_of(device).check(weights, f"the plan {plan.engine}")
        self._engine = self._runtime.deserialize_cuda_engine(plan.plan)
        if self._engine is None:
            raise self._failure("does not load the plan", _BUILD_AGAIN)
        self._profiles = _profiles(self._engine)
        self._config = created(api, self._messages, self._engine.create_runtime_config())
        self._config.set_execution_context_allocation_strategy(api.module.ExecutionContextAllocationStrategy.USER_MANAGED)
        self._kernels = Kernels(api, self._config, kernels, on_message)
        self._scratch_bytes = max(int(self._engine.device_memory_size_v2), 256)
        ledger_of(device).check(self._scratch_bytes, f"the working memory of {plan.engine}")
        self.device_bytes = weights + self._scratch_bytes
        self._scratch = device.allocate(self._scratch_bytes)
        self._contexts: list[Any] = []
        try:
            self._context = self._make_context()
        except EngineError:
            self.close()
            raise

    def enqueue(self, count: int, images: int, outputs: Mapping[str, int], stream: Any) -> None:
        """Queue a batch; see :class:`vision_infer.engine.gpu.accelerator.DeviceModel`. Not thread-safe."""
        if not self._contexts:
            raise EngineError("it is closed")
        self._bind(self._context, count, images, outputs, stream)
        self._execute(self._context, count, stream)

    def recordable(self, count: int, images: int, outputs: Mapping[str, int], stream: Any) -> Callable[[], None] | None:
        """Return a function that queues a batch in its own context; None if TensorRT-RTX cannot record the plan."""
        context = self._make_context()
        self._bind(context, count, images, outputs, stream)
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(int(stream)):
            return None
        return lambda: self._execute(context, count, stream)

    def warmed_up(self) -> None:
        """Store the kernels that TensorRT-RTX has compiled."""
        self._kernels.store()

    def close(self) -> None:
        """Free contexts, engine and runtime, in this order: each depends on the next; then their working memory."""
        if self._runtime is None:
            return
        self._context = self._config = None
        self._contexts.clear()
        self._kernels.close()
        self._engine = None
        self._runtime = None
        with suppress(EngineError):  # of a broken device
            self._device.free(self._scratch)

    def _make_context(self) -> Any:
        self._messages.clear()
        context = self._engine.create_execution_context(self._config)
        if context is None:
            raise self._failure("cannot create an execution context for the plan")
        context.set_device_memory(self._scratch, self._scratch_bytes)
        self._contexts.append(context)
        return context

    def _bind(self, context: Any, count: int, images: int, outputs: Mapping[str, int], stream: Any) -> None:
        """Give a context the shape and the addresses of a batch."""
        self._messages.clear()
        addresses = {"images": images, **{name: outputs[name] for name in self.outputs}}
        fitting = [(high - low, index) for index, (low, high) in enumerate(self._profiles) if low <= count <= high]
        if not fitting:
            raise self._failure(f"has no optimization profile for a batch of {count}", _BUILD_AGAIN)
        profile = min(fitting)[1]
        accepted = context.active_optimization_profile == profile or context.set_optimization_profile_async(profile, int(stream))
        accepted = accepted and context.set_input_shape("images", (count, self._height, self._width, 3))
        if not accepted or not all(context.set_tensor_address(name, address) for name, address in addresses.items()):
            raise self._failure(f"does not accept a batch of {count}")

    def _execute(self, context: Any, count: int, stream: Any) -> None:
        if not context.execute_async_v3(int(stream)):
            raise self._failure(f"does not run a batch of {count}")

    def _failure(self, what: str, hint: str = "") -> EngineError:
        return failure(self._api, self._messages, what, hint)


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
    model = TensorRtModel(plan, api, device, kernels_file(plan, device.title), on_message)
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


def _allow_host_code(api: Api, runtime: Any) -> None:
    """Let a runtime load the code for the host that a version-compatible plan contains: the plan was checked, and is the user's.

    The code is loaded from memory, so that a small /tmp, or one without execute permission, as in containers, does not matter.
    """
    runtime.engine_host_code_allowed = True
    runtime.tempfile_control_flags = 1 << int(api.module.TempfileControlFlag.ALLOW_IN_MEMORY_FILES)


def _profiles(engine: Any) -> list[tuple[int, int]]:
    """Return the smallest and the largest batch of each optimization profile."""
    shapes = [engine.get_tensor_profile_shape("images", index) for index in range(engine.num_optimization_profiles)]
    return [(int(low[0]), int(high[0])) for low, _, high in shapes]
