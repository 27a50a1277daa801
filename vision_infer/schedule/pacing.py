"""Which frames of a stream are inferred when its rate is limited."""

from __future__ import annotations

import math


class Pacer:
    """At most so many frames a second, evenly spaced by the stream's own time.

    The grid is fixed by the first frame: a frame is wanted when it is the first at or after the next point of the grid.
    So the rate is exact over time (30 fps paced to 12 gives 12, not 10, and 25 paced to 30 gives 25), whatever the jitter up
    to half an interval either way: a frame may be up to two intervals late on its point without a loss to those after it. Any
    later, it follows a gap, and the grid starts anew with the next frame; so a burst is never caught up with, but for a frame
    or two. After a jump back the grid starts anew too.
    """

    __slots__ = ("_interval_ns", "_next_ns", "_tolerance_ns")

    def __init__(self, frames_per_second: float) -> None:
        if not 0 < frames_per_second < math.inf:
            raise ValueError(f"frames_per_second must be a number above 0, got {frames_per_second}")
        self._interval_ns = max(1, round(1e9 / frames_per_second))
        # Timestamps are rounded to their time base (up to a millisecond): a frame that close to its point is on it.
        self._tolerance_ns = min(1_000_000, self._interval_ns // 4)
        self._next_ns: int | None = None

    def wants(self, time_ns: int) -> bool:
        """Return whether to infer the next frame. Call it once for each frame, in order.

        Args:
            time_ns: The presentation or capture time of the frame, nanoseconds.
        """
        due = self._next_ns
        interval = self._interval_ns
        if due is None or time_ns < due - 2 * interval:
            self._next_ns = time_ns + interval
            return True
        if time_ns < due - self._tolerance_ns:
            return False
        self._next_ns = due + interval if time_ns < due + 2 * interval else time_ns
        return True
