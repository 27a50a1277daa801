"""A device in host memory. It works late, and in any order that streams and events allow, so that races show."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.engine.surfaces import reference
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Letterbox
from vision_infer.core.image import Surface
from vision_infer.engine.contract import OutputShapes
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
        self._recording: list[Work] | None = None
        self.things = 0
        """The number of streams, events and graphs that are not destroyed."""
        self.launched = 0
        self.copied_in: list[int] = []
        """The sizes of the copies to the device, bytes."""

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
        if nbytes > self.memory()[0]:
            raise DeviceMemoryError("out of memory")
        block = np.zeros(nbytes + 256, np.uint8)
        block = block[-block.ctypes.data % 256 :][:nbytes]
        self._blocks[block.ctypes.data] = block
        return int(block.ctypes.data)

    def free(self, address: int) -> None:
        """Free memory; raise KeyError if it is freed already."""
        self._blocks.pop(address)[:] = 255

    def allocate_host(self, nbytes: int) -> NDArray[np.uint8]:
        """Allocate zeroed host memory."""
        array = np.zeros(nbytes, np.uint8)
        self._host[array.ctypes.data] = array
        return array

    def free_host(self, array: NDArray[np.uint8]) -> None:
        """Free memory; raise KeyError if it is freed already."""
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
            self._recording.append(work)
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
        while event.passed < event.recorded:
            assert self._streams_that_can(), "deadlock between the streams"
            self._step()

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
        self.put(stream, lambda: np.copyto(target.reshape(-1).view(np.uint8), self.at(address, target.nbytes)))

    def capture(self, _: HostStream, work: Work) -> list[Work]:
        """Return the work that is queued meanwhile."""
        self._recording = []
        try:
            work()
            self.things += 1
            return self._recording
        finally:
            self._recording = None

    def launch(self, graph: list[Work], stream: HostStream) -> None:
        """Queue recorded work again."""
        self.launched += 1
        for work in graph:
            self.put(stream, work)

    def write_surface(self, address: int, surface: Surface, letterbox: Letterbox, stream: HostStream) -> None:
        """Do what the kernel does."""
        size = letterbox.input
        self.put(
            stream,
            lambda: np.copyto(self.at(address, size.width * size.height * 3), reference(surface, letterbox).reshape(-1)),
        )

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

    def _streams_that_can(self) -> list[HostStream]:
        return [stream for stream in self._streams if stream.waiting and stream.waiting[0][0]()]

    def _step(self) -> None:
        able = self._streams_that_can()
        stream = able[0] if self._chance is None else self._chance.choice(able)
        stream.waiting.popleft()[1]()


class MeanModel:
    """A model that computes the same as ``tests.engine.graphs.tiny_graph``: scores that are the mean of the image / 255."""

    def __init__(self, device: HostDevice, card: ModelCard, candidates: int = 4) -> None:
        self.outputs: OutputShapes = {
            "boxes": ((candidates, 4), np.dtype(np.float32)),
            "scores": ((candidates,), np.dtype(np.float32)),
            "class_ids": ((candidates,), np.dtype(np.int32)),
        }
        self._device = device
        self._place = card.input.width * card.input.height * 3
        self.closed = False

    def enqueue(self, count: int, images: int, outputs: Mapping[str, int], stream: HostStream) -> None:
        """Compute when the stream reaches it."""
        assert not self.closed

        def compute() -> None:
            at = self._device.at
            means = at(images, count * self._place).reshape(count, -1).mean(1) / 255
            candidates = self.outputs["scores"][0][0]
            at(outputs["scores"], count * candidates * 4).view(np.float32).reshape(count, -1)[:] = means[:, None]

        self._device.put(stream, compute)

    def capturing(self) -> AbstractContextManager[Any] | None:
        """Return an empty context: it can be recorded."""
        return nullcontext()

    def close(self) -> None:
        """Note that it is closed."""
        self.closed = True


class FailingModel:
    """A model that fails on request.

    Args:
        model: The model that computes.
        largest: The largest batch that the device has memory for.
        recorded: Whether it can be recorded.
    """

    def __init__(self, model: Any, largest: int = 1000, recorded: bool = True) -> None:
        self._model = model
        self._largest = largest
        self._recorded = recorded
        self.failures = 0
        """The number of failures to come."""
        self.enqueued: list[int] = []
        """The sizes of the batches that were queued."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def enqueue(self, count: int, images: int, outputs: Mapping[str, int], stream: Any) -> None:
        """Fail, or compute the batch."""
        self.enqueued.append(count)
        if count > self._largest:
            raise DeviceMemoryError("out of memory")
        if self.failures:
            self.failures -= 1
            raise EngineError("it failed", "as requested")
        self._model.enqueue(count, images, outputs, stream)

    def capturing(self) -> AbstractContextManager[Any] | None:
        """Return the model's context, unless it cannot be recorded."""
        return self._model.capturing() if self._recorded else None
