"""Ctrl-C and SIGTERM: the first signal stops a run gracefully, the second ends the process immediately."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType


class StopSignals:
    """Handles SIGINT and SIGTERM during a run. Use it as a context manager in the main thread."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.received: int | None = None
        self._before: dict[int, object] = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.stopping.is_set():
            os._exit(128 + number)
        self.received = number
        self.stopping.set()

    @property
    def exit_status(self) -> int:
        """128 plus the number of the signal; 0 if none was received."""
        return 0 if self.received is None else 128 + self.received

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
