"""OpenVINO on the CPU: requests run in parallel, each on threads of the runtime.

``submit`` starts a request and returns; ``collect`` waits for it. A request reads and writes the engine's buffers without a copy.
As many streams as workers run at the same time, and each has its threads: two workers with one thread each give the highest frame
rate on two cores, one worker with two threads the lowest latency of a single image.

By default the runtime would compute in bfloat16 wherever the CPU can: this module requests float32 unless ``compute`` says
otherwise.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import EngineError, ModelError
from vision_infer.core.geometry import Size
from vision_infer.engine.buffers import HostBuffer
from vision_infer.engine.contract import Port, check_contract
from vision_infer.engine.engine import Engine, Loan, RawResults, Ticket
from vision_infer.engine.external_data import refuse_external_data_outside
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.host_engine import HostEngine
from vision_infer.engine.runtime import EngineSettings, Runtime
from vision_infer.engine.runtime_errors import summarize_error
from vision_infer.engine.store.cache import EngineCache, OnMessage
from vision_infer.engine.store.compiled import open_cached

NS_PER_MS = 1_000_000
_PORT_NAMES = (
    *("images", "boxes", "scores", "class_ids", "embedding", "keypoints", "coefficients", "prototypes", "rotated_boxes"),
    *("classes", "probabilities"),
)
_DTYPES = {"u8": "uint8", "f32": "float32", "i32": "int32", "i64": "int64"}


class OpenVinoEngine(HostEngine):
    """A deployment graph in OpenVINO.

    With batches of one image the graph is compiled for exactly that, which is up to a quarter faster; otherwise the batch size
    stays dynamic.

    Args:
        compiled: The result of :meth:`export` for the same file, settings, runtime and CPU; it loads in half the time.

    Raises:
        EngineError: The runtime is not installed, or the CPU or the graph does not support bfloat16.
        ModelError: The file cannot be loaded, or is not a deployment graph.
    """

    def __init__(self, path: Path, settings: EngineSettings, compiled: bytes | None = None) -> None:
        refuse_external_data_outside(path)
        facts = read_graph_facts(path)
        if settings.compute == "bf16" and facts.precision != "fp32":
            raise EngineError(f"{path} is a graph in {facts.precision}: only fp32 graphs can be computed in bf16", "Use f32.")
        core = load_openvino().Core()
        if settings.compute == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise EngineError("this CPU does not compute in bfloat16", "Use f32.")
        if compiled is None:
            model = _read(core, path)
            outputs = check_contract(_ports(model.inputs), _ports(model.outputs), facts.card, path)
            self._compiled = _compile(core, model, path, settings, facts.card.input_size)
        else:
            self._compiled = _import(core, compiled, settings)
            # The batch of a compiled graph is fixed if it was compiled for one image; the contract asks for a dynamic one.
            inputs = [port._replace(shape=("batch", *port.shape[1:])) for port in _ports(self._compiled.inputs)]
            outputs = check_contract(inputs, _ports(self._compiled.outputs), facts.card, path)
        sizes = tuple(range(1, settings.batch + 1))
        super().__init__(RUNTIME.engine_name(facts.precision, settings.compute), facts.card, sizes, settings.workers, outputs)
        self._requests = {id(buffer): self._compiled.create_infer_request() for buffer in self._pool.buffers}
        self._bound: dict[int, int] = {}

    def export(self) -> bytes:
        """Return the graph as it was compiled for this CPU.

        Raises:
            EngineError: The runtime cannot export it.
        """
        try:
            stream = self._compiled.export_model()
            return bytes(stream if isinstance(stream, bytes | bytearray) else stream.getvalue())
        except Exception as error:  # the runtime's errors have no common base class
            raise EngineError(f"{self.name} cannot be exported: {summarize_error(error)}") from error

    def submit(self, loan: Loan) -> Ticket:
        """Start the buffer's request; the runtime's threads run it."""
        count = len(loan.slots)
        started = SYSTEM_CLOCK.monotonic_ns()
        try:
            request = self._requests[id(loan.buffer)]
            if self._bound.get(id(loan.buffer)) != count:
                self._bind(request, loan.buffer, count)
            request.start_async()
        # The runtime's errors have no common base class; after an interrupt the engine stays usable.
        except BaseException as error:
            self._pool.release(loan)
            if not isinstance(error, Exception):
                raise
            raise self._failure(count, error) from error
        return Ticket(loan, (request, started))

    def collect(self, ticket: Ticket) -> RawResults:
        """Wait for the request, copy its results out of the buffer (a few kilobytes) and release the buffer."""
        count = len(ticket.loan.slots)
        buffer: HostBuffer = ticket.loan.buffer
        request, started = ticket.state
        try:
            request.wait()
            # The runtime's latency gives the end: a caller that collects late did not wait for it.
            ended = min(SYSTEM_CLOCK.monotonic_ns(), started + int(request.latency * NS_PER_MS))
            outputs = {name: array[:count].copy() for name, array in buffer.outputs.items()}
        except Exception as error:
            raise self._failure(count, error) from error
        finally:
            self._pool.release(ticket.loan)
        return RawResults(outputs, started, ended)

    def __exit__(self, *_: object) -> None:
        for request in self._requests.values():
            with suppress(Exception):  # the request failed; no caller collects it any longer
                request.wait()  # it writes into memory that is freed now
        self._requests.clear()
        self._compiled = None

    def _bind(self, request: Any, buffer: HostBuffer, count: int) -> None:
        tensors = buffer.bindings.get(count)
        if tensors is None:
            tensor = load_openvino().Tensor
            views = {"images": buffer.images, **buffer.outputs}
            tensors = buffer.bindings[count] = {name: tensor(view[:count], shared_memory=True) for name, view in views.items()}
        self._bound.pop(id(buffer), None)  # if one tensor is refused, the others have changed already
        for name, value in tensors.items():
            request.set_tensor(name, value)
        self._bound[id(buffer)] = count

    def _failure(self, count: int, error: Exception) -> EngineError:
        return EngineError(f"{self.name} failed on a batch of {count}: {summarize_error(error)}")


def load_openvino() -> Any:
    """Import the module ``openvino`` without the part that reports each import to its makers.

    OpenVINO continues without that part where the package ``openvino-telemetry`` is not installed; this function always hides it.
    If the program has imported ``openvino`` already, nothing is changed.

    Raises:
        EngineError: It is not installed.
    """
    hidden = "openvino" not in sys.modules and "openvino_telemetry" not in sys.modules
    if hidden:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        return import_module("openvino")
    except ImportError as error:
        raise RUNTIME.missing() from error
    finally:
        if hidden:
            del sys.modules["openvino_telemetry"]


def _configuration(settings: EngineSettings) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": "LATENCY" if settings.workers == 1 else "THROUGHPUT",
        "NUM_STREAMS": settings.workers,
        "INFERENCE_NUM_THREADS": settings.workers * settings.threads,
        "INFERENCE_PRECISION_HINT": settings.compute,
        # Pinned threads would compete with the decoders, and with another engine's threads pinned to the same CPUs.
        "ENABLE_CPU_PINNING": False,
    }


def _read(core: Any, path: Path) -> Any:
    try:
        return core.read_model(str(path))
    except Exception as error:  # the runtime's errors have no common base class
        raise ModelError(f"{path} cannot be loaded by OpenVINO: {summarize_error(error)}", "Use --engine onnxruntime.") from error


def _compile(core: Any, model: Any, path: Path, settings: EngineSettings, size: Size) -> Any:
    try:
        if settings.batch == 1:
            model.reshape([1, size.height, size.width, 3])
        return core.compile_model(model, "CPU", _configuration(settings))
    except Exception as error:
        raise ModelError(
            f"{path} cannot be compiled by OpenVINO: {summarize_error(error)}", "Use --engine onnxruntime."
        ) from error


def _import(core: Any, compiled: bytes, settings: EngineSettings) -> Any:
    try:
        return core.import_model(compiled, "CPU", _configuration(settings))
    except Exception as error:
        raise EngineError(f"the compiled graph cannot be loaded: {summarize_error(error)}", "Build it again.") from error


def _ports(ports: Any) -> list[Port]:
    """Convert inputs or outputs; of the several names that a port may have, the one of the contract counts."""
    found = []
    for port in ports:
        name = next((known for known in _PORT_NAMES if known in port.names), next(iter(sorted(port.names)), ""))
        shape = tuple(side.get_length() if side.is_static else "?" for side in port.partial_shape)
        dtype = port.element_type.get_type_name()
        found.append(Port(name, _DTYPES.get(dtype, dtype), shape))
    return found


def _open(path: Path, settings: EngineSettings, cache: EngineCache | None, on_message: OnMessage) -> Engine:
    if cache is None:
        return OpenVinoEngine(path, settings)

    def build() -> tuple[Engine, bytes]:
        engine = OpenVinoEngine(path, settings)
        return engine, engine.export()

    key = RUNTIME.cpu_key(path, read_graph_facts(path), settings.compute, settings.batch)
    return open_cached(key, cache, on_message, lambda compiled: OpenVinoEngine(path, settings, compiled), build)


RUNTIME = Runtime(
    "openvino",
    "OpenVINO",
    _open,
    modules=("openvino",),
    packages=("openvino",),
    extra="openvino",
    benefit="a second runtime for the CPU, often faster",
    computes=("f32", "bf16"),
    cached_on=("cpu",),
    in_auto=True,
    slow_start=True,
)
