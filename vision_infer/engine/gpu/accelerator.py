"""The interfaces of a device with its own memory, and of a model that is loaded there.

CUDA is such a device (:mod:`vision_infer.engine.gpu.cuda`); TensorRT and PyTorch load such models. Tests use a device in host
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Letterbox, Size
from vision_infer.core.image import Surface
from vision_infer.engine.contract import OutputShapes

Stream = Any
"""A queue of the device: its work runs in order, and in parallel with other streams."""
Event = Any
"""A position in a stream that the host and other streams can wait for."""
Graph = Any
"""Recorded work that is launched as a whole."""


class DeviceMemoryError(EngineError):
    """The device has not enough free memory."""


class NoGpuError(EngineError):
    """The driver reports no GPU, or there is no driver.

    Args:
        broken: Whether there is hardware or a driver that does not work.
    """

    def __init__(self, message: str, hint: str = "", broken: bool = False) -> None:
        super().__init__(message, hint)
        self.broken = broken


class Accelerator(Protocol):
    """A device. Addresses are plain numbers; every method except :meth:`synchronize` only queues its work and returns."""

    @property
    def name(self) -> str:
        """The name, such as ``cuda:0``."""

    @property
    def index(self) -> int:
        """The number of the device."""

    def use(self) -> None:
        """Make it the device of the calling thread; every thread calls this before anything else."""

    def memory(self) -> tuple[int, int]:
        """Return its free and its total memory, bytes."""

    def allocate(self, nbytes: int) -> int:
        """Allocate zeroed memory on the device; return its address, a multiple of 256.

        Raises:
            DeviceMemoryError: There is not enough memory.
        """

    def free(self, address: int) -> None:
        """Free memory of the device."""

    def allocate_host(self, nbytes: int) -> NDArray[np.uint8]:
        """Allocate zeroed host memory that the device can copy from directly: uint8 [nbytes].

        Raises:
            DeviceMemoryError: There is not enough memory.
        """

    def free_host(self, array: NDArray[np.uint8]) -> None:
        """Free host memory."""

    def make_stream(self) -> Stream:
        """Create a stream."""

    def make_event(self, timed: bool = True) -> Event:
        """Create an event that is not recorded in a stream yet; without a time it costs less, and ``elapsed_ms`` fails."""

    def record(self, event: Event, stream: Stream) -> None:
        """Record an event in a stream; it replaces the event's earlier position."""

    def wait(self, stream: Stream, event: Event) -> None:
        """Let later work of the stream begin after the event, as it was recorded last."""

    def synchronize(self, event: Event) -> None:
        """Block the calling thread until the stream has passed the event; raise EngineError if earlier work failed."""

    def elapsed_ms(self, first: Event, second: Event) -> float:
        """Return the time between two events that have been passed, milliseconds."""

    def copy_in(self, address: int, source: NDArray[Any], stream: Stream) -> None:
        """Copy a contiguous array from host memory to the device."""

    def copy_out(self, target: NDArray[Any], address: int, stream: Stream) -> None:
        """Copy from the device to a contiguous array in host memory."""

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """Record what ``work`` puts into the stream without running it; raise EngineError if it cannot be recorded."""

    def launch(self, graph: Graph, stream: Stream) -> None:
        """Run recorded work."""

    def surface_problem(self) -> str:
        """Return why the device cannot read decoded frames; empty if it can. The first call compiles what is needed."""

    def write_surfaces(self, writes: Sequence[tuple[int, Surface, Letterbox]], stream: Stream) -> None:
        """Write decoded frames of the device into slots at addresses: uint8 [H, W, 3] RGB, letterboxed."""

    def write_yuv420(self, address: int, surface: Surface, size: Size, stream: Stream) -> None:
        """Write a decoded frame in an even size as planes Y, U and V: uint8 [1.5 H, W]."""

    def write_luma(self, address: int, surface: Surface, step: int, stream: Stream) -> None:
        """Write every ``step``-th luma sample of every ``step``-th row: uint8 [⌈H / step⌉, ⌈W / step⌉]."""

    def destroy(self, *things: Any) -> None:
        """Destroy streams, events and graphs, after their pending work."""


class DeviceModel(Protocol):
    """A deployment graph that is loaded on a device."""

    @property
    def outputs(self) -> OutputShapes:
        """For each output its shape without the batch, and its dtype."""

    @property
    def device_bytes(self) -> int:
        """The approximate size of its weights and its working memory on the device, bytes."""

    def enqueue(self, count: int, images: int, outputs: Mapping[str, int], stream: Stream) -> None:
        """Queue one batch.

        Args:
            count: The batch size, one of those that the model was built for.
            images: The address of uint8 [count, H, W, 3].
            outputs: The addresses of [count, …], by name.
            stream: The stream that runs the batch.

        Raises:
            DeviceMemoryError: The device has not enough memory.
            EngineError: The runtime failed.
        """

    def recordable(self, count: int, images: int, outputs: Mapping[str, int], stream: Stream) -> Callable[[], None] | None:
        """Return a function that queues one batch, always the same, with everything that depends on its shape kept for it alone.

        After its first run it neither allocates memory nor waits, so that it can be recorded; arguments and errors are those of
        :meth:`enqueue`. None: the model cannot be recorded.
        """

    def warmed_up(self) -> None:
        """Receive that all batch sizes have run: what the model compiled for them can be kept for the next start."""

    def close(self) -> None:
        """Free its memory."""
