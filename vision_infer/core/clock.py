"""Clocks. Durations come from one monotonic clock; code that depends on time receives a clock, so that tests can pass theirs."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of time."""

    def monotonic_ns(self) -> int:
        """Return nanoseconds since an arbitrary start; they never decrease."""
        ...

    def wall_ns(self) -> int:
        """Return nanoseconds since 1970 (UTC), for display next to a monotonic time; never used for durations."""
        ...


class SystemClock:
    """The clock of this machine."""

    __slots__ = ()

    monotonic_ns = staticmethod(time.monotonic_ns)
    wall_ns = staticmethod(time.time_ns)


SYSTEM_CLOCK = SystemClock()
