"""Where frames are missing, told from what the decoder could not decode and from the times of the frames around it."""

from __future__ import annotations

from collections import deque

from vision_infer.stream.source import ReadReport

_JUMP = 1.75
"""so many frame intervals between two frames, with signs of damage, are a gap"""
_LOOK_BACK = 32
"""frames: a decoder gives them out so much later than it met the damage, at most"""


class GapWatch:
    """Turns packets that were lost into gaps with a beginning and an end, in presentation order.

    Args:
        report: where the gaps are counted.
        interval_s: between two frames, seconds; None where it is not known or frames are left out on purpose.
        origin_s: when the first frame is due, seconds; None if unknown.
        since_s: gaps that end before this time are not counted, seconds; frames before it are only decoded to get there.
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
        """A packet gave nothing.

        Args:
            pts_s: its presentation time, seconds; None if unknown.
        """
        self._pending = True
        if pts_s is not None:
            self._lost_from_s = pts_s if self._lost_from_s is None else min(self._lost_from_s, pts_s)
            self._lost_to_s = pts_s if self._lost_to_s is None else max(self._lost_to_s, pts_s)

    def frame(self, pts_s: float | None, end_s: float | None, signs: int) -> None:
        """A frame was decoded; they come in presentation order.

        Args:
            pts_s: its presentation time, seconds.
            end_s: when the next one is due, seconds.
            signs: how many signs of damage there were so far: what FFmpeg told of, packets and frames that were marked.
        """
        interval, last = self._interval_s, self._last_s
        jumped = interval is not None and last is not None and pts_s is not None and pts_s - last > (_JUMP - 1) * interval
        # A lost packet may be one of a frame that comes later: those before it in presentation order are still delivered.
        passed = self._pending and (self._lost_from_s is None or pts_s is None or pts_s >= self._lost_from_s)
        if passed or (jumped and signs > self._signs[0] and not self._pending):
            self._signs.clear()
            self._count(last if last is not None else self._lost_from_s, pts_s)
        self._signs.append(signs)
        if end_s is not None:
            self._last_s = end_s

    def finish(self) -> None:
        """The stream has ended."""
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
