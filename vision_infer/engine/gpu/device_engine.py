"""An engine on a device, for the models of TensorRT and PyTorch.

A batch is copied in on its buffer's stream, in parallel with the computing of other batches. It is computed on the engine's only
compute stream, so that the model needs its working memory once, and its small outputs are copied out there, in one copy. Batches
that were recorded during the warm-up, with that copy, are launched as one CUDA graph each; others are queued call by call. Each
call of the driver releases the GIL, so there are few of them, and their number does not grow with the batch.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from vision_infer.core.card import ModelCard
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import DeviceLostError, EngineError
from vision_infer.core.geometry import Size
from vision_infer.engine.engine import Loan, RawResults, Ticket
from vision_infer.engine.gpu.accelerator import Accelerator, DeviceMemoryError, DeviceModel
from vision_infer.engine.gpu.device_buffers import DeviceBuffer, DeviceBuffers, host_runs
from vision_infer.engine.gpu.ledger import LedgerEntry, ledger_of
from vision_infer.engine.store.cache import OnMessage

NS_PER_MS = 1_000_000
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""The batch sizes that run; other sizes are padded to the next one."""
IN_FLIGHT = 2
# Serializes recording in the process, because garbage collection is off meanwhile. Held by threads that warm up an engine.
_RECORDING = threading.Lock()


def batch_sizes_up_to(largest: int) -> tuple[int, ...]:
    """Return the batch sizes of an engine on a device: powers of two, and the largest."""
    return (*(size for size in BATCH_SIZES if size < largest), largest)


class DeviceEngine:
    """A model on a device.

    If the device has no memory for the largest batch size, the engine leaves that size out and reports it.

    Args:
        model: The model, loaded on the device; the engine closes it.
        batch_sizes: The batch sizes that it runs, ascending.
        on_message: Receives which batch sizes are left out.
        graphs: Whether batches are recorded and launched as CUDA graphs.

    Raises:
        DeviceMemoryError: There is not enough memory even for the smallest batch size.
        EngineError: The model fails.
    """

    def __init__(
        self,
        name: str,
        card: ModelCard,
        model: DeviceModel,
        device: Accelerator,
        batch_sizes: Sequence[int],
        in_flight: int = IN_FLIGHT,
        on_message: OnMessage = lambda _: None,
        graphs: bool = True,
    ) -> None:
        self.name = name
        self.card = card
        self.in_flight = in_flight
        self.device = device
        self._model = model
        self._on_message = on_message
        self._graphs = graphs
        # Serializes queueing on the compute stream. Held in submit() by the pipeline's inference threads, and while a batch is
        # recorded by the thread that warms up.
        self._lock = threading.Lock()
        self._compute = device.make_stream()
        self._closed = False
        self._memory: list[LedgerEntry] = []
        try:
            self._make_buffers(tuple(batch_sizes))
            self._memory.append(ledger_of(device).note("engine", model.device_bytes + self._buffers.nbytes))
            problem = device.surface_problem()
        except BaseException:
            self._close()
            raise
        if problem:
            on_message(f"{name}: decoded frames go through host memory: {problem}")

    @property
    def input_size(self) -> Size:
        """The width and height of a slot, pixels."""
        return self.card.input_size

    @property
    def device_name(self) -> str:
        """The name of the device, such as ``cuda:0``."""
        return self.device.name

    @property
    def gpu(self) -> int | None:
        """The GPU whose decoded frames can be written into a slot; None if the device cannot read them."""
        return None if self.device.surface_problem() else self.device.index

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes that it runs, ascending; a batch between two of them runs as the larger."""
        return self._buffers.batch_sizes

    @property
    def buffer_bytes(self) -> int:
        """The size of all buffers on the host, and again on the device, bytes."""
        return self._buffers.nbytes

    def lend(self, count: int) -> Loan:
        """Lend the slots of a batch of any size up to the largest."""
        self._refuse_closed()
        return self._buffers.lend(count)

    def release(self, loan: Loan) -> None:
        """Take slots back that are not submitted."""
        self._buffers.release(loan)

    def submit(self, loan: Loan) -> Ticket:
        """Queue the batch."""
        buffer: DeviceBuffer = loan.buffer
        count = len(loan.slots)
        started = SYSTEM_CLOCK.monotonic_ns()
        try:
            self._refuse_closed()
            self.device.use()
            with self._lock:
                self._queue(buffer, count)
        except BaseException as error:  # after an interrupt the engine stays usable
            cause = self._settle(buffer) or error
            self._buffers.release(loan)
            if not isinstance(cause, EngineError) or not isinstance(error, Exception):
                raise
            raise type(cause)(f"{self.name} failed on a batch of {count}: {cause.message}", cause.hint) from error
        return Ticket(loan, started)

    def collect(self, ticket: Ticket) -> RawResults:
        """Wait for the batch, copy its results out of the buffer (a few kilobytes) and release the buffer."""
        buffer: DeviceBuffer = ticket.loan.buffer
        count = len(ticket.loan.slots)
        started: int = ticket.state
        try:
            self._refuse_closed()
            self.device.use()
            self.device.synchronize(buffer.done)
            duration = int(self.device.elapsed_ms(buffer.begun, buffer.done) * NS_PER_MS)
            # The device's events give the end: a caller that collects late did not wait for it.
            ended = max(started, min(SYSTEM_CLOCK.monotonic_ns(), started + duration))
            arrays = buffer.outputs[self._buffers.padded(count)].arrays
            outputs = {name: array[:count].copy() for name, array in arrays.items()}
        except EngineError as error:
            raise type(error)(f"{self.name} failed on a batch of {count}: {error.message}", error.hint) from error
        finally:
            self._buffers.release(ticket.loan)
        return RawResults(outputs, started, ended)

    def warm_up(self) -> None:
        """Record every batch size in every buffer, and run it once. Call it before the first batch; it needs all buffers."""
        self.device.use()
        gc.collect()
        free = self.device.memory()[0]
        for count in self.batch_sizes:
            loans = [self.lend(count) for _ in range(self.in_flight)]
            for loan in loans:
                if self._graphs and count not in loan.buffer.graphs:
                    self._record(loan.buffer, count)
            for ticket in [self.submit(loan) for loan in loans]:
                self.collect(ticket)
        self._model.warmed_up()
        self._memory.append(ledger_of(self.device).note("graphs", max(0, free - self.device.memory()[0])))

    def __enter__(self) -> DeviceEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _queue(self, buffer: DeviceBuffer, count: int) -> None:
        device, size = self.device, self._buffers.padded(count)
        # On the buffer's stream: convert the images that are on the device already, and copy the others.
        writes = [(slot.address, *slot.surface) for slot in buffer.slots[:count] if slot.surface is not None]
        if writes:
            device.write_surfaces(writes, buffer.stream)
        device.record(buffer.begun, buffer.stream)
        image_bytes = buffer.images[0].nbytes
        for first, end in host_runs(buffer.slots[:count]):
            device.copy_in(buffer.images_at + first * image_bytes, buffer.images[first:end], buffer.stream)
        device.record(buffer.copied, buffer.stream)
        # On the compute stream: run the batch after the copies.
        device.wait(self._compute, buffer.copied)
        graph = buffer.graphs.get(size)
        if graph is None:
            outputs = buffer.outputs[size]
            self._model.enqueue(size, buffer.images_at, outputs.addresses, self._compute)
            device.copy_out(outputs.block, outputs.at, self._compute)
        else:
            device.launch(graph, self._compute)
        device.record(buffer.done, self._compute)

    def _record(self, buffer: DeviceBuffer, size: int) -> None:
        """Record a batch size and the copy of its outputs; if that fails, report it, and record no other size."""
        outputs = buffer.outputs[size]
        try:
            with self._lock:
                run = self._model.recordable(size, buffer.images_at, outputs.addresses, self._compute)
                if run is None:
                    raise EngineError("the model cannot be recorded")
                # The first run in a shape initializes and allocates, which a recording does not allow: so run it and wait.
                run()
                self.device.record(buffer.done, self._compute)
                self.device.synchronize(buffer.done)

                def run_and_copy() -> None:
                    run()
                    self.device.copy_out(outputs.block, outputs.at, self._compute)

                with _no_collection():
                    buffer.graphs[size] = self.device.capture(self._compute, run_and_copy)
        except EngineError as error:
            if error.device_lost:
                raise
            self._graphs = False
            self._on_message(f"{self.name}: batches of {size} and more run without CUDA graphs: {error.message}")

    def _make_buffers(self, sizes: tuple[int, ...]) -> None:
        """Make buffers that fit, and run the largest batch: only that shows the working memory of the model."""
        while True:
            try:
                self._buffers = DeviceBuffers(self.device, self.card.input_size, sizes, self.in_flight, self._model.outputs)
                self.collect(self.submit(self.lend(sizes[-1])))
                return
            except DeviceMemoryError as error:
                if hasattr(self, "_buffers"):
                    self._buffers.close()
                sizes = self._smaller(sizes, error)

    def _smaller(self, sizes: tuple[int, ...], error: DeviceMemoryError) -> tuple[int, ...]:
        if len(sizes) == 1:
            raise DeviceMemoryError(error.message, "Close other programs on it, or use another device.") from error
        self._on_message(f"{self.name}: batches of {sizes[-1]} are left out: {error.message}")
        return sizes[:-1]

    def _settle(self, buffer: DeviceBuffer) -> DeviceLostError | None:
        """Wait for queued work after a failure: a buffer must not be lent while the device uses it.

        Returns the error of a device that no longer works: a runtime reports only that the batch failed.
        """
        if self._closed:
            return None
        try:
            self.device.use()
            for stream in (self._compute, buffer.stream):
                self.device.record(buffer.done, stream)
                self.device.synchronize(buffer.done)
        except DeviceLostError as error:
            return error
        except EngineError:
            pass  # the failure before this one is reported
        return None

    def _refuse_closed(self) -> None:
        if self._closed:
            raise EngineError("it is closed")

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with suppress(EngineError):
            self.device.use()
            self.device.destroy(self._compute)
        if hasattr(self, "_buffers"):
            self._buffers.close()
        self._model.close()
        for entry in self._memory:
            ledger_of(self.device).remove(entry)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Switch garbage collection off: it could free memory of the device on this thread, which would make a recording invalid."""
    with _RECORDING:
        was_on = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if was_on:
                gc.enable()
