"""When is it a picture's turn? For what comes in no time of its own: a file that is played in real time, HLS, whose segments come
in bursts of seconds.

A picture is due at its presentation time on a clock that starts with the first one. Where the next one comes after its turn and
we were waiting for it, the buffer was empty, and the clock is set back by so much: from then on there is that much in reserve.
Where it comes after its turn because *we* were slow, the clock goes on, and pictures are late: what a camera would do to us too.
"""

from __future__ import annotations

MS = 1_000_000
SECOND = 1_000_000_000

_JUMP_NS = SECOND
"""timestamps that go back at all, or forth by more than this, begin anew where the last ended"""


class Playout:
    """The turn of each picture of one connection, from packets in decoding order.

    Args:
        interval_ns: between two pictures, as the stream says; taken where timestamps jump, or there are none.
        jump_ns: timestamps that go forth by more are taken for a new beginning.
    """

    def __init__(self, interval_ns: int, jump_ns: int = _JUMP_NS) -> None:
        self._interval_ns = interval_ns
        self._jump_ns = max(jump_ns, 2 * interval_ns)
        self._base_ns: int | None = None
        self._latest_ns: int | None = None
        """decoding time of the last packet"""
        self._due_ns = 0

    def packet_due(self, dts_ns: int | None, now_ns: int, waited: bool) -> int:
        """When a packet is to be decoded, monotonic nanoseconds; never before the one before it.

        Args:
            dts_ns: its decoding time (or its presentation time, where there are no B-frames); None where it has none.
            now_ns: when it was read.
            waited: it was not there yet when we asked for it.
        """
        if self._base_ns is None:
            due = now_ns
        elif dts_ns is None or self._latest_ns is None:
            due = self._due_ns + self._interval_ns
        else:
            advance = dts_ns - self._latest_ns
            jumped = advance < 0 or advance > self._jump_ns
            due = self._due_ns + self._interval_ns if jumped else self._base_ns + dts_ns
        if waited and due < now_ns:
            due = now_ns
        self._due_ns = max(due, self._due_ns)
        if dts_ns is not None:
            self._base_ns, self._latest_ns = self._due_ns - dts_ns, dts_ns
        elif self._base_ns is None:
            self._base_ns = now_ns
        return self._due_ns

    def picture_due(self, pts_ns: int | None) -> int:
        """When it is a decoded picture's turn, monotonic nanoseconds: that of its last packet where it has no time.

        With B-frames, what the decoder still holds at the end comes out before its time.
        """
        if pts_ns is None or self._base_ns is None or self._latest_ns is None:
            return self._due_ns
        return self._base_ns + pts_ns
