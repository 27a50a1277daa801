"""A clock for tests that depend on time."""

from __future__ import annotations


class HandClock:
    """A clock that changes only when the test moves it.

    Args:
        now: The monotonic time, nanoseconds.
        wall: The nanoseconds since 1970 (UTC) at monotonic time 0.
    """

    def __init__(self, now: int = 10**12, wall: int = 1_700_000_000 * 10**9) -> None:
        self.now = now
        self.wall = wall

    def monotonic_ns(self) -> int:
        return self.now

    def wall_ns(self) -> int:
        return self.wall + self.now

    def move(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)
