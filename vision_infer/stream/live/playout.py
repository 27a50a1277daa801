"""Schedules frames that do not arrive in real time: those of a file that is played in real time, and of HLS, whose segments
arrive in bursts of seconds.

A frame is due at its presentation time on a clock that starts with the first frame. If a frame arrives after it is due although
the reader was waiting for it, the buffer had run empty: the clock is delayed by the difference, which remains as a reserve. If it
arrives late because this process was slow, the clock continues, and frames are late as they would be with a camera.
"""

from __future__ import annotations

MS = 1_000_000
SECOND = 1_000_000_000

_JUMP_NS = SECOND
"""The maximum step between timestamps. After a larger one, or one backwards, times continue where they ended."""


class Playout:
    """The due times of the frames of one connection, computed from its packets in decoding order.

    Args:
        interval_ns: The frame interval that the stream announces; used where timestamps jump or are missing.
        jump_ns: The maximum step forward between timestamps.
    """

    def __init__(self, interval_ns: int, jump_ns: int = _JUMP_NS) -> None:
        self._interval_ns = interval_ns
        self._jump_ns = max(jump_ns, 2 * interval_ns)
        self._base_ns: int | None = None
        self._latest_ns: int | None = None
        """The decoding time of the last packet."""
        self._due_ns = 0

    def packet_due(self, dts_ns: int | None, now_ns: int, waited: bool) -> int:
        """Return when a packet is to be decoded, monotonic nanoseconds; never before the previous packet.

        Args:
            dts_ns: Its decoding time, or without B-frames its presentation time; None if it has none.
            now_ns: The time at which it was read.
            waited: Whether the read had to wait for it.
        """
        if self._base_ns is None:
            due = now_ns
        elif dts_ns is None or self._latest_ns is None:
            due = self._due_ns + self._interval_ns
        else:  # a jump continues at the announced rate
            advance = dts_ns - self._latest_ns
            jumped = advance < 0 or advance > self._jump_ns
            due = self._due_ns + self._interval_ns if jumped else self._base_ns + dts_ns
        if waited and due < now_ns:  # the buffer was empty: delay the clock
            due = now_ns
        self._due_ns = max(due, self._due_ns)
        if dts_ns is not None:
            self._base_ns, self._latest_ns = self._due_ns - dts_ns, dts_ns
        elif self._base_ns is None:
            self._base_ns = now_ns
        return self._due_ns

    def frame_due(self, pts_ns: int | None) -> int:
        """Return when a decoded frame is due, monotonic nanoseconds; without a PTS, when its last packet was due.

        With B-frames, the frames that the decoder still holds at the end are output before they are due.
        """
        if pts_ns is None or self._base_ns is None or self._latest_ns is None:
            return self._due_ns
        return self._base_ns + pts_ns
