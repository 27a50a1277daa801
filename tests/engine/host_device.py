"""A device in host memory. It works late, and in any order that streams and events allow, so that races show.

It also enforces the rules of recording: see :class:`HostContext` and :meth:`HostDevice.capture`.
"""

from __future__ import annotations

import gc
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.engine.surfaces import reference, reference_luma, reference_yuv420
from vision_infer.core.geometry import Letterbox, Size
from vision_infer.core.image import Surface
from vision_infer.engine.gpu.accelerator import DeviceMemoryError

Work = Callable[[], None]


@dataclass(eq=False)
class HostStream:
    """The queued work, in order: (whether it can begin, the work)."""

    waiting: deque[tuple[Callable[[], bool], Work]] = field(default_factory=deque)


@dataclass(eq=False)
class HostEvent:
    """The numbers of times that it was recorded and passed."""

    recorded: int = 0
    passed: int = 0


@dataclass
class HostGraph:
    """Recorded work, with the contexts that it refers to, and the numbers of changes of their shapes at that time."""

    works: list[Work] = field(default_factory=list)
    contexts: list[tuple[HostContext, int]] = field(default_factory=list)


class HostDevice:
    """A device in host memory.

    Args:
        chance: Chooses the next work; None: all work is done at once, in the order of the calls.
        capacity: The size of its memory, bytes.
    """

    index = 0
    name = "host:0"

    def __init__(self, chance: random.Random | None = None, capacity: int = 10**9) -> None:
        self._chance = chance
        self._capacity = capacity
        self._blocks: dict[int, NDArray[np.uint8]] = {}
        self._host: dict[int, NDArray[np.uint8]] = {}
        self._streams: list[HostStream] = []
        self._recording: HostGraph | None = None
        self._ran: set[HostContext] = set()
        self.things = 0
        """The number of streams, events and graphs that are not destroyed."""
        self.launched = 0
        self.copied_in: list[int] = []
        """The sizes of the copies to the device, bytes."""
        self.copied_out: list[int] = []
        """The sizes of the copies to the host, bytes."""
        self.problem = ""
        """Why the device cannot read decoded frames."""

    @property
    def used(self) -> int:
        """The allocated memory on host and device, bytes."""
        return sum(block.nbytes for block in (*self._blocks.values(), *self._host.values()))

    def use(self) -> None:
        """Do nothing: there is only one device."""

    def memory(self) -> tuple[int, int]:
        """Return the free and the total memory, bytes."""
        return self._capacity - sum(block.nbytes for block in self._blocks.values()), self._capacity

    def allocate(self, nbytes: int) -> int:
        """Allocate zeroed memory at a multiple of 256."""
        self._refuse_while_recording("allocates memory")
        if nbytes > self.memory()[0]:
            raise DeviceMemoryError("out of memory")
        block = np.zeros(nbytes + 256, np.uint8)
        block = block[-block.ctypes.data % 256 :][:nbytes]
        self._blocks[block.ctypes.data] = block
        return int(block.ctypes.data)

    def free(self, address: int) -> None:
        """Free memory; raise KeyError if it is freed already."""
        self._refuse_while_recording("frees memory")
        self._blocks.pop(address)[:] = 255

    def allocate_host(self, nbytes: int) -> NDArray[np.uint8]:
        """Allocate zeroed host memory."""
        self._refuse_while_recording("allocates host memory")
        array = np.zeros(nbytes, np.uint8)
        self._host[array.ctypes.data] = array
        return array

    def free_host(self, array: NDArray[np.uint8]) -> None:
        """Free memory; raise KeyError if it is freed already."""
        self._refuse_while_recording("frees host memory")
        self._host.pop(array.ctypes.data)

    def make_stream(self) -> HostStream:
        """Create a stream."""
        self.things += 1
        self._streams.append(HostStream())
        return self._streams[-1]

    def make_event(self, timed: bool = True) -> HostEvent:
        """Create an event."""
        self.things += 1
        return HostEvent()

    def put(self, stream: HostStream, work: Work, ready: Callable[[], bool] = lambda: True) -> None:
        """Queue work in a stream."""
        if self._recording is not None:
            self._recording.works.append(work)
            return
        stream.waiting.append((ready, work))
        while self._streams_that_can() and (self._chance is None or self._chance.random() < 0.3):
            self._step()

    def record(self, event: HostEvent, stream: HostStream) -> None:
        """Record the event when the stream reaches it."""
        event.recorded += 1
        number = event.recorded

        def passed() -> None:
            event.passed = number

        self.put(stream, passed)

    def wait(self, stream: HostStream, event: HostEvent) -> None:
        """Wait for the last recording of the event."""
        number = event.recorded
        self.put(stream, lambda: None, lambda: event.passed >= number)

    def synchronize(self, event: HostEvent) -> None:
        """Do any possible work until the event has passed."""
        self._refuse_while_recording("waits")
        while event.passed < event.recorded:
            assert self._streams_that_can(), "deadlock between the streams"
            self._step()
        for context in self._ran:
            context.settled = context.done
        self._ran.clear()

    def elapsed_ms(self, first: HostEvent, second: HostEvent) -> float:
        """Return a constant: this device has no time."""
        assert first.passed
        assert second.passed
        return 0.001

    def copy_in(self, address: int, source: NDArray[Any], stream: HostStream) -> None:
        """Copy when the stream reaches it."""
        assert source.flags.c_contiguous
        self.copied_in.append(source.nbytes)
        self.put(stream, lambda: np.copyto(self.at(address, source.nbytes), source.reshape(-1).view(np.uint8)))

    def copy_out(self, target: NDArray[Any], address: int, stream: HostStream) -> None:
        """Copy when the stream reaches it."""
        assert target.flags.c_contiguous
        self.copied_out.append(target.nbytes)
        self.put(stream, lambda: np.copyto(target.reshape(-1).view(np.uint8), self.at(address, target.nbytes)))

    def capture(self, _: HostStream, work: Work) -> HostGraph:
        """Return the work that is queued meanwhile; fail if a garbage collection could free memory of the device now."""
        assert not gc.isenabled(), "a garbage collection may free memory of the device while a batch is recorded"
        self._recording = graph = HostGraph()
        try:
            work()
            self.things += 1
            return graph
        finally:
            self._recording = None

    def launch(self, graph: HostGraph, stream: HostStream) -> None:
        """Queue recorded work again; fail if the shape of one of its contexts has changed."""
        assert all(context.changes == changes for context, changes in graph.contexts), "its shape changed after it was recorded"
        self.launched += 1
        for work in graph.works:
            self.put(stream, work)

    def run(self, context: HostContext, stream: HostStream, work: Work) -> None:
        """Queue or record a batch of a context."""
        changes = context.changes
        if self._recording is not None:
            assert context.settled == changes, "it is recorded before it ran once in this shape and was waited for"
            self._recording.contexts.append((context, changes))

        def compute() -> None:
            work()
            context.done = changes
            self._ran.add(context)

        self.put(stream, compute)

    def surface_problem(self) -> str:
        """Return :attr:`problem`."""
        return self.problem

    def write_surfaces(self, writes: Sequence[tuple[int, Surface, Letterbox]], stream: HostStream) -> None:
        """Do what the kernel does."""
        for address, surface, box in writes:
            self._write(address, lambda surface=surface, box=box: reference(surface, box), stream)  # type: ignore[misc]

    def write_yuv420(self, address: int, surface: Surface, size: Size, stream: HostStream) -> None:
        """Do what the kernel does."""
        self._write(address, lambda: reference_yuv420(surface, size), stream)

    def write_luma(self, address: int, surface: Surface, step: int, stream: HostStream) -> None:
        """Do what the kernel does."""
        self._write(address, lambda: reference_luma(surface, step), stream)

    def _write(self, address: int, made: Callable[[], NDArray[np.uint8]], stream: HostStream) -> None:
        assert not self.problem

        def write() -> None:
            result = made()
            np.copyto(self.at(address, result.nbytes), result.reshape(-1))

        self.put(stream, write)

    def destroy(self, *things: Any) -> None:
        """Destroy streams after their pending work, events and graphs."""
        for thing in things:
            self.things -= 1
            if isinstance(thing, HostStream):
                while thing.waiting:
                    assert self._streams_that_can(), "deadlock between the streams"
                    self._step()
                self._streams.remove(thing)

    def at(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """Return memory of the device; fail if it is not allocated."""
        for start, block in self._blocks.items():
            if start <= address and address + nbytes <= start + block.nbytes:
                return block[address - start :][:nbytes]
        raise AssertionError("this memory is not allocated")

    def _refuse_while_recording(self, what: str) -> None:
        assert self._recording is None, f"{what} while a batch is recorded"

    def _streams_that_can(self) -> list[HostStream]:
        return [stream for stream in self._streams if stream.waiting and stream.waiting[0][0]()]

    def _step(self) -> None:
        able = self._streams_that_can()
        stream = able[0] if self._chance is None else self._chance.choice(able)
        stream.waiting.popleft()[1]()


class HostContext:
    """The execution context of a runtime, which has a shape: a recorded batch refers to data that depends on it.

    Therefore the batch may be recorded only after it ran once in that shape and was waited for, and may be launched only as long
    as the shape does not change.
    """

    def __init__(self) -> None:
        self._shape: object = None
        self.changes = 0
        """The number of changes of its shape."""
        self.done = 0
        """The number of changes before the last batch that was computed."""
        self.settled = 0
        """The same, of the last batch that was also waited for."""

    def set_shape(self, shape: object) -> None:
        """Change its shape, if it is another one."""
        if shape != self._shape:
            self._shape = shape
            self.changes += 1
