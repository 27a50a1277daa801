"""The pool of input buffers that an engine on the host lends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Size
from vision_infer.engine.contract import OutputShapes
from vision_infer.engine.engine import HostSlot, Loan

Allocate = Callable[[int], NDArray[np.uint8]]
"""Allocates zeroed memory: uint8 [nbytes]."""


def zeroed(nbytes: int) -> NDArray[np.uint8]:
    """Allocate ordinary host memory."""
    return np.zeros(nbytes, np.uint8)


@dataclass(slots=True)
class HostBuffer:
    """The input and output memory of one batch."""

    images: NDArray[np.uint8]
    """The input: uint8 [B, H, W, 3]."""
    outputs: dict[str, NDArray[Any]]
    """The outputs by name: [B, …]."""
    slots: tuple[HostSlot, ...]
    """A slot for each of the B images."""
    bindings: dict[int, Any] = field(default_factory=dict)
    """What the runtime prepared for this memory, by batch size."""


class BufferPool:
    """One buffer for each batch in flight, all allocated at the start; ``batch_sizes`` is ascending.

    Args:
        allocate: Allocates the memory of the input.
    """

    def __init__(
        self, size: Size, batch_sizes: tuple[int, ...], count: int, outputs: OutputShapes, allocate: Allocate = zeroed
    ) -> None:
        self._batch_sizes = frozenset(batch_sizes)
        self._count = count
        self.buffers = [_make_buffer(size, batch_sizes[-1], outputs, allocate) for _ in range(count)]
        # Guards _free. Held in lend() and release() by the pipeline's inference threads.
        self._lock = threading.Lock()
        self._free = list(self.buffers)

    @property
    def nbytes(self) -> int:
        """The size of all buffers together, bytes."""
        return sum(buffer.images.nbytes + sum(array.nbytes for array in buffer.outputs.values()) for buffer in self.buffers)

    def lend(self, count: int) -> Loan:
        """Lend the slots of a batch; see :meth:`vision_infer.engine.engine.Engine.lend`."""
        if count not in self._batch_sizes:
            raise EngineError(f"the engine does not run batches of {count}", f"it runs {sorted(self._batch_sizes)}")
        with self._lock:
            if not self._free:
                raise EngineError(f"all {self._count} buffers of the engine are lent", "Collect or release one first.")
            buffer = self._free.pop()
        # A smaller batch uses the first slots of the buffer; the engine runs only those.
        return Loan(buffer.slots[:count], buffer)

    def release(self, loan: Loan) -> None:
        """Take the slots back."""
        with self._lock:
            # Compare by identity: dataclass equality would compare the pixels.
            if any(buffer is loan.buffer for buffer in self._free):
                raise ValueError("the loan was released before")
            self._free.append(loan.buffer)


def _make_buffer(size: Size, batch: int, outputs: OutputShapes, allocate: Allocate) -> HostBuffer:
    images = allocate(batch * size.height * size.width * 3).reshape(batch, size.height, size.width, 3)
    return HostBuffer(
        images=images,
        outputs={name: np.zeros((batch, *shape), dtype) for name, (shape, dtype) in outputs.items()},
        slots=tuple(HostSlot(images[index]) for index in range(batch)),
    )
