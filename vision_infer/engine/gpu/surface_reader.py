"""Reads decoded frames of a GPU for the host: they are made small on the GPU, and only the result is copied."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import LifoQueue

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.errors import DeviceLostError, EngineError
from vision_infer.core.geometry import Letterbox, Size
from vision_infer.core.image import Surface
from vision_infer.engine.gpu.accelerator import Accelerator, Event, Stream
from vision_infer.engine.gpu.ledger import LedgerEntry, ledger_of

MAX_READS = 8
"""The maximum number of reads at the same time; more threads wait. It bounds the memory on device and host."""
_MIN_BYTES = 1 << 16
_log = logging.getLogger("vision_infer.cuda")

_readers: dict[int, DeviceReader] = {}
_logged: set[tuple[int, str]] = set()
"""The problems of GPUs that have been logged."""
# Guards _readers and _logged. Held by surface_reader() in threads that open streams; the first one also compiles the kernels.
_lock = threading.Lock()


@dataclass(slots=True)
class _Copy:
    """The memory and the stream of one read at a time."""

    stream: Stream
    event: Event
    address: int = 0
    host: NDArray[np.uint8] | None = None
    """The page-locked memory of the host; as much is allocated on the device."""
    entry: LedgerEntry | None = None


class DeviceReader:
    """Implements :class:`vision_infer.core.image.SurfaceReader`; it is used until the process ends.

    Args:
        device: The device, which can read decoded frames.
    """

    def __init__(self, device: Accelerator) -> None:
        self._device = device
        self._free: LifoQueue[_Copy] = LifoQueue()
        self._problems: set[str] = set()
        """What has been logged."""
        device.use()
        made: list[Stream | Event] = []
        try:
            for _ in range(MAX_READS):
                made.append(device.make_stream())
                made.append(device.make_event(timed=False))
        except EngineError:
            with suppress(EngineError):
                device.destroy(*made)
            raise
        for stream, event in zip(made[::2], made[1::2], strict=True):
            self._free.put(_Copy(stream, event))

    def rgb(self, surface: Surface, size: Size) -> NDArray[np.uint8] | None:
        """Return the image in another size, uint8 [H, W, 3] RGB."""
        box = Letterbox(surface.size, size, 0, 0, size, (0, 0, 0))
        return self._read(
            (size.height, size.width, 3), lambda at, stream: self._device.write_surfaces([(at, surface, box)], stream)
        )

    def yuv420(self, surface: Surface, size: Size) -> NDArray[np.uint8] | None:
        """Return the image in another, even size, as planes Y, U and V: uint8 [1.5 H, W]."""
        return self._read(
            (size.height * 3 // 2, size.width), lambda at, stream: self._device.write_yuv420(at, surface, size, stream)
        )

    def luma(self, surface: Surface, step: int) -> NDArray[np.uint8] | None:
        """Return every ``step``-th luma sample of every ``step``-th row."""
        shape = -(-surface.size.height // step), -(-surface.size.width // step)
        return self._read(shape, lambda at, stream: self._device.write_luma(at, surface, step, stream))

    def _read(self, shape: tuple[int, ...], write: Callable[[int, Stream], None]) -> NDArray[np.uint8] | None:
        device, nbytes = self._device, int(np.prod(shape))
        copy = self._free.get()
        try:
            device.use()
            host = self._memory(copy, nbytes)[:nbytes]
            write(copy.address, copy.stream)
            device.copy_out(host, copy.address, copy.stream)
            device.record(copy.event, copy.stream)
            device.synchronize(copy.event)
            return host.copy().reshape(shape)
        except DeviceLostError:
            raise
        except EngineError as error:
            if error.message not in self._problems:
                self._problems.add(error.message)
                _log.warning("%s: decoded frames are copied to host memory as a whole: %s", device.name, error.message)
            return None
        finally:
            self._free.put(copy)

    def _memory(self, copy: _Copy, nbytes: int) -> NDArray[np.uint8]:
        """Return host memory of at least this size; it grows in powers of two, so that it is rarely allocated."""
        if copy.host is not None and copy.host.nbytes >= nbytes:
            return copy.host
        ledger = ledger_of(self._device)
        if copy.host is not None:
            self._device.free(copy.address)
            self._device.free_host(copy.host)
            copy.host = None
            if copy.entry is not None:
                ledger.remove(copy.entry)
        wanted = max(_MIN_BYTES, 1 << (nbytes - 1).bit_length())
        copy.address = self._device.allocate(wanted)
        try:
            copy.host = self._device.allocate_host(wanted)
        except EngineError:
            with suppress(EngineError):
                self._device.free(copy.address)
            raise
        copy.entry = ledger.note("decoder", wanted)
        return copy.host


def surface_reader(gpu: int) -> DeviceReader | None:
    """Return the reader of a GPU as CUDA counts them; None if there cannot be one now, whose reason is logged once."""
    with _lock:
        if gpu in _readers:
            return _readers[gpu]
        try:
            from vision_infer.engine.gpu.cuda import cuda_device

            device = cuda_device(gpu)
            problem = device.surface_problem()
            if not problem:
                _readers[gpu] = DeviceReader(device)
        except EngineError as error:
            problem = error.message
        if problem and (gpu, problem) not in _logged:
            _logged.add((gpu, problem))
            _log.warning("cuda:%d: decoded frames are copied to host memory as a whole: %s", gpu, problem)
        return _readers.get(gpu)
