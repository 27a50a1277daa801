"""A device that computes nothing: it has the clock of a GPU, and makes as many calls that release the GIL as CUDA's driver needs.

It shows what batches cost the CPU. Its streams are times: work moves the end of its stream, and the host sleeps until then.
"""

from __future__ import annotations

import ctypes
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.geometry import Letterbox, Size
from vision_infer.core.image import Surface
from vision_infer.engine.contract import OutputShapes

DRIVER_CALLS = dict.fromkeys(("write_surfaces", "write_yuv420", "write_luma"), 3)
"""The driver calls of a method of :class:`vision_infer.engine.gpu.cuda.CudaDevice`, if it is not one: the kernel waits for the
decoder's stream."""
_driver_call = ctypes.CDLL(None).getppid
"""A system call that costs next to nothing; like a call into the driver, it releases the GIL."""


class NullStream:
    """The end of the queued work, ns."""

    end_ns = 0


class NullEvent:
    """The time at which a stream passes it, ns."""

    at_ns = 0


class NullDevice:
    """A device without a GPU, see :class:`vision_infer.engine.gpu.accelerator.Accelerator`.

    Args:
        batch_us: The time that it needs for a batch, microseconds.
    """

    index = 0
    name = "null:0"

    def __init__(self, batch_us: float = 200.0) -> None:
        self.calls: Counter[str] = Counter()
        """The number of driver calls by method."""
        self._batch_ns = round(1000 * batch_us)
        self._blocks: dict[int, NDArray[np.uint8]] = {}

    def _call(self, method: str) -> None:
        calls = DRIVER_CALLS.get(method, 1)
        self.calls[method] += calls
        for _ in range(calls):
            _driver_call()

    def use(self) -> None:
        """Call the driver."""
        self._call("use")

    def memory(self) -> tuple[int, int]:
        """Return that everything is free."""
        return 10**10, 10**10

    def allocate(self, nbytes: int) -> int:
        """Allocate host memory."""
        return int(self.allocate_host(nbytes).ctypes.data)

    def free(self, address: int) -> None:
        """Free memory."""
        del self._blocks[address]

    def allocate_host(self, nbytes: int) -> NDArray[np.uint8]:
        """Allocate host memory."""
        array = np.zeros(nbytes, np.uint8)
        self._blocks[array.ctypes.data] = array
        return array

    def free_host(self, array: NDArray[np.uint8]) -> None:
        """Free memory."""
        del self._blocks[array.ctypes.data]

    def make_stream(self) -> NullStream:
        """Return a stream."""
        return NullStream()

    def make_event(self, timed: bool = True) -> NullEvent:  # noqa: ARG002 - the interface's
        """Return an event."""
        return NullEvent()

    def record(self, event: NullEvent, stream: NullStream) -> None:
        """Set the time of the event."""
        self._call("record")
        event.at_ns = max(stream.end_ns, time.monotonic_ns())

    def wait(self, stream: NullStream, event: NullEvent) -> None:
        """Move the end of the stream."""
        self._call("wait")
        stream.end_ns = max(stream.end_ns, event.at_ns)

    def synchronize(self, event: NullEvent) -> None:
        """Sleep until the event."""
        self._call("synchronize")
        while (left := event.at_ns - time.monotonic_ns()) > 0:
            time.sleep(left / 1e9)

    def elapsed_ms(self, first: NullEvent, second: NullEvent) -> float:
        """Return the time between two events."""
        self._call("elapsed_ms")
        return (second.at_ns - first.at_ns) / 1e6

    def copy_in(self, address: int, source: NDArray[Any], stream: NullStream) -> None:  # noqa: ARG002 - the interface's
        """Copy at once."""
        self._call("copy_in")
        ctypes.memmove(address, source.ctypes.data, source.nbytes)

    def copy_out(self, target: NDArray[Any], address: int, stream: NullStream) -> None:  # noqa: ARG002 - the interface's
        """Copy at once."""
        self._call("copy_out")
        ctypes.memmove(target.ctypes.data, address, target.nbytes)

    def capture(self, stream: NullStream, work: Callable[[], None]) -> Callable[[], None]:  # noqa: ARG002 - the interface's
        """Record nothing: all graphs are alike."""
        work()
        return work

    def launch(self, graph: object, stream: NullStream) -> None:  # noqa: ARG002 - the interface's
        """Compute a batch."""
        self._call("launch")
        stream.end_ns = max(stream.end_ns, time.monotonic_ns()) + self._batch_ns

    def surface_problem(self) -> str:
        """Return that frames can be read."""
        return ""

    def write_surfaces(self, writes: Sequence[tuple[int, Surface, Letterbox]], stream: NullStream) -> None:  # noqa: ARG002
        """Write nothing."""
        self._call("write_surfaces")

    def write_yuv420(self, address: int, surface: Surface, size: Size, stream: NullStream) -> None:  # noqa: ARG002
        """Write nothing."""
        self._call("write_yuv420")

    def write_luma(self, address: int, surface: Surface, step: int, stream: NullStream) -> None:  # noqa: ARG002
        """Write nothing."""
        self._call("write_luma")

    def destroy(self, *things: Any) -> None:
        """Destroy nothing."""


class NullModel:
    """A model with the same outputs for all images, see :class:`vision_infer.engine.gpu.accelerator.DeviceModel`.

    Args:
        outputs: The outputs of one image by name.
    """

    device_bytes = 0

    def __init__(self, outputs: Mapping[str, NDArray[Any]]) -> None:
        self.outputs: OutputShapes = {name: (array.shape, array.dtype) for name, array in outputs.items()}
        self._values = outputs

    def enqueue(self, count: int, images: int, outputs: Mapping[str, int], stream: Any) -> None:  # noqa: ARG002
        """Write the outputs at once; in recorded batches, they are there from the recording."""
        for name, array in self._values.items():
            repeated = np.ascontiguousarray(np.broadcast_to(array, (count, *array.shape)))
            ctypes.memmove(outputs[name], repeated.ctypes.data, repeated.nbytes)

    def recordable(self, count: int, images: int, outputs: Mapping[str, int], stream: Any) -> Callable[[], None]:
        """Return a function that runs a batch."""
        return lambda: self.enqueue(count, images, outputs, stream)

    def warmed_up(self) -> None:
        """Keep nothing."""

    def close(self) -> None:
        """Free nothing."""


def calls_a_batch(calls: Mapping[str, int], before: Mapping[str, int], batches: int) -> dict[str, float]:
    """Return the driver calls of a batch by method, and their sum as ``all``."""
    found = {method: (count - before.get(method, 0)) / batches for method, count in calls.items()}
    return {"all": sum(found.values()), **{method: count for method, count in found.items() if count}}
