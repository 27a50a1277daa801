"""An engine on a device: what TensorRT and PyTorch have in common there.

A batch is copied in on its buffer's stream, computed on the engine's one stream, and copied out on its buffer's again; events
keep the order. So copies run beside the computing of other batches, and the network needs its memory once. From its second
time on a batch size is launched as one graph (CUDA graph), where the network can be recorded.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

from vision_infer.core.card import ModelCard
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Size
from vision_infer.engine.engine import Loan, RawResults, Ticket
from vision_infer.engine.gpu.accelerator import Accelerator, DeviceMemoryError, DeviceModel
from vision_infer.engine.gpu.device_buffers import DeviceBuffer, DeviceBuffers, host_runs
from vision_infer.engine.store.cache import OnMessage

NS_PER_MS = 1_000_000
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""those that are recorded; others are padded up to the next"""
IN_FLIGHT = 2


def batch_sizes_up_to(most: int) -> tuple[int, ...]:
    """The batch sizes of an engine on a device: powers of two, and the largest."""
    return (*(size for size in BATCH_SIZES if size < most), most)


class DeviceEngine:
    """A network on a device.

    Where the device has no memory for the largest batch, the engine goes without it, and says so.

    Args:
        name: runtime-device-precision.
        card: what the network is.
        network: loaded on the device; closed by the engine.
        device: where it runs.
        batch_sizes: that it runs, ascending.
        in_flight: batches at the same time.
        say: told what is left out.
        graphs: whether batches are recorded and launched as a whole.

    Raises:
        DeviceMemoryError: there is not enough even for the smallest batch.
        EngineError: the network fails.
    """

    def __init__(
        self,
        name: str,
        card: ModelCard,
        network: DeviceModel,
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
        self._network = network
        self._say = on_message
        self._graphs = graphs
        self._lock = threading.Lock()
        self._compute = device.make_stream()
        self._closed = False
        sizes = tuple(batch_sizes)
        while True:
            try:
                self._buffers = DeviceBuffers(device, card.input_size, sizes, in_flight, network.outputs)
                break
            except DeviceMemoryError as error:
                sizes = self._smaller(sizes, error)
        while True:
            try:
                self._run_largest()
                return
            except DeviceMemoryError as error:
                self._buffers.close()
                sizes = self._smaller(sizes, error)
            except BaseException:
                self._close()
                raise
            self._buffers = DeviceBuffers(device, card.input_size, sizes, in_flight, network.outputs)

    @property
    def input_size(self) -> Size:
        """Width and height of a slot, pixels."""
        return self.card.input_size

    @property
    def gpu(self) -> int:
        """Where pictures may be already when they are written into a slot."""
        return self.device.index

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes that it runs, ascending; a batch between two of them is run as the larger."""
        return self._buffers.batch_sizes

    @property
    def buffer_bytes(self) -> int:
        """Size of all buffers, bytes; the host has them, and the device again."""
        return self._buffers.nbytes

    @property
    def device_bytes(self) -> int:
        """What it holds of the device's memory, bytes, as far as it is known."""
        return self._buffers.nbytes + self._network.device_bytes

    def lend(self, count: int) -> Loan:
        """Slots for a batch of any size up to the largest."""
        self._refuse_closed()
        return self._buffers.lend(count)

    def release(self, loan: Loan) -> None:
        """Take slots back."""
        if loan.buffer.held:  # pictures that are still being written
            self._settle(loan.buffer)
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
        except BaseException as error:  # whoever interrupts us may call again
            self._settle(buffer)
            self._buffers.release(loan)
            if not isinstance(error, EngineError):
                raise
            raise type(error)(f"{self.name} failed on a batch of {count}: {error.message}", error.hint) from error
        return Ticket(loan, started)

    def collect(self, ticket: Ticket) -> RawResults:
        """Wait for the batch; its results are copied out of the buffer (a few kilobytes), which is free again."""
        buffer: DeviceBuffer = ticket.loan.buffer
        count = len(ticket.loan.slots)
        started: int = ticket.state
        try:
            self._refuse_closed()
            self.device.use()
            self.device.synchronise(buffer.done)
            took = int(self.device.elapsed_ms(buffer.begun, buffer.done) * NS_PER_MS)
            # The end is the device's own: whoever collects late has not waited for it.
            ended = max(started, min(SYSTEM_CLOCK.monotonic_ns(), started + took))
            outputs = {name: array[:count].copy() for name, array in buffer.outputs.items()}
        except EngineError as error:
            raise EngineError(f"{self.name} failed on a batch of {count}: {error.message}", error.hint) from error
        finally:
            self._buffers.release(ticket.loan)
        return RawResults(outputs, started, ended)

    def warm_up(self) -> None:
        """Run every batch size in every buffer twice: as it is, and recorded."""
        for count in (*self.batch_sizes, *self.batch_sizes):
            for ticket in [self.submit(loan) for loan in [self.lend(count) for _ in range(self.in_flight)]]:
                self.collect(ticket)

    def __enter__(self) -> DeviceEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def _queue(self, buffer: DeviceBuffer, count: int) -> None:
        device, size = self.device, self._buffers.padded(count)
        device.record(buffer.begun, buffer.stream)
        place = buffer.images[0].nbytes
        for first, end in host_runs(buffer.slots[:count]):
            device.copy_in(buffer.images_at + first * place, buffer.images[first:end], buffer.stream)
        device.record(buffer.copied, buffer.stream)
        device.wait(self._compute, buffer.copied)
        self._run(buffer, size)
        device.record(buffer.computed, self._compute)
        device.wait(buffer.stream, buffer.computed)
        for name, array in buffer.outputs.items():
            device.copy_out(array[:count], buffer.outputs_at[name], buffer.stream)
        device.record(buffer.done, buffer.stream)

    def _run(self, buffer: DeviceBuffer, size: int) -> None:
        graph = buffer.graphs.get(size)
        if graph is None and self._graphs and size in buffer.graphs:
            graph = self._record(buffer, size)
        if graph is not None:
            self.device.launch(graph, self._compute)
            return
        self._network.enqueue(size, buffer.images_at, buffer.outputs_at, self._compute)
        buffer.graphs[size] = None

    def _record(self, buffer: DeviceBuffer, size: int) -> object | None:
        """Record a batch size; where that fails, it is told, and batches go on one operator at a time."""
        held = self._network.capturing()
        if held is None:
            return None
        try:
            with held:
                graph = self.device.capture(
                    self._compute,
                    lambda: self._network.enqueue(size, buffer.images_at, buffer.outputs_at, self._compute),
                )
        except EngineError as error:
            self._graphs = False
            self._say(f"{self.name}: batches cannot be recorded, and run without that: {error.message}")
            return None
        buffer.graphs[size] = graph
        return graph  # type: ignore[no-any-return]

    def _run_largest(self) -> None:
        """What memory a network needs is known when its largest batch has run."""
        self.collect(self.submit(self.lend(self.batch_sizes[-1])))

    def _smaller(self, sizes: tuple[int, ...], error: DeviceMemoryError) -> tuple[int, ...]:
        if len(sizes) == 1:
            self._close()
            raise DeviceMemoryError(error.message, "close other programs on it, or use another device") from error
        self._say(f"{self.name}: batches of {sizes[-1]} are left out: {error.message}")
        return sizes[:-1]

    def _settle(self, buffer: DeviceBuffer) -> None:
        """After a failure, let what was queued come to rest before the buffer is lent again."""
        if self._closed:
            return
        with suppress(EngineError):
            self.device.use()
            for stream in (self._compute, buffer.stream):
                self.device.record(buffer.done, stream)
                self.device.synchronise(buffer.done)

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
        self._network.close()
