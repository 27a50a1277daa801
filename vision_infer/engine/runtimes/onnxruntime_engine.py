"""ONNX Runtime: on the CPU, or with CUDA where onnxruntime-gpu and a device are there.

With one thread a session has no thread pool and ``Run`` may be called from several threads at once: one session, whose
weights are in memory once, serves all workers. With more threads each worker has a session, and so a pool, of its own.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import EngineError, ModelError
from vision_infer.core.geometry import Size
from vision_infer.engine.buffers import BufferPool, HostBuffer
from vision_infer.engine.contract import Port, check_contract
from vision_infer.engine.device import load_onnxruntime
from vision_infer.engine.engine import Loan, RawResults, Ticket
from vision_infer.engine.external_data import refuse_external_data_outside
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.runtime_errors import told

CUDA_BATCH_SIZES = (1, 2, 4, 8, 16)
CUDA_IN_FLIGHT = 2


@dataclass(frozen=True, slots=True)
class OnnxRuntimeSettings:
    """How a deployment graph is run."""

    device: str = "cpu"
    """``cpu`` or ``cuda``"""
    device_index: int = 0
    workers: int = 1
    """batches in flight"""
    threads: int = 1
    """threads of each batch, on the CPU"""
    batch: int = 1
    """largest batch"""


class OnnxRuntimeEngine:
    """A deployment graph in ONNX Runtime.

    Args:
        path: the deployment graph.
        settings: device, workers, threads, largest batch.
        optimised: what :func:`optimise` gave for the same file, runtime and processor; it loads in a quarter of the time.

    Raises:
        EngineError: the runtime is not installed, or the device is not there.
        ModelError: the file cannot be loaded or is no deployment graph.
    """

    def __init__(self, path: Path, settings: OnnxRuntimeSettings, optimised: bytes | None = None) -> None:
        refuse_external_data_outside(path)
        facts = read_graph_facts(path)
        self.card = facts.card
        sessions = 1 if settings.threads == 1 or settings.device == "cuda" else settings.workers
        self._sessions = [_load(path, settings, optimised) for _ in range(sessions)]
        first = self._sessions[0]
        outputs = check_contract(_ports(first.get_inputs()), _ports(first.get_outputs()), self.card, path)
        cuda = settings.device == "cuda"
        self.name = f"onnxruntime-{settings.device}-{facts.precision}"
        self.in_flight = settings.workers
        self.batch_sizes = (
            tuple(size for size in CUDA_BATCH_SIZES if size <= settings.batch) if cuda else tuple(range(1, settings.batch + 1))
        )
        self._pool = BufferPool(self.card.input_size, self.batch_sizes, settings.workers, outputs)
        self._session_of = {id(buffer): self._sessions[number % sessions] for number, buffer in enumerate(self._pool.buffers)}

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
        """Run the batch, on this thread: ONNX Runtime has no queue of its own."""
        buffer: HostBuffer = loan.buffer
        session = self._session_of[id(buffer)]
        started = SYSTEM_CLOCK.monotonic_ns()
        try:
            binding = buffer.bindings.get(len(loan.slots))
            if binding is None:
                binding = buffer.bindings[len(loan.slots)] = self._bind(session, buffer, len(loan.slots))
            session.run_with_iobinding(binding)
        except BaseException as error:  # the runtime's errors have no common type; and whoever interrupts us may call again
            self._pool.release(loan)
            if not isinstance(error, Exception):
                raise
            raise EngineError(f"{self.name} failed on a batch of {len(loan.slots)}: {told(error)}") from error
        return Ticket(loan, (started, SYSTEM_CLOCK.monotonic_ns()))

    def collect(self, ticket: Ticket) -> RawResults:
        """The batch's results, copied out of the buffer (a few kilobytes), which is free again."""
        count = len(ticket.loan.slots)
        buffer: HostBuffer = ticket.loan.buffer
        outputs = {name: array[:count].copy() for name, array in buffer.outputs.items()}
        self._pool.release(ticket.loan)
        started, ended = ticket.state
        return RawResults(outputs, started, ended)

    def warm_up(self) -> None:
        """Run the smallest and the largest batch in every buffer."""
        for count in {self.batch_sizes[0], self.batch_sizes[-1]}:
            loans = [self.lend(count) for _ in range(self.in_flight)]
            for loan in loans:
                self.collect(self.submit(loan))

    def __enter__(self) -> OnnxRuntimeEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for buffer in self._pool.buffers:
            buffer.bindings.clear()
        self._session_of.clear()
        self._sessions.clear()

    def _bind(self, session: Any, buffer: HostBuffer, count: int) -> Any:
        binding = session.io_binding()
        images = buffer.images[:count]
        binding.bind_input("images", "cpu", 0, np.uint8, images.shape, images.ctypes.data)
        for name, array in buffer.outputs.items():
            view = array[:count]
            binding.bind_output(name, "cpu", 0, view.dtype.type, view.shape, view.ctypes.data)
        return binding


def optimise(path: Path) -> bytes:
    """The graph as ONNX Runtime rewrites it for this processor, before it runs it.

    Raises:
        EngineError: the runtime is not installed, or cannot write it.
        ModelError: the file cannot be loaded.
    """
    refuse_external_data_outside(path)
    with tempfile.TemporaryDirectory(prefix="vision-infer-") as folder:
        file = Path(folder) / "optimised.onnx"
        _load(path, OnnxRuntimeSettings(), None, file)
        try:
            return file.read_bytes()
        except OSError as error:
            raise EngineError(f"{path}: ONNX Runtime did not write what it made of it: {error.strerror}") from error


def _load(path: Path, settings: OnnxRuntimeSettings, optimised: bytes | None = None, write_to: Path | None = None) -> Any:
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    if optimised is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # What lay outside of the file does so still.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.resolve().parent))
    if write_to is not None:
        options.optimized_model_filepath = str(write_to)
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Waiting threads sleep: spinning takes the cores from decoding and from the other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Not "session.set_denormal_as_zero": it changes the floating-point mode of whatever thread calls, a user's too, for good.
    providers: list[Any] = ["CPUExecutionProvider"]
    if settings.device == "cuda":
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise EngineError("this ONNX Runtime has no CUDA", "pip install 'vision-infer[gpu]', or --device cpu")
        providers = [("CUDAExecutionProvider", {"device_id": settings.device_index}), *providers]
    try:
        session = onnxruntime.InferenceSession(str(path) if optimised is None else optimised, options, providers=providers)
    except Exception as error:  # the runtime's errors have no common type of their own
        raise ModelError(f"{path} cannot be loaded: {told(error)}", "is it whole, and for this runtime?") from error
    if settings.device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        # ONNX Runtime falls back to the CPU with no more than a line in its log.
        raise EngineError(f"cuda:{settings.device_index} cannot be used", "check the driver, CUDA and cuDNN, or use --device cpu")
    return session


def _ports(arguments: Any) -> list[Port]:
    found = []
    for one in arguments:
        dtype = one.type.removeprefix("tensor(").removesuffix(")")
        shape = tuple(side if isinstance(side, int) else str(side) for side in one.shape)
        found.append(Port(one.name, "float32" if dtype == "float" else dtype, shape))
    return found
