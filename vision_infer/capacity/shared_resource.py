"""A resource that simulated tasks share."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable


class SharedResource:
    """A resource that divides its speed equally among its tasks, such as cores among threads.

    Args:
        slots: The number of tasks that run at full speed in parallel.
        alone: The factor by which a single task is faster.
    """

    def __init__(self, slots: float, alone: float = 1.0) -> None:
        self._slots = slots
        self._alone = alone
        self._work: list[tuple[float, int, Callable[[int], None]]] = []
        self._virtual = 0.0
        """The work done on each task since the start."""
        self._at = 0
        self._number = 0
        self.busy_ns = 0.0

    def _speed(self) -> float:
        count = len(self._work)
        if count == 0:
            return 0.0
        full = min(1.0, self._slots / count)
        if self._slots <= 1 or count >= self._slots:
            return full if self._slots > 1 else full * self._alone
        return self._alone + (1.0 - self._alone) * (count - 1) / (self._slots - 1)

    def advance(self, now: int) -> None:
        """Advance the time."""
        gone = now - self._at
        if gone > 0 and self._work:
            self._virtual += gone * self._speed()
            self.busy_ns += gone * min(self._slots, len(self._work))
        self._at = now

    def start(self, work_ns: float, done: Callable[[int], None]) -> None:
        """Start a task; ``done`` is called with the time of its end."""
        self._number += 1
        heapq.heappush(self._work, (self._virtual + max(1.0, work_ns), self._number, done))

    def next_at(self) -> float:
        """Return the time at which the next task ends."""
        if not self._work:
            return math.inf
        return self._at + max(0.0, (self._work[0][0] - self._virtual) / self._speed())

    def finish(self) -> Callable[[int], None]:
        """Remove the finished task and return its callback."""
        return heapq.heappop(self._work)[2]
