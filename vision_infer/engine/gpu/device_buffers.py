"""The buffers of an engine on a device: slots in host memory, their place on the device, and the way in and out.

Each buffer has a stream for its copies, so that a batch is copied in, another computed and a third copied out at the same time.
A picture that is on the device already is written into its slot there, and its slot is not copied.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Letterbox, Size
from vision_infer.core.image import Surface
from vision_infer.engine.contract import OutputShapes
from vision_infer.engine.engine import Loan
from vision_infer.engine.gpu.accelerator import Accelerator, DeviceMemoryError, Event, Graph, Stream


class DeviceSlot:
    """A place for one picture: in host memory, from where it is copied, or on the device itself, whichever was written last."""

    __slots__ = ("_address", "_device", "_held", "_pixels", "_stream", "layout", "on_device")

    def __init__(self, pixels: NDArray[np.uint8], device: Accelerator, address: int, stream: Stream, held: list[object]) -> None:
        self._pixels = pixels
        self._device = device
        self._address = address
        self._stream = stream
        self._held = held
        self.layout: Letterbox | None = None
        """of what is in host memory"""
        self.on_device = False
        """whether the picture is on the device, and host memory holds an older one"""

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3] RGB in host memory; asking for it is to write there."""
        self.on_device = False
        return self._pixels

    def write_surface(self, surface: Surface, letterbox: Letterbox) -> bool:
        """Write a picture that is on the same device; it is kept until the batch has been computed."""
        if surface.device != self._device.index:
            return False
        self._device.use()
        self._held.append(surface)
        self._device.write_surface(self._address, surface, letterbox, self._stream)
        self.on_device = True
        return True


@dataclass(slots=True)
class DeviceBuffer:
    """Input and output memory of one batch, on both sides, and its way."""

    images: NDArray[np.uint8]
    """host memory, uint8 [B, H, W, 3]"""
    images_at: int
    """address of the same on the device"""
    outputs: dict[str, NDArray[Any]]
    """host memory by name, [B, …]"""
    outputs_at: dict[str, int]
    """addresses of the same on the device"""
    slots: tuple[DeviceSlot, ...]
    stream: Stream
    """of its copies"""
    begun: Event
    copied: Event
    """its pictures are on the device"""
    computed: Event
    done: Event
    """its results are in host memory"""
    held: list[object]
    """what must not go before the batch is done"""
    graphs: dict[int, Graph | None] = field(default_factory=dict)
    """by batch size: what was recorded; None: it ran once as it is, and is recorded the next time"""


class DeviceBuffers:
    """As many buffers as batches may be in flight; none is made later.

    Args:
        device: whose memory it is.
        size: of a picture.
        batch_sizes: the sizes that are run, ascending.
        count: number of buffers.
        outputs: for each output its shape without the batch, and its dtype.

    Raises:
        DeviceMemoryError: the device has not so much; nothing is held then.
    """

    def __init__(self, device: Accelerator, size: Size, batch_sizes: Sequence[int], count: int, outputs: OutputShapes) -> None:
        self.batch_sizes = tuple(batch_sizes)
        self._device = device
        self._count = count
        self._lock = threading.Lock()
        self._things: list[Any] = []
        self._addresses: list[int] = []
        self._arrays: list[NDArray[np.uint8]] = []
        self.nbytes = buffer_bytes(size, batch_sizes[-1], outputs) * count
        """on either side"""
        free, whole = device.memory()
        if self.nbytes > free:
            raise DeviceMemoryError(
                f"{device.name} has {free / 1e6:.0f} of {whole / 1e6:.0f} MB free, buffers need {self.nbytes / 1e6:.0f}"
            )
        try:
            self.buffers = [self._make(size, outputs) for _ in range(count)]
        except BaseException:
            self.close()
            raise
        self._free = list(self.buffers)

    def padded(self, count: int) -> int:
        """The batch size that a batch of ``count`` is run as.

        Raises:
            EngineError: there is none.
        """
        for size in self.batch_sizes:
            if 1 <= count <= size:
                return size
        raise EngineError(f"the engine does not run batches of {count}", f"it runs {list(self.batch_sizes)}")

    def lend(self, count: int) -> Loan:
        """Slots for a batch; see :meth:`vision_infer.engine.engine.Engine.lend`."""
        self.padded(count)
        with self._lock:
            if not self._free:
                raise EngineError(f"all {self._count} buffers of the engine are lent", "collect or release one first")
            buffer = self._free.pop()
        return Loan(buffer.slots[:count], buffer)

    def release(self, loan: Loan) -> None:
        """Take the slots back; nothing on the device may use them any more."""
        buffer: DeviceBuffer = loan.buffer
        with self._lock:
            if any(buffer is one for one in self._free):
                raise ValueError("the loan was released before")
            buffer.held.clear()
            self._free.append(buffer)

    def close(self) -> None:
        """Give all memory back, as far as the device still takes it; what is in flight is waited for."""
        with suppress(EngineError):
            self._device.destroy(*self._things)
        for buffer in getattr(self, "buffers", []):
            with suppress(EngineError):
                self._device.destroy(*[graph for graph in buffer.graphs.values() if graph is not None])
            buffer.graphs.clear()
        for address in self._addresses:
            with suppress(EngineError):
                self._device.free(address)
        for array in self._arrays:
            with suppress(EngineError):
                self._device.free_host(array)
        self._things.clear()
        self._addresses.clear()
        self._arrays.clear()

    def _make(self, size: Size, outputs: OutputShapes) -> DeviceBuffer:
        most = self.batch_sizes[-1]
        images, images_at = self._pair((most, size.height, size.width, 3), np.dtype(np.uint8))
        pairs = {name: self._pair((most, *shape), dtype) for name, (shape, dtype) in outputs.items()}
        stream = self._keep(self._device.make_stream())
        held: list[object] = []
        nbytes = images[0].nbytes
        slots = tuple(DeviceSlot(images[at], self._device, images_at + at * nbytes, stream, held) for at in range(most))
        events = [self._keep(self._device.make_event()) for _ in range(4)]
        host = {name: array for name, (array, _) in pairs.items()}
        there = {name: address for name, (_, address) in pairs.items()}
        begun, copied, computed, done = events
        return DeviceBuffer(images, images_at, host, there, slots, stream, begun, copied, computed, done, held)

    def _pair(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], int]:
        nbytes = math.prod(shape) * dtype.itemsize
        array = self._device.allocate_host(nbytes)
        self._arrays.append(array)
        address = self._device.allocate(nbytes)
        self._addresses.append(address)
        return array.view(dtype).reshape(shape), address

    def _keep(self, thing: Any) -> Any:
        self._things.append(thing)
        return thing


def buffer_bytes(size: Size, batch: int, outputs: OutputShapes) -> int:
    """What a buffer takes, on the host and again on the device, bytes."""
    each = size.width * size.height * 3
    return batch * (each + sum(math.prod(shape) * dtype.itemsize for shape, dtype in outputs.values()))


def host_runs(slots: Sequence[DeviceSlot]) -> Iterator[tuple[int, int]]:
    """The places whose pictures are in host memory, as runs (first, one after the last): each is one copy."""
    first = None
    for place, slot in enumerate(slots):
        if slot.on_device and first is not None:
            yield first, place
            first = None
        elif not slot.on_device and first is None:
            first = place
    if first is not None:
        yield first, len(slots)
