"""Presentation times for AVI, which has none.

An AVI says how long a frame lasts and no more; FFmpeg makes a time of each packet's place in the file. With B-frames that place
is the one in decoding order. The decoder gives frames out in presentation order, so the times are right once they are sorted: the
frame that comes next has the least time of those that are in the decoder.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

_MOST = 64
"""frames that a decoder holds back, threads included; what is older has come to nothing"""


class OrderedTimes:
    """Gives the times of packets, sorted, to the frames that come of them. Units are the stream's."""

    def __init__(self) -> None:
        self._waiting: list[int] = []

    def sent(self, pts: int | None) -> None:
        """A packet with this time goes into the decoder."""
        if pts is not None:
            heappush(self._waiting, pts)
            if len(self._waiting) > _MOST:
                heappop(self._waiting)

    def lost(self, pts: int | None) -> None:
        """Nothing comes of the packet with this time."""
        if pts in self._waiting:
            self._waiting.remove(pts)
            heapify(self._waiting)

    def of(self, pts: int | None, key: bool) -> int | None:
        """The time of the next frame.

        Args:
            pts: the time that the decoder gives it.
            key: it is a key frame: all that was sent before it has been shown before it, so that its own time is right.
        """
        if key and pts is not None:
            while self._waiting and self._waiting[0] < pts:
                heappop(self._waiting)
        return heappop(self._waiting) if self._waiting else pts
