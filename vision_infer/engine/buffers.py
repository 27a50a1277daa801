"""The pool of input buffers that an engine on the host lends from."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Size
from vision_infer.engine.engine import HostSlot, Loan


@dataclass(slots=True)
class HostBuffer:
    """Input and output memory of one batch."""

    images: NDArray[np.uint8]
    """uint8 [B, H, W, 3]"""
    outputs: dict[str, NDArray[Any]]
    """by name, [B, …]"""
    slots: tuple[HostSlot, ...]
    """a slot for each of the B pictures"""
    bindings: dict[int, Any] = field(default_factory=dict)
    """what the runtime prepared, by batch size"""


class BufferPool:
    """As many buffers as batches may be in flight; none is made later.

    Args:
        size: of a picture in the buffer.
        batch_sizes: the sizes that can be lent, ascending.
        count: number of buffers.
        outputs: for each output its shape without the batch, and its dtype.
    """

    def __init__(
        self,
        size: Size,
        batch_sizes: tuple[int, ...],
        count: int,
        outputs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]],
    ) -> None:
        self._batch_sizes = frozenset(batch_sizes)
        self._count = count
        most = batch_sizes[-1]
        self._lock = threading.Lock()
        self.buffers = [_make_buffer(size, most, outputs) for _ in range(count)]
        self._free = list(self.buffers)

    @property
    def nbytes(self) -> int:
        """Size of all buffers together, bytes."""
        return sum(buffer.images.nbytes + sum(array.nbytes for array in buffer.outputs.values()) for buffer in self.buffers)

    def lend(self, count: int) -> Loan:
        """Slots for a batch; see :meth:`vision_infer.engine.engine.Engine.lend`."""
        if count not in self._batch_sizes:
            raise EngineError(f"the engine does not run batches of {count}", f"it runs {sorted(self._batch_sizes)}")
        with self._lock:
            if not self._free:
                raise EngineError(f"all {self._count} buffers of the engine are lent", "collect or release one first")
            buffer = self._free.pop()
        return Loan(buffer.slots[:count], buffer)

    def release(self, loan: Loan) -> None:
        """Take the slots back."""
        with self._lock:
            if any(buffer is loan.buffer for buffer in self._free):
                raise ValueError("the loan was released before")
            self._free.append(loan.buffer)


def _make_buffer(size: Size, most: int, outputs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> HostBuffer:
    images = np.zeros((most, size.height, size.width, 3), np.uint8)
    return HostBuffer(
        images=images,
        outputs={name: np.zeros((most, *shape), dtype) for name, (shape, dtype) in outputs.items()},
        slots=tuple(HostSlot(images[place]) for place in range(most)),
    )
