"""Deployment graphs in PyTorch, on the CPU or on a GPU.

On a GPU they run through the same buffers, streams and CUDA graphs as TensorRT's (:mod:`vision_infer.engine.gpu.device_engine`),
which are so tested wherever PyTorch runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vision_infer.core.card import ModelCard
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import EngineError
from vision_infer.engine.buffers import HostBuffer
from vision_infer.engine.contract import OutputShapes, check_contract
from vision_infer.engine.engine import Loan, Ticket
from vision_infer.engine.external_data import refuse_external_data_outside
from vision_infer.engine.gpu.accelerator import DeviceMemoryError
from vision_infer.engine.gpu.device_engine import DeviceEngine, batch_sizes_up_to
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.host_engine import HostEngine
from vision_infer.engine.runtime import EngineSettings
from vision_infer.engine.runtime_errors import summarize_error
from vision_infer.engine.runtimes.torch_graph import TorchGraph
from vision_infer.engine.store.cache import OnMessage

Run = Callable[[torch.Tensor], dict[str, torch.Tensor]]


class TorchEngine(HostEngine):
    """A deployment graph in PyTorch on the CPU. One batch runs at a time, with all threads.

    Args:
        settings: The workers, threads and largest batch size; PyTorch has one pool of threads for the whole process.
        compiled: Whether ``torch.compile`` makes it faster; that takes a minute and a C++ compiler.

    Raises:
        ModelError: The file cannot be loaded, has an operator that is not supported here, or is not a deployment graph.
    """

    def __init__(self, path: Path, settings: EngineSettings, compiled: bool = False) -> None:
        graph, outputs, card, precision = _load(path, "cpu")
        sizes = tuple(range(1, settings.batch + 1))
        super().__init__(f"{torch_runtime(compiled)}-cpu-{precision}", card, sizes, settings.workers, outputs)
        torch.set_num_threads(settings.threads)
        self._run: Run | None = _compiled(graph) if compiled else graph.run
        # Serializes the runs of the workers' threads: held by submit() while a batch is computed.
        self._lock = threading.Lock()

    def submit(self, loan: Loan) -> Ticket:
        """Run the batch on the calling thread."""
        buffer: HostBuffer = loan.buffer
        count = len(loan.slots)
        try:
            with self._lock:
                if self._run is None:
                    raise EngineError(f"{self.name} is closed")
                started = SYSTEM_CLOCK.monotonic_ns()
                outputs = self._run(torch.from_numpy(buffer.images[:count]))
            for name, array in buffer.outputs.items():
                np.copyto(array[:count], outputs[name].numpy(), casting="no")
        except BaseException as error:  # after an interrupt the engine stays usable
            self._pool.release(loan)
            if not isinstance(error, Exception) or isinstance(error, EngineError):
                raise
            raise EngineError(f"{self.name} failed on a batch of {count}: {summarize_error(error)}") from error
        return Ticket(loan, (started, SYSTEM_CLOCK.monotonic_ns()))

    def __exit__(self, *_: object) -> None:
        self._run = None


class TorchModel:
    """A deployment graph in PyTorch on a device; it reads and writes the caller's memory, on the caller's stream.

    It switches TensorFloat-32, which PyTorch allows in convolutions, off for the whole process, so that FP32 means FP32.

    Args:
        device: PyTorch's name of the device, such as ``cuda:0``.

    Raises:
        DeviceMemoryError: The weights do not fit.
        ModelError: As for :class:`TorchEngine`.
    """

    def __init__(self, path: Path, device: str, compiled: bool = False) -> None:
        self._device = torch.device(device)
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise EngineError("this PyTorch sees no CUDA device", "Install its build for CUDA, or use --device cpu.")
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            graph, self.outputs, self.card, precision = _load(path, device)
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryError(f"the weights of {path} do not fit: {summarize_error(error)}") from error
        self.name = f"{torch_runtime(compiled)}-{self._device.type}-{precision}"
        self.device_bytes = path.stat().st_size  # about the size of its weights
        self._graph = graph
        self._run: Run | None = _compiled(graph) if compiled else graph.run
        self._memory: Any = None
        """The memory pool of recorded graphs, which must not be reused as long as a graph exists."""
        self._views: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}

    def enqueue(self, count: int, images: int, outputs: Mapping[str, int], stream: Any) -> None:
        """Queue a batch; see :class:`vision_infer.engine.gpu.accelerator.DeviceModel`."""
        if self._run is None:
            raise EngineError(f"{self.name} is closed")
        height, width = self.card.input.height, self.card.input.width
        try:
            with self._on(stream):
                found = self._run(self._at(images, (count, height, width, 3), np.dtype(np.uint8)))
                for name, (shape, dtype) in self.outputs.items():
                    self._at(outputs[name], (count, *shape), dtype).copy_(found[name])
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise DeviceMemoryError(summarize_error(error)) from error
        except Exception as error:
            raise EngineError(summarize_error(error)) from error

    def recordable(self, count: int, images: int, outputs: Mapping[str, int], stream: Any) -> Callable[[], None] | None:
        """Return a function that allocates from a pool for recorded batches only: a graph refers to that memory."""
        if self._device.type == "cuda" and self._memory is None:
            self._memory = torch.cuda.MemPool()

        def run() -> None:
            with nullcontext() if self._memory is None else torch.cuda.use_mem_pool(self._memory, self._device):
                self.enqueue(count, images, outputs, stream)

        return run

    def warmed_up(self) -> None:
        """Keep nothing: PyTorch has its own cache."""

    def close(self) -> None:
        """Free the weights and PyTorch's cached memory."""
        self._run = None
        self._views.clear()
        self._graph.close()
        self._memory = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _on(self, stream: Any) -> AbstractContextManager[Any]:
        if self._device.type != "cuda":
            return nullcontext()
        return torch.cuda.stream(torch.cuda.ExternalStream(int(stream), self._device))  # type: ignore[no-untyped-call]

    def _at(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> torch.Tensor:
        """Return memory of the caller as a tensor, without a copy."""
        view = self._views.get((address, shape))
        if view is None:
            kind = "__array_interface__" if self._device.type == "cpu" else "__cuda_array_interface__"
            interface = {"shape": shape, "typestr": dtype.str, "data": (address, False), "version": 3, "strides": None}
            foreign = type("Foreign", (), {kind: interface})()
            if self._device.type == "cpu":
                view = torch.from_numpy(np.asarray(foreign))
            else:
                view = torch.as_tensor(foreign, device=self._device)
            self._views[address, shape] = view
        return view


def open_torch_on_cuda(
    path: Path, settings: EngineSettings, on_message: OnMessage, compiled: bool = False, graphs: bool = True
) -> DeviceEngine:
    """Open a deployment graph on a GPU; arguments and errors are those of :class:`DeviceEngine` and :class:`TorchModel`."""
    from vision_infer.engine.gpu.cuda import cuda_device

    device = cuda_device(settings.device_index)
    model = TorchModel(path, device.name, compiled)
    sizes = batch_sizes_up_to(settings.batch)
    return DeviceEngine(model.name, model.card, model, device, sizes, settings.workers, on_message, graphs)


def torch_runtime(compiled: bool) -> str:
    """Return the first part of the engine's name."""
    return "torchcompile" if compiled else "torch"


def _load(path: Path, device: str) -> tuple[TorchGraph, OutputShapes, ModelCard, str]:
    refuse_external_data_outside(path)
    facts = read_graph_facts(path)
    graph = TorchGraph(path, device)
    outputs = check_contract(*graph.ports, facts.card, path)
    return graph, outputs, facts.card, facts.precision


def _compiled(graph: TorchGraph) -> Run:
    run: Run = torch.compile(graph.run, dynamic=False)
    return run
