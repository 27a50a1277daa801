# mypy: ignore-errors
"""How old is a picture when its result is complete? The same meter for every program; it needs NumPy and nothing else.

The cameras repeat a video whose pictures carry their place in it as a time code. A program tells the meter each picture of which
it has the result; the meter notes the camera, the code and the time. When which picture was sent is known beside it
(``live_peers``), so that each note has an age.
"""

import importlib.util
import json
import threading
import time
from pathlib import Path

import numpy as np


def _time_code():
    """The module by its file: a peer's interpreter does not have the package."""
    file = Path(__file__).resolve().parents[2] / "vision_infer" / "core" / "time_code.py"
    spec = importlib.util.spec_from_file_location("time_code", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


code = _time_code()


def read(grey: np.ndarray) -> int | None:
    """The code of a picture, milliseconds; None where it cannot be read. ``grey`` is uint8 [H, W]."""
    columns = code.middles(code.column_edges(grey.shape[1]))
    rows = code.middles(code.row_edges(grey.shape[0]))
    means = [grey[row.start : row.stop : 4, column.start : column.stop : 4].mean() for row in rows for column in columns]
    levels = np.array(means)
    white, black = levels[list(code.WHITE_GUARDS)].min(), levels[list(code.BLACK_GUARDS)].max()
    if white - black < code.GUARD_CONTRAST:
        return None
    cells = tuple((2 * levels > white + black).astype(int).tolist())
    count = len(code.MOMENT_CELLS)
    moment = sum(cells[cell] << bit for cell, bit in zip(code.MOMENT_CELLS, reversed(range(count)), strict=True))
    return moment if cells == code.cells_of(moment) else None


class Meter:
    """Notes results as they are complete, for so many seconds from the first one on; any thread."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends = 0.0
        self.notes: list[tuple[str, int, float]] = []
        self._lock = threading.Lock()

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return bool(self._ends) and time.monotonic() >= self._ends

    def done(self, camera: str, grey: np.ndarray) -> None:
        """The result of a picture of a camera is complete."""
        now = time.monotonic()
        moment = read(grey)
        with self._lock:
            self._ends = self._ends or now + self._seconds
            if moment is not None:
                self.notes.append((camera, moment, now))

    def tell(self) -> None:
        """Say it all: one line of JSON on standard output."""
        print(json.dumps(self.notes), flush=True)
