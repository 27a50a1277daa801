"""Restores presentation times for AVI, which has none.

An AVI file contains only the frame rate; FFmpeg computes each packet's time from its position in the file, which is in decoding
order. The decoder outputs frames in presentation order, so their times are correct once they are sorted: the next frame
has the smallest time of those that are in the decoder.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

_MAX_WAITING = 64
"""The maximum number of frames that a decoder delays, threads included; older packets gave no frame."""


class OrderedTimes:
    """Assigns the sorted times of the packets to the decoded frames, in units of the stream's time base."""

    def __init__(self) -> None:
        self._waiting: list[int] = []

    def sent(self, pts: int | None) -> None:
        """Record a packet that is sent to the decoder."""
        if pts is not None:
            heappush(self._waiting, pts)
            if len(self._waiting) > _MAX_WAITING:
                heappop(self._waiting)

    def lost(self, pts: int | None) -> None:
        """Record that a packet gives no frame."""
        if pts in self._waiting:
            self._waiting.remove(pts)
            heapify(self._waiting)

    def of(self, pts: int | None, key: bool) -> int | None:
        """Return the time of the next frame.

        Args:
            pts: The time that the decoder assigned.
            key: Whether it is a key frame. Then all packets sent before it precede it, and its own time is correct.
        """
        if key and pts is not None:
            while self._waiting and self._waiting[0] < pts:
                heappop(self._waiting)
        return heappop(self._waiting) if self._waiting else pts
