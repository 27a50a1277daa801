# mypy: ignore-errors
"""Measure the age of a frame when its result is complete. The other programs use this meter, which requires only NumPy.

The cameras repeat a video whose frames carry their position as a time code. A program passes each frame to the meter when its
result is complete; the meter records the camera, the code and the time. ``live.py`` knows when each frame was sent and calculates
the ages.
"""

import importlib.util
import json
import threading
import time
from pathlib import Path

import numpy as np


def _time_code():
    """Load the module from its file, because the interpreters of other programs do not have the package."""
    file = Path(__file__).resolve().parents[2] / "vision_infer" / "core" / "time_code.py"
    spec = importlib.util.spec_from_file_location("time_code", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


code = _time_code()


def read(gray: np.ndarray) -> int | None:
    """Return the time code of an image, milliseconds; None if it cannot be read. ``gray`` is uint8 [H, W]."""
    columns = code.middles(code.column_edges(gray.shape[1]))
    rows = code.middles(code.row_edges(gray.shape[0]))
    means = [gray[row.start : row.stop : 4, column.start : column.stop : 4].mean() for row in rows for column in columns]
    levels = np.array(means)
    white, black = levels[list(code.WHITE_GUARDS)].min(), levels[list(code.BLACK_GUARDS)].max()
    if white - black < code.GUARD_CONTRAST:
        return None
    cells = tuple((2 * levels > white + black).astype(int).tolist())
    count = len(code.MOMENT_CELLS)
    moment = sum(cells[cell] << bit for cell, bit in zip(code.MOMENT_CELLS, reversed(range(count)), strict=True))
    return moment if cells == code.cells_of(moment) else None


class Meter:
    """Records completed results for a time that starts with the first one; thread-safe."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends = 0.0
        self.notes: list[tuple[str, int, float]] = []
        self._lock = threading.Lock()

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return bool(self._ends) and time.monotonic() >= self._ends

    def done(self, camera: str, gray: np.ndarray) -> None:
        """Record that the result of a frame is complete."""
        now = time.monotonic()
        moment = read(gray)
        with self._lock:
            self._ends = self._ends or now + self._seconds
            if moment is not None:
                self.notes.append((camera, moment, now))

    def report(self) -> None:
        """Print all records as one line of JSON."""
        print(json.dumps(self.notes), flush=True)
