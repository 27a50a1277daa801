"""OpenVINO on the CPU: requests beside each other, each on threads of the runtime's own.

``submit`` starts a request and comes back; ``collect`` waits for it. A request reads and writes our buffers, no copy is made.
As many streams as workers run at the same time, and each has its threads: two workers with one thread each give the most pictures
a second on two cores, one worker with two threads the shortest time for one picture.

The runtime would compute everything in bfloat16 where the processor can (its own default): here float32 is asked for unless
``compute`` says otherwise.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import EngineError, ModelError
from vision_infer.core.geometry import Size
from vision_infer.engine.buffers import BufferPool, HostBuffer
from vision_infer.engine.contract import Port, check_contract
from vision_infer.engine.device import load_openvino
from vision_infer.engine.engine import Loan, RawResults, Ticket
from vision_infer.engine.external_data import refuse_external_data_outside
from vision_infer.engine.graph_facts import Precision, read_graph_facts
from vision_infer.engine.runtime_errors import told

NS_PER_MS = 1_000_000
_DTYPES = {"u8": "uint8", "f32": "float32", "i32": "int32", "i64": "int64"}


@dataclass(frozen=True, slots=True)
class OpenVinoSettings:
    """How a deployment graph is run."""

    workers: int = 1
    """batches in flight: requests, each with a stream of its own"""
    threads: int = 1
    """threads of each batch"""
    batch: int = 1
    """largest batch"""
    compute: Literal["f32", "bf16"] = "f32"
    """type of the arithmetic where the graph's own is float32"""


class OpenVinoEngine:
    """A deployment graph in OpenVINO.

    With batches of one picture the graph is compiled for just that, which is up to a quarter faster; larger ones keep it open.

    Args:
        path: the deployment graph.
        settings: workers, threads, largest batch, type of the arithmetic.
        compiled: what :meth:`export` gave for the same file, settings, runtime and processor; it loads in half the time.

    Raises:
        EngineError: the runtime is not installed, or bfloat16 is asked for of a processor or of a graph that does not do.
        ModelError: the file cannot be loaded or is no deployment graph.
    """

    def __init__(self, path: Path, settings: OpenVinoSettings, compiled: bytes | None = None) -> None:
        refuse_external_data_outside(path)
        facts = read_graph_facts(path)
        self.card = facts.card
        self.name = openvino_name(facts.precision, settings.compute)
        if settings.compute == "bf16" and facts.precision != "fp32":
            raise EngineError(f"{path} is a graph of {facts.precision}: only one of fp32 is computed in bf16", "use f32")
        core = load_openvino().Core()
        if settings.compute == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise EngineError("this processor does not compute in bfloat16", "use f32")
        if compiled is None:
            model = _read(core, path)
            outputs = check_contract(_ports(model.inputs), _ports(model.outputs), self.card, path)
            self._compiled = _compile(core, model, path, settings, self.card.input_size)
        else:
            self._compiled = _import(core, compiled, settings)
            # Its batch is fixed where it was compiled for one picture.
            inputs = [port._replace(shape=("batch", *port.shape[1:])) for port in _ports(self._compiled.inputs)]
            outputs = check_contract(inputs, _ports(self._compiled.outputs), self.card, path)
        self.in_flight = settings.workers
        self.batch_sizes = tuple(range(1, settings.batch + 1))
        self._pool = BufferPool(self.card.input_size, self.batch_sizes, settings.workers, outputs)
        self._requests = {id(buffer): self._compiled.create_infer_request() for buffer in self._pool.buffers}
        self._bound: dict[int, int] = {}

    @property
    def input_size(self) -> Size:
        """Width and height of a slot, pixels."""
        return self.card.input_size

    @property
    def buffer_bytes(self) -> int:
        """Size of all buffers, bytes."""
        return self._pool.nbytes

    def export(self) -> bytes:
        """The graph as it was compiled for this processor.

        Raises:
            EngineError: the runtime cannot give it.
        """
        try:
            stream = self._compiled.export_model()
            return bytes(stream if isinstance(stream, bytes | bytearray) else stream.getvalue())
        except Exception as error:  # the runtime's errors have no common type of their own
            raise EngineError(f"{self.name} cannot be exported: {told(error)}") from error

    def lend(self, count: int) -> Loan:
        """Slots for a batch."""
        return self._pool.lend(count)

    def release(self, loan: Loan) -> None:
        """Take slots back."""
        self._pool.release(loan)

    def submit(self, loan: Loan) -> Ticket:
        """Start the buffer's request; the runtime's threads run it."""
        count = len(loan.slots)
        started = SYSTEM_CLOCK.monotonic_ns()
        try:
            request = self._requests[id(loan.buffer)]
            if self._bound.get(id(loan.buffer)) != count:
                self._bind(request, loan.buffer, count)
            request.start_async()
        except BaseException as error:  # the runtime's errors have no common type; and whoever interrupts us may call again
            self._pool.release(loan)
            if not isinstance(error, Exception):
                raise
            raise self._failure(count, error) from error
        return Ticket(loan, (request, started))

    def collect(self, ticket: Ticket) -> RawResults:
        """Wait for the request; its results are copied out of the buffer (a few kilobytes), which is free again."""
        count = len(ticket.loan.slots)
        buffer: HostBuffer = ticket.loan.buffer
        request, started = ticket.state
        try:
            request.wait()
            # The end is the runtime's own: whoever collects late has not waited for it.
            ended = min(SYSTEM_CLOCK.monotonic_ns(), started + int(request.latency * NS_PER_MS))
            outputs = {name: array[:count].copy() for name, array in buffer.outputs.items()}
        except Exception as error:
            raise self._failure(count, error) from error
        finally:
            self._pool.release(ticket.loan)
        return RawResults(outputs, started, ended)

    def warm_up(self) -> None:
        """Run the smallest and the largest batch in every buffer, all at once."""
        for count in {self.batch_sizes[0], self.batch_sizes[-1]}:
            for ticket in [self.submit(loan) for loan in [self.lend(count) for _ in range(self.in_flight)]]:
                self.collect(ticket)

    def __enter__(self) -> OpenVinoEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for request in self._requests.values():
            with suppress(Exception):  # it failed; nobody asks any more
                request.wait()  # it writes into memory that goes now
        self._requests.clear()
        self._compiled = None

    def _bind(self, request: Any, buffer: HostBuffer, count: int) -> None:
        tensors = buffer.bindings.get(count)
        if tensors is None:
            tensor = load_openvino().Tensor
            views = {"images": buffer.images, **buffer.outputs}
            tensors = buffer.bindings[count] = {name: tensor(view[:count], shared_memory=True) for name, view in views.items()}
        self._bound.pop(id(buffer), None)  # where one is refused, the others are no longer what they were
        for name, one in tensors.items():
            request.set_tensor(name, one)
        self._bound[id(buffer)] = count

    def _failure(self, count: int, error: Exception) -> EngineError:
        return EngineError(f"{self.name} failed on a batch of {count}: {told(error)}")


def openvino_name(precision: Precision, compute: str) -> str:
    """``openvino-cpu-fp32`` and so on: the graph's own precision, or bfloat16 where a float32 graph is computed with that."""
    return f"openvino-cpu-{'bf16' if precision == 'fp32' and compute == 'bf16' else precision}"


def _configuration(settings: OpenVinoSettings) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": "LATENCY" if settings.workers == 1 else "THROUGHPUT",
        "NUM_STREAMS": settings.workers,
        "INFERENCE_NUM_THREADS": settings.workers * settings.threads,
        "INFERENCE_PRECISION_HINT": settings.compute,
        # Threads tied to processors would stand in the way of the decoders, and of another engine's threads tied to the same.
        "ENABLE_CPU_PINNING": False,
    }


def _read(core: Any, path: Path) -> Any:
    try:
        return core.read_model(str(path))
    except Exception as error:  # the runtime's errors have no common type of their own
        raise ModelError(f"{path} cannot be loaded by OpenVINO: {told(error)}", "use --engine onnxruntime") from error


def _compile(core: Any, model: Any, path: Path, settings: OpenVinoSettings, size: Size) -> Any:
    try:
        if settings.batch == 1:
            model.reshape([1, size.height, size.width, 3])
        return core.compile_model(model, "CPU", _configuration(settings))
    except Exception as error:
        raise ModelError(f"{path} cannot be compiled by OpenVINO: {told(error)}", "use --engine onnxruntime") from error


def _import(core: Any, compiled: bytes, settings: OpenVinoSettings) -> Any:
    try:
        return core.import_model(compiled, "CPU", _configuration(settings))
    except Exception as error:
        raise EngineError(f"the compiled graph cannot be loaded: {told(error)}", "build it again") from error


def _ports(ports: Any) -> list[Port]:
    """Inputs or outputs as we tell of them; a port may have several names, of which ours counts."""
    known = ("images", "boxes", "scores", "class_ids", "embedding")
    found = []
    for port in ports:
        name = next((one for one in known if one in port.names), next(iter(sorted(port.names)), ""))
        shape = tuple(side.get_length() if side.is_static else "?" for side in port.partial_shape)
        dtype = port.element_type.get_type_name()
        found.append(Port(name, _DTYPES.get(dtype, dtype), shape))
    return found
