"""Time. Durations come from one monotonic clock; code that decides by time is given a clock, so that tests pass theirs."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since an arbitrary start; never goes back."""
        ...

    def wall_ns(self) -> int:
        """Nanoseconds since 1970 (UTC), for display beside a monotonic time; never used for durations."""
        ...


class SystemClock:
    """The clock of this machine."""

    __slots__ = ()

    monotonic_ns = staticmethod(time.monotonic_ns)
    wall_ns = staticmethod(time.time_ns)


SYSTEM_CLOCK = SystemClock()
