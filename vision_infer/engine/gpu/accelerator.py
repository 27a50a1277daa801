"""What an engine asks of a device with memory of its own, and of a network that runs there.

CUDA is such a device (:mod:`vision_infer.engine.gpu.cuda`); TensorRT and PyTorch run such networks. Tests have a device in host
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Letterbox
from vision_infer.core.image import Surface
from vision_infer.engine.contract import OutputShapes

Stream = Any
"""a queue of the device: what is put into one runs in order, streams run beside each other"""
Event = Any
"""a place in a stream that others can wait for"""
Graph = Any
"""work that was recorded and is launched as a whole"""


class DeviceMemoryError(EngineError):
    """The device has no memory left for that."""


class Accelerator(Protocol):
    """A device. Addresses are plain numbers; everything but :meth:`synchronise` only queues its work and comes back."""

    @property
    def name(self) -> str:
        """``cuda:0``"""
        ...

    @property
    def index(self) -> int:
        """Its number."""
        ...

    def use(self) -> None:
        """Make it the device of the calling thread; asked for before anything else, by each thread."""
        ...

    def memory(self) -> tuple[int, int]:
        """Its memory that is free, and all of it, bytes."""
        ...

    def allocate(self, nbytes: int) -> int:
        """Memory of the device, zeroed; its address, a multiple of 256.

        Raises:
            DeviceMemoryError: there is not so much.
        """
        ...

    def free(self, address: int) -> None:
        """Give it back."""
        ...

    def allocate_host(self, nbytes: int) -> NDArray[np.uint8]:
        """Host memory from which the device copies by itself, zeroed: uint8 [nbytes].

        Raises:
            DeviceMemoryError: there is not so much.
        """
        ...

    def free_host(self, array: NDArray[np.uint8]) -> None:
        """Give it back."""
        ...

    def make_stream(self) -> Stream:
        """A new stream."""
        ...

    def make_event(self) -> Event:
        """A new event, not yet in any stream."""
        ...

    def record(self, event: Event, stream: Stream) -> None:
        """Put an event into a stream, in place of where it was before."""
        ...

    def wait(self, stream: Stream, event: Event) -> None:
        """What comes later in the stream begins after the event, as it was recorded last."""
        ...

    def synchronise(self, event: Event) -> None:
        """Wait, on this thread, until the stream has passed the event. Raises EngineError where something before it failed."""
        ...

    def elapsed_ms(self, first: Event, second: Event) -> float:
        """Time between two events that have been passed, milliseconds."""
        ...

    def copy_in(self, address: int, source: NDArray[Any], stream: Stream) -> None:
        """Copy a contiguous array of host memory to the device."""
        ...

    def copy_out(self, target: NDArray[Any], address: int, stream: Stream) -> None:
        """Copy from the device into a contiguous array of host memory."""
        ...

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """Record, and do not run, what ``work`` puts into the stream. Raises EngineError where that cannot be recorded."""
        ...

    def launch(self, graph: Graph, stream: Stream) -> None:
        """Run what was recorded."""
        ...

    def write_surface(self, address: int, surface: Surface, letterbox: Letterbox, stream: Stream) -> None:
        """Write a picture of the device into a slot at an address: uint8 [H, W, 3] RGB, letterboxed."""
        ...

    def destroy(self, *things: Any) -> None:
        """Give streams, events and graphs back; what they still do is waited for."""
        ...


class DeviceModel(Protocol):
    """A deployment graph that is loaded on a device."""

    @property
    def outputs(self) -> OutputShapes:
        """By name: shape without the batch, and dtype."""
        ...

    @property
    def device_bytes(self) -> int:
        """What it holds of the device's memory, bytes, as far as it is known."""
        ...

    def enqueue(self, count: int, images: int, outputs: Mapping[str, int], stream: Stream) -> None:
        """Queue one batch.

        Args:
            count: pictures, one of the batch sizes that it was made for.
            images: address of uint8 [count, H, W, 3].
            outputs: by name the address of [count, …].
            stream: where it goes.

        Raises:
            DeviceMemoryError: the device has no memory for it.
            EngineError: the runtime failed.
        """
        ...

    def capturing(self) -> AbstractContextManager[Any] | None:
        """Held while a batch is recorded; None: it cannot be."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...
