"""Frames of a running lane on which a child process measures the accuracy of other engines.

The first engine of the lane writes them into an unnamed file, which the child process receives as its standard input. The file
is gone as soon as both processes have closed it.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.geometry import Letterbox, Size
from vision_infer.engine.engine import Engine, Loan, Ticket

MAX_SAMPLES = 128
"""The number of frames that are kept; 100 are needed to verify an accuracy."""
SAMPLE_EVERY_S = 0.25
"""The minimum interval between two kept frames, seconds: neighboring frames are nearly equal."""
_LAYOUT_BYTES = 256
"""The size of the layout in front of each frame, JSON."""


class SampledEngine:
    """An engine that keeps some of the frames that it infers.

    Args:
        engine: Runs the batches; its slots are in host memory.
        folder: The folder of the unnamed file.

    Raises:
        OSError: The file cannot be created.
    """

    def __init__(self, engine: Engine, folder: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        self._engine = engine
        self._clock = clock
        self.file: BinaryIO = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed with the engine
        # Guards the fields below. The inference threads hold it while they write a frame.
        self._lock = threading.Lock()
        self._count = 0
        self._due_ns = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, loan: Loan) -> Ticket:
        """Start the batch; keep its first frame if one is due, and the file is open."""
        if self._count < MAX_SAMPLES and self._clock.monotonic_ns() >= self._due_ns:
            self._keep(loan)
        return self._engine.submit(loan)

    def _keep(self, loan: Loan) -> None:
        slot = loan.slots[0]
        layout = slot.layout
        with self._lock:
            if layout is None or self._count >= MAX_SAMPLES:
                return
            source, content = layout.source, layout.content
            values = (source.width, source.height, layout.x, layout.y, content.width, content.height, *layout.fill)
            place = self._count * (_LAYOUT_BYTES + slot.pixels.nbytes)
            try:
                os.pwrite(self.file.fileno(), json.dumps(values).encode().ljust(_LAYOUT_BYTES) + slot.pixels.tobytes(), place)
            except (OSError, ValueError):  # the disk is full: the frames so far are kept; or the file is closed: none is needed
                self._count = MAX_SAMPLES
                return
            self._count += 1
            self._due_ns = self._clock.monotonic_ns() + round(SAMPLE_EVERY_S * 1e9)

    def __enter__(self) -> SampledEngine:
        self._engine.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._count = MAX_SAMPLES
            self.file.close()
        self._engine.__exit__(kind, error, trace)


def count_samples(file: BinaryIO, size: Size) -> int:
    """Return the number of complete frames in a file."""
    return os.fstat(file.fileno()).st_size // (_LAYOUT_BYTES + size.width * size.height * 3)


def read_samples(file: BinaryIO, size: Size) -> tuple[Sequence[NDArray[np.uint8]], tuple[Letterbox, ...]]:
    """Return the frames in a file, uint8 [H, W, 3] each, and their layouts.

    Args:
        file: The file, which another process may still be writing.
        size: The size of the model's input, pixels.
    """
    pixels, layouts = [], []
    nbytes = size.width * size.height * 3
    for number in range(count_samples(file, size)):
        content = os.pread(file.fileno(), _LAYOUT_BYTES + nbytes, number * (_LAYOUT_BYTES + nbytes))
        width, height, x, y, inside_width, inside_height, *fill = json.loads(content[:_LAYOUT_BYTES])
        red, green, blue = fill
        layouts.append(Letterbox(Size(width, height), size, x, y, Size(inside_width, inside_height), (red, green, blue)))
        pixels.append(np.frombuffer(content, np.uint8, offset=_LAYOUT_BYTES).reshape(size.height, size.width, 3))
    return pixels, tuple(layouts)
