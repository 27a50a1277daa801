"""PyTorch as the reference: the same deployment graph, computed by other code, on the CPU or on a GPU.

It is there to be compared with: ``auto`` never takes it. On a GPU it runs through the same buffers, streams and CUDA graphs as
TensorRT does (:mod:`vision_infer.engine.gpu.device_engine`), which so are proved wherever PyTorch runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from vision_infer.core.card import ModelCard
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Size
from vision_infer.engine.buffers import BufferPool, HostBuffer
from vision_infer.engine.contract import OutputShapes, check_contract
from vision_infer.engine.engine import Loan, RawResults, Ticket
from vision_infer.engine.external_data import refuse_external_data_outside
from vision_infer.engine.gpu.accelerator import DeviceMemoryError
from vision_infer.engine.gpu.device_engine import DeviceEngine, batch_sizes_up_to
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.runtime_errors import told
from vision_infer.engine.runtimes.torch_graph import TorchGraph
from vision_infer.engine.store.cache import OnMessage

Run = Callable[[torch.Tensor], dict[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class TorchSettings:
    """How a deployment graph is run."""

    workers: int = 1
    """batches in flight"""
    threads: int = 1
    """of all of PyTorch, which has one pool for a process"""
    batch: int = 1
    """largest batch"""
    compiled: bool = False
    """let ``torch.compile`` make it faster; it takes a minute, and a C++ compiler on the CPU"""


class TorchEngine:
    """A deployment graph in PyTorch on the CPU. One batch runs at a time, with all threads.

    Args:
        path: the deployment graph.
        settings: workers, threads, largest batch.

    Raises:
        ModelError: the file cannot be loaded, has an operator that is not known here, or is no deployment graph.
    """

    def __init__(self, path: Path, settings: TorchSettings) -> None:
        graph, outputs, self.card, precision = _load(path, "cpu")
        self.name = f"{torch_runtime(settings.compiled)}-cpu-{precision}"
        self.in_flight = settings.workers
        self.batch_sizes = tuple(range(1, settings.batch + 1))
        torch.set_num_threads(settings.threads)
        self._run: Run | None = _compiled(graph) if settings.compiled else graph.run
        self._pool = BufferPool(self.card.input_size, self.batch_sizes, settings.workers, outputs)
        self._lock = threading.Lock()

    @property
    def input_size(self) -> Size:
        """Width and height of a slot, pixels."""
        return self.card.input_size

    @property
    def buffer_bytes(self) -> int:
        """Size of all buffers, bytes."""
        return self._pool.nbytes

    def lend(self, count: int) -> Loan:
        """Slots for a batch."""
        return self._pool.lend(count)

    def release(self, loan: Loan) -> None:
        """Take slots back."""
        self._pool.release(loan)

    def submit(self, loan: Loan) -> Ticket:
        """Run the batch, on this thread."""
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
        except BaseException as error:  # whoever interrupts us may call again
            self._pool.release(loan)
            if not isinstance(error, Exception) or isinstance(error, EngineError):
                raise
            raise EngineError(f"{self.name} failed on a batch of {count}: {told(error)}") from error
        return Ticket(loan, (started, SYSTEM_CLOCK.monotonic_ns()))

    def collect(self, ticket: Ticket) -> RawResults:
        """The batch's results, copied out of the buffer, which is free again."""
        count = len(ticket.loan.slots)
        outputs = {name: array[:count].copy() for name, array in ticket.loan.buffer.outputs.items()}
        self._pool.release(ticket.loan)
        started, ended = ticket.state
        return RawResults(outputs, started, ended)

    def warm_up(self) -> None:
        """Run the smallest and the largest batch."""
        for count in {self.batch_sizes[0], self.batch_sizes[-1]}:
            self.collect(self.submit(self.lend(count)))

    def __enter__(self) -> TorchEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._run = None


class TorchNetwork:
    """A deployment graph in PyTorch, on a device: reads and writes memory that others hold, on a stream of others.

    FP32 is FP32: TensorFloat-32, which PyTorch allows in convolutions, is switched off for the process.

    Args:
        path: the deployment graph.
        device: of PyTorch, such as ``cuda:0``.
        compiled: see :class:`TorchSettings`.

    Raises:
        DeviceMemoryError: its weights do not fit.
        ModelError: as :class:`TorchEngine`.
    """

    def __init__(self, path: Path, device: str, compiled: bool = False) -> None:
        self._device = torch.device(device)
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise EngineError("this PyTorch sees no CUDA device", "install its build for CUDA, or use --device cpu")
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            graph, self.outputs, self.card, precision = _load(path, device)
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryError(f"the weights of {path} do not fit: {told(error)}") from error
        self.name = f"{torch_runtime(compiled)}-{self._device.type}-{precision}"
        self._graph = graph
        self._run: Run | None = _compiled(graph) if compiled else graph.run
        self._memory: Any = None
        """of what is recorded: it may not be handed to others as long as a recording is there"""
        self._views: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}

    @property
    def device_bytes(self) -> int:
        """What PyTorch has taken of the device for this process; on the CPU the weights."""
        return torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else self._graph.weight_bytes

    def enqueue(self, count: int, images: int, outputs: Mapping[str, int], stream: Any) -> None:
        """Queue a batch; see :class:`vision_infer.engine.gpu.accelerator.Network`."""
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
            raise DeviceMemoryError(told(error)) from error
        except Exception as error:
            raise EngineError(told(error)) from error

    def capturing(self) -> AbstractContextManager[Any] | None:
        """What is allocated meanwhile comes from memory that stays with the recordings."""
        if self._device.type != "cuda":
            return nullcontext()
        if self._memory is None:
            self._memory = torch.cuda.MemPool()
        return torch.cuda.use_mem_pool(self._memory, self._device)

    def close(self) -> None:
        """Free the weights, and what PyTorch keeps for later."""
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
        """Memory that others hold, as a tensor."""
        view = self._views.get((address, shape))
        if view is None:
            kind = "__array_interface__" if self._device.type == "cpu" else "__cuda_array_interface__"
            told_of = {"shape": shape, "typestr": dtype.str, "data": (address, False), "version": 3, "strides": None}
            foreign = type("Foreign", (), {kind: told_of})()
            if self._device.type == "cpu":
                view = torch.from_numpy(np.asarray(foreign))
            else:
                view = torch.as_tensor(foreign, device=self._device)
            self._views[address, shape] = view
        return view


def open_torch_on_cuda(
    path: Path, settings: TorchSettings, index: int, on_message: OnMessage, graphs: bool = True
) -> DeviceEngine:
    """PyTorch on a GPU; its arguments and errors are those of :class:`DeviceEngine` and :class:`TorchNetwork`."""
    from vision_infer.engine.gpu.cuda import CudaDevice

    device = CudaDevice(index)
    network = TorchNetwork(path, f"cuda:{index}", settings.compiled)
    sizes = batch_sizes_up_to(settings.batch)
    return DeviceEngine(network.name, network.card, network, device, sizes, settings.workers, on_message, graphs)


def torch_runtime(compiled: bool) -> str:
    """The first part of the engine's name."""
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
