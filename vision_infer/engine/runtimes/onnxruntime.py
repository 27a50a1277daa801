"""ONNX Runtime: on the CPU, or with CUDA where onnxruntime-gpu and a device are available.

With one thread a session has no thread pool, and ``Run`` may be called from several threads at once: one session, whose
weights are in memory once, serves all workers. With more threads, each worker has a session with its own pool.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import EngineError, ModelError
from vision_infer.engine.buffers import HostBuffer, zeroed
from vision_infer.engine.contract import Port, check_contract
from vision_infer.engine.device import has_driver
from vision_infer.engine.engine import Engine, Loan, Ticket
from vision_infer.engine.external_data import refuse_external_data_outside
from vision_infer.engine.gpu.accelerator import Accelerator, DeviceMemoryError, NoGpuError
from vision_infer.engine.gpu.ledger import LedgerEntry, ledger_of
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.host_engine import HostEngine
from vision_infer.engine.runtime import EngineSettings, Runtime
from vision_infer.engine.runtime_errors import summarize_error
from vision_infer.engine.runtimes.onnxruntime_cuda import PROVIDER, cuda_error, session_arguments
from vision_infer.engine.store.cache import EngineCache, OnMessage
from vision_infer.engine.store.compiled import open_cached

CUDA_BATCH_SIZES = (1, 2, 4, 8, 16)


class OnnxRuntimeEngine(HostEngine):
    """A deployment graph in ONNX Runtime.

    Args:
        optimized: The result of :func:`optimize` for the same file, runtime and CPU; it loads in a quarter of the time.
        device: The GPU of the settings; None on the CPU. It copies from page-locked input buffers without a copy in between.

    Raises:
        DeviceMemoryError: The GPU has not enough memory.
        EngineError: The runtime is not installed, or the device is not available.
        ModelError: The file cannot be loaded, or is not a deployment graph.
    """

    def __init__(
        self, path: Path, settings: EngineSettings, optimized: bytes | None = None, device: Accelerator | None = None
    ) -> None:
        refuse_external_data_outside(path)
        facts = read_graph_facts(path)
        cuda = settings.device == "cuda"
        self.device = device
        self.device_name = f"cuda:{settings.device_index}" if cuda else "cpu"
        self._host_memory: list[NDArray[np.uint8]] = []
        self._memory: LedgerEntry | None = None
        sessions = 1 if settings.threads == 1 or cuda else settings.workers
        self._sessions = [_load(path, settings, optimized) for _ in range(sessions)]
        first = self._sessions[0]
        outputs = check_contract(_ports(first.get_inputs()), _ports(first.get_outputs()), facts.card, path)
        sizes = tuple(size for size in CUDA_BATCH_SIZES if size <= settings.batch) if cuda else range(1, settings.batch + 1)
        name = RUNTIME.engine_name(facts.precision, device=settings.device)
        try:
            super().__init__(name, facts.card, tuple(sizes), settings.workers, outputs, self._allocate)
        except BaseException:
            self._free()
            raise
        if cuda:  # the first batch of each size allocates memory and selects algorithms
            self._warm_up_sizes = self.batch_sizes
        self._session_of = {id(buffer): self._sessions[number % sessions] for number, buffer in enumerate(self._pool.buffers)}

    def submit(self, loan: Loan) -> Ticket:
        """Run the batch on the calling thread: ONNX Runtime has no queue."""
        buffer: HostBuffer = loan.buffer
        session = self._session_of[id(buffer)]
        started = SYSTEM_CLOCK.monotonic_ns()
        try:
            binding = buffer.bindings.get(len(loan.slots))
            if binding is None:
                binding = buffer.bindings[len(loan.slots)] = self._bind(session, buffer, len(loan.slots))
            session.run_with_iobinding(binding)
        # The runtime's errors have no common base class; after an interrupt the engine stays usable.
        except BaseException as error:
            self._pool.release(loan)
            if not isinstance(error, Exception):
                raise
            raise self._failure(error, len(loan.slots)) from error
        return Ticket(loan, (started, SYSTEM_CLOCK.monotonic_ns()))

    def count_memory(self, nbytes: int) -> None:
        """Count GPU memory, which the runtime has allocated, in the memory of its GPU until the engine is closed."""
        if self.device is not None:
            self._memory = ledger_of(self.device).note("engine", nbytes)

    def __exit__(self, *_: object) -> None:
        for buffer in self._pool.buffers:
            buffer.bindings.clear()
        self._session_of.clear()
        self._sessions.clear()
        self._pool.buffers.clear()
        self._free()

    def _allocate(self, nbytes: int) -> NDArray[np.uint8]:
        if self.device is None:
            return zeroed(nbytes)
        self._host_memory.append(self.device.allocate_host(nbytes))
        return self._host_memory[-1]

    def _free(self) -> None:
        """Free what was allocated on the GPU; a lost one frees nothing."""
        if self.device is None:
            return
        with suppress(EngineError):
            self.device.use()
            while self._host_memory:
                self.device.free_host(self._host_memory.pop())
        if self._memory is not None:
            ledger_of(self.device).remove(self._memory)

    def _failure(self, error: Exception, count: int) -> EngineError:
        """Return the error of a batch; raise DeviceLostError if the GPU cannot be used again."""
        if self.device is not None:
            self.device.use()
            self.device.memory()  # fails after an error of CUDA that ends all work of this process
            found = cuda_error(error, self.device.name, f"batches of {count}")
            if found is not None:
                return found
        return EngineError(f"{self.name} failed on a batch of {count}: {summarize_error(error)}")

    def _bind(self, session: Any, buffer: HostBuffer, count: int) -> Any:
        binding = session.io_binding()
        images = buffer.images[:count]
        binding.bind_input("images", "cpu", 0, np.uint8, images.shape, images.ctypes.data)
        for name, array in buffer.outputs.items():
            view = array[:count]
            binding.bind_output(name, "cpu", 0, view.dtype.type, view.shape, view.ctypes.data)
        return binding


def optimize(path: Path) -> bytes:
    """Return the graph as ONNX Runtime optimizes it for this CPU before running it.

    Raises:
        EngineError: The runtime is not installed, or cannot write the result.
        ModelError: The file cannot be loaded.
    """
    refuse_external_data_outside(path)
    with tempfile.TemporaryDirectory(prefix="vision-infer-") as folder:
        file = Path(folder) / "optimized.onnx"
        _load(path, EngineSettings(), None, file)
        try:
            return file.read_bytes()
        except OSError as error:
            raise EngineError(f"{path}: ONNX Runtime did not write the optimized graph: {error.strerror}") from error


def _load(path: Path, settings: EngineSettings, optimized: bytes | None = None, write_to: Path | None = None) -> Any:
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    if optimized is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # The optimized graph still refers to external data next to the original file.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.resolve().parent))
    if write_to is not None:
        options.optimized_model_filepath = str(write_to)
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Waiting threads sleep: spinning would take the cores from decoding and from the other workers.
    # https://onnxruntime.ai/docs/performance/tune-performance/threading.html
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Not "session.set_denormal_as_zero": it changes the floating-point mode of every calling thread for good.
    on_gpu = settings.device == "cuda"
    arguments = session_arguments(onnxruntime, settings.device_index) if on_gpu else {"providers": ["CPUExecutionProvider"]}
    device = f"cuda:{settings.device_index}"
    try:
        session = onnxruntime.InferenceSession(str(path) if optimized is None else optimized, options, **arguments)
    except Exception as error:  # the runtime's errors have no common base class
        found = cuda_error(error, device, path.name) if on_gpu else None
        if found is not None:
            raise found from error
        raise ModelError(f"{path} cannot be loaded: {summarize_error(error)}", "Check that the file is complete.") from error
    if on_gpu and session.get_providers()[0] != PROVIDER:
        # ONNX Runtime falls back to the CPU with only a line in its log.
        raise EngineError(f"{device} cannot be used", "Check the driver, CUDA and cuDNN, or use --device cpu.")
    return session


def _ports(arguments: Any) -> list[Port]:
    found = []
    for argument in arguments:
        dtype = argument.type.removeprefix("tensor(").removesuffix(")")
        shape = tuple(side if isinstance(side, int) else str(side) for side in argument.shape)
        found.append(Port(argument.name, "float32" if dtype == "float" else dtype, shape))
    return found


def load_onnxruntime() -> Any:
    """Import the module ``onnxruntime`` with its telemetry switched off: it is on by default on Linux since version 1.29.
    https://github.com/microsoft/onnxruntime/pull/27379

    Set ``ORT_DISABLE_TELEMETRY=0`` to keep the telemetry.

    Raises:
        EngineError: It is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise RUNTIME.missing() from error
    return onnxruntime


def _open(path: Path, settings: EngineSettings, cache: EngineCache | None, on_message: OnMessage) -> Engine:
    if settings.device == "cuda":
        return _open_on_gpu(path, settings, on_message)
    if cache is None:
        return OnnxRuntimeEngine(path, settings)

    def build() -> tuple[Engine, bytes]:
        optimized = optimize(path)
        return OnnxRuntimeEngine(path, settings, optimized), optimized

    key = RUNTIME.cpu_key(path, read_graph_facts(path), "f32", settings.batch)
    return open_cached(key, cache, on_message, lambda optimized: OnnxRuntimeEngine(path, settings, optimized), build)


def _open_on_gpu(path: Path, settings: EngineSettings, on_message: OnMessage) -> Engine:
    """Open and warm up an engine on a GPU, with the largest batch size for which the GPU has memory."""
    session_arguments(load_onnxruntime(), settings.device_index)  # first what the installation lacks
    from vision_infer.engine.gpu.cuda import cuda_device

    # It creates the device's context with the flags that FFmpeg's decoder needs, before the runtime creates its own.
    device = cuda_device(settings.device_index)
    ledger_of(device).check(path.stat().st_size, path.name)
    while True:
        free = device.memory()[0]
        engine = OnnxRuntimeEngine(path, settings, device=device)
        try:
            engine.warm_up()
            engine.count_memory(max(0, free - device.memory()[0]))
        except BaseException as error:
            engine.__exit__()
            if not isinstance(error, DeviceMemoryError) or settings.batch == 1:
                raise
            settings = replace(settings, batch=engine.batch_sizes[-2])
            on_message(f"{error.message}; using batches of at most {settings.batch}")
        else:
            return engine


def _choose_device() -> str:
    """Return ``cuda`` if there is a GPU, also if its driver does not work: opening the engine then gives the reason."""
    # onnxruntime-gpu lists the provider on every machine.
    if PROVIDER not in load_onnxruntime().get_available_providers() or not has_driver():
        return "cpu"
    try:
        from vision_infer.engine.gpu.cuda import device_count

        return "cuda" if device_count() else "cpu"
    except NoGpuError:
        return "cpu"
    except EngineError:
        return "cuda"


RUNTIME = Runtime(
    "onnxruntime",
    "ONNX Runtime",
    _open,
    modules=("onnxruntime",),
    packages=("onnxruntime", "onnxruntime-gpu"),
    extra="cpu",
    devices=("cpu", "cuda"),
    choose_device=_choose_device,
    cached_on=("cpu",),
    key_has_batch=False,
    in_auto=True,
)
