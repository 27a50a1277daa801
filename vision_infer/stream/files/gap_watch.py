"""Finds where frames are missing, from the packets that could not be decoded and from the times of the frames around them."""

from __future__ import annotations

from collections import deque

from vision_infer.stream.source import ReadReport

_JUMP = 1.75
"""The distance between two frames, in frame intervals, that counts as a gap if there are signs of damage."""
_LOOK_BACK = 32
"""The number of frames for which signs of damage are remembered: a decoder outputs damaged frames with this delay at most."""


class GapWatch:
    """Converts lost packets into gaps with a start and an end, in presentation order.

    Args:
        report: Counts the gaps.
        interval_s: The frame interval in seconds; None if it is unknown or frames are skipped on purpose.
        origin_s: The time of the first frame in seconds; None if unknown.
        since_s: Gaps that end before this time are not counted, seconds; earlier frames are decoded only to reach it.
    """

    def __init__(
        self, report: ReadReport, interval_s: float | None, origin_s: float | None = None, since_s: float | None = None
    ) -> None:
        self._report = report
        self._interval_s = interval_s
        self._since_s = since_s
        self._last_s = origin_s
        self._signs: deque[int] = deque([0], maxlen=_LOOK_BACK)
        self._pending = False
        self._lost_from_s: float | None = None
        self._lost_to_s: float | None = None

    def lost(self, pts_s: float | None) -> None:
        """Record a packet that could not be decoded, with its presentation time in seconds; None if unknown."""
        self._pending = True
        if pts_s is not None:
            self._lost_from_s = pts_s if self._lost_from_s is None else min(self._lost_from_s, pts_s)
            self._lost_to_s = pts_s if self._lost_to_s is None else max(self._lost_to_s, pts_s)

    def frame(self, pts_s: float | None, end_s: float | None, signs: int) -> None:
        """Record a decoded frame, in presentation order.

        Args:
            pts_s: Its presentation time, seconds.
            end_s: The time of the next frame, seconds.
            signs: The number of signs of damage so far: errors of FFmpeg, and packets and frames marked as damaged.
        """
        interval, last = self._interval_s, self._last_s
        jumped = interval is not None and last is not None and pts_s is not None and pts_s - last > (_JUMP - 1) * interval
        # A lost packet may belong to a later frame: those before it in presentation order are still delivered.
        passed = self._pending and (self._lost_from_s is None or pts_s is None or pts_s >= self._lost_from_s)
        if passed or (jumped and signs > self._signs[0] and not self._pending):
            self._signs.clear()
            self._count(last if last is not None else self._lost_from_s, pts_s)
        self._signs.append(signs)
        if end_s is not None:
            self._last_s = end_s

    def finish(self) -> None:
        """Count a gap at the end of the stream."""
        if self._pending:
            end = self._lost_to_s
            if end is not None and self._interval_s is not None:
                end += self._interval_s
            self._count(self._last_s if self._last_s is not None else self._lost_from_s, end)

    def _count(self, from_s: float | None, to_s: float | None) -> None:
        self._pending = False
        self._lost_from_s = self._lost_to_s = None
        if self._since_s is not None and to_s is not None and to_s <= self._since_s:
            return
        if from_s is not None and to_s is not None:
            from_s = min(from_s, to_s)
        self._report.gap(from_s, to_s)
