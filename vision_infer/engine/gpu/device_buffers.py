"""The buffers of an engine on a device: slots in host memory, their copies on the device, and the streams that copy.

Each buffer has a stream for its copies to the device, so that one batch is copied while another is computed. The outputs are
small: they are copied to the host after the batch, on the stream that computes. An image that is on the device already is not
copied from the host: it is written into its slot when the batch is submitted.
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
from vision_infer.engine.gpu.accelerator import Accelerator, Event, Graph, Stream
from vision_infer.engine.gpu.ledger import ledger_of

_ALIGNMENT = 256
"""The addresses of all inputs and outputs are multiples of it, as TensorRT requires."""


class DeviceSlot:
    """Memory for one image: in host memory, from where it is copied, or on the device; the last one written counts."""

    __slots__ = ("_device", "_pixels", "address", "layout", "surface")

    def __init__(self, pixels: NDArray[np.uint8], device: Accelerator, address: int) -> None:
        self._pixels = pixels
        self._device = device
        self.address = address
        """The address of the slot on the device."""
        self.layout: Letterbox | None = None
        """The letterbox of the image in host memory."""
        self.surface: tuple[Surface, Letterbox] | None = None
        """The decoded frame for this slot, kept until the batch is done; None: the image is in host memory."""

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The pixels in host memory: uint8 [H, W, 3] RGB. Reading this property declares that the caller writes there."""
        self.surface = None
        return self._pixels

    def write_surface(self, surface: Surface, letterbox: Letterbox) -> bool:
        """Take a decoded frame; return False if it is on another device, or the device cannot read it."""
        if surface.device != self._device.index or self._device.surface_problem():
            return False
        self.surface = surface, letterbox
        return True


@dataclass(frozen=True, slots=True)
class DeviceOutputs:
    """The outputs of one batch size, in one block, so that one copy brings them to the host."""

    block: NDArray[np.uint8]
    """The block in host memory."""
    at: int
    """The address of the block on the device."""
    arrays: dict[str, NDArray[Any]]
    """The outputs in host memory by name: [B, …]."""
    addresses: dict[str, int]
    """The addresses of the outputs on the device, multiples of 256."""


@dataclass(slots=True)
class DeviceBuffer:
    """The input and output memory of one batch on host and device, with its stream and events."""

    images: NDArray[np.uint8]
    """The input in host memory: uint8 [B, H, W, 3]."""
    images_at: int
    """The address of the input on the device."""
    outputs: dict[int, DeviceOutputs]
    """The outputs by batch size, all in the same memory."""
    slots: tuple[DeviceSlot, ...]
    """The slots in the order of the batch."""
    stream: Stream
    """The stream of its copies to the device."""
    begun: Event
    """The batch has begun."""
    copied: Event
    """The images are on the device."""
    done: Event
    """The outputs are in host memory."""
    graphs: dict[int, Graph] = field(default_factory=dict)
    """The recorded graphs by batch size."""


class DeviceBuffers:
    """One buffer for each batch in flight, all allocated at the start; ``batch_sizes`` is ascending.

    Raises:
        DeviceMemoryError: The device has not enough memory; nothing stays allocated.
    """

    def __init__(self, device: Accelerator, size: Size, batch_sizes: Sequence[int], count: int, outputs: OutputShapes) -> None:
        self.batch_sizes = tuple(batch_sizes)
        self._device = device
        self._count = count
        # Guards _free. Held in lend() and release() by the pipeline's inference threads.
        self._lock = threading.Lock()
        self._things: list[Any] = []
        self._addresses: list[int] = []
        self._arrays: list[NDArray[np.uint8]] = []
        self.nbytes = buffer_bytes(size, batch_sizes[-1], outputs) * count
        """The size of all buffers on the host, and again on the device, bytes."""
        ledger_of(device).check(self.nbytes, "its buffers")
        try:
            self.buffers = [self._make(size, outputs) for _ in range(count)]
        except BaseException:
            self.close()
            raise
        self._free = list(self.buffers)

    def padded(self, count: int) -> int:
        """Return the batch size with which a batch of ``count`` runs.

        Raises:
            EngineError: The batch is larger than the largest one.
        """
        for size in self.batch_sizes:
            if 1 <= count <= size:
                return size
        raise EngineError(f"the engine does not run batches of {count}", f"it runs {list(self.batch_sizes)}")

    def lend(self, count: int) -> Loan:
        """Lend the slots of a batch; see :meth:`vision_infer.engine.engine.Engine.lend`."""
        self.padded(count)
        with self._lock:
            if not self._free:
                raise EngineError(f"all {self._count} buffers of the engine are lent", "Collect or release one first.")
            buffer = self._free.pop()
        return Loan(buffer.slots[:count], buffer)

    def release(self, loan: Loan) -> None:
        """Take the slots back; the device must not use them any longer."""
        buffer: DeviceBuffer = loan.buffer
        with self._lock:
            if any(buffer is free for free in self._free):
                raise ValueError("the loan was released before")
            for slot in buffer.slots:
                slot.surface = None
            self._free.append(buffer)

    def close(self) -> None:
        """Wait for the batches in flight and free all memory; errors of a broken device are ignored."""
        # Streams first: destroying them waits for their pending work, which uses the graphs and the memory.
        with suppress(EngineError):
            self._device.destroy(*self._things)
        for buffer in getattr(self, "buffers", []):
            with suppress(EngineError):
                self._device.destroy(*buffer.graphs.values())
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
        largest = self.batch_sizes[-1]
        images, images_at = self._pair((largest, size.height, size.width, 3), np.dtype(np.uint8))
        block, block_at = self._pair((_placed(largest, outputs)[1],), np.dtype(np.uint8))
        stream = self._keep(self._device.make_stream())
        nbytes = images[0].nbytes
        slots = tuple(DeviceSlot(images[at], self._device, images_at + at * nbytes) for at in range(largest))
        begun, copied, done = (self._keep(self._device.make_event(timed)) for timed in (True, False, True))
        made = {batch: _outputs(batch, outputs, block, block_at) for batch in self.batch_sizes}
        return DeviceBuffer(images, images_at, made, slots, stream, begun, copied, done)

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
    """Return the size of a buffer on the host, and again on the device, bytes."""
    image = size.width * size.height * 3
    return batch * (image + sum(math.prod(shape) * dtype.itemsize for shape, dtype in outputs.values()))


def _placed(batch: int, outputs: OutputShapes) -> tuple[dict[str, int], int]:
    """Return where each output of a batch begins in a block, bytes, and the size of the block."""
    places, end = {}, 0
    for name, (shape, dtype) in outputs.items():
        places[name] = begin = -(-end // _ALIGNMENT) * _ALIGNMENT
        end = begin + batch * math.prod(shape) * dtype.itemsize
    return places, end


def _outputs(batch: int, outputs: OutputShapes, block: NDArray[np.uint8], at: int) -> DeviceOutputs:
    places, end = _placed(batch, outputs)
    arrays = {}
    for name, (shape, dtype) in outputs.items():
        nbytes = batch * math.prod(shape) * dtype.itemsize
        arrays[name] = block[places[name] :][:nbytes].view(dtype).reshape(batch, *shape)
    return DeviceOutputs(block[:end], at, arrays, {name: at + place for name, place in places.items()})


def host_runs(slots: Sequence[DeviceSlot]) -> Iterator[tuple[int, int]]:
    """Yield the runs (first, one after the last) of slots whose images are in host memory: each run is one copy."""
    first = None
    for index, slot in enumerate(slots):
        if slot.surface is not None and first is not None:
            yield first, index
            first = None
        elif slot.surface is None and first is None:
            first = index
    if first is not None:
        yield first, len(slots)
