"""Which frames of a stream are inferred when its rate is limited."""

from __future__ import annotations

import math


class Pacer:
    """Limits a stream to a number of frames per second, evenly spaced by the stream's own time.

    The first frame sets a grid of times. A frame is selected when it is the first at or after the next point of the grid. So the
    rate is exact over time (30 fps paced to 12 gives 12, not 10; 25 paced to 30 gives 25) with any jitter up to half an interval
    either way. A frame may be up to two intervals after its point without a loss for later frames. If it is later, it follows a
    gap, and the next frame sets a new grid; so a gap is not caught up. A jump back also sets a new grid.
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
