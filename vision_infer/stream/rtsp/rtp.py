"""RTP packets, and their order (RFC 3550).

aiortc has a parser for RTP as well. It is not used: aiortc is an optional dependency of the preview, and it creates an object
with lists for each packet, while a camera sends some hundred packets per second.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import NamedTuple

from vision_infer.stream.rtp_counts import RtpCounts

_HEADER = struct.Struct("!BBHII")
_SIZE = _HEADER.size
_EXTENSION = struct.Struct("!H")
_HALF = 0x8000
_MASK = 0xFFFF
_MAX_GAP = 3000
"""The maximum number of consecutive packets that count as lost (MAX_DROPOUT of RFC 3550, appendix A.1)."""
_MISSED_KEPT = 128
_SILENT_NS = 300_000_000
"""The time without a packet of the present source after which another source may take its place, nanoseconds."""
_MAX_HELD = 256
"""The maximum number of packets of another source that are held back."""


class RtpPacket(NamedTuple):
    """An RTP packet. The payload is ``data[begin:end]``."""

    payload_type: int
    marker: bool
    sequence: int
    """The sequence number, 16 bits."""
    timestamp: int
    """The RTP timestamp, 32 bits, in units of the clock rate."""
    ssrc: int
    data: bytes
    begin: int
    end: int


def parse_rtp(data: bytes) -> RtpPacket | None:
    """Parse a packet; return None if it is damaged or not RTP version 2."""
    size = len(data)
    if size < _SIZE:
        return None
    first, second, sequence, timestamp, ssrc = _HEADER.unpack_from(data)
    if first >> 6 != 2:
        return None
    begin, end = _SIZE, size
    if first & 0x3F:  # padding, an extension, or contributing sources
        begin += 4 * (first & 15)
        if first & 0x10:
            if begin + 4 > size:
                return None
            begin += 4 + 4 * _EXTENSION.unpack_from(data, begin + 2)[0]
        if first & 0x20 and begin + data[-1] <= size:  # more padding than payload: the bit was set by mistake
            end -= data[-1]
        if begin > end:
            return None
    return RtpPacket(second & 0x7F, second > 0x7F, sequence, timestamp, ssrc, data, begin, end)


class RtpOrder:
    """Puts the packets of one stream in order, and counts those that are missing.

    Over TCP nothing is reordered, so a gap is a loss at once: servers drop packets when a client reads too slowly. Over UDP, a
    packet after a gap waits until the gap is filled, ``window`` packets wait, or ``wait_ns`` has passed.

    Args:
        payload_type: The payload type of the stream. Others are ignored: some cameras send private packets with the same sequence
            numbers (https://github.com/scottlamb/retina/blob/main/src/client/rtp.rs).
        window: The maximum number of packets that wait for a missing one; 0 for TCP.
        wait_ns: The maximum time that a packet waits, nanoseconds.
    """

    def __init__(self, payload_type: int, window: int = 0, wait_ns: int = 50_000_000) -> None:
        self.counts = RtpCounts()
        self.ssrc: int | None = None
        """The source of the stream; None before its first packet."""
        self.cycles = 0
        """How often the sequence number has wrapped."""
        self._payload_type = payload_type
        self._window = window
        self._wait_ns = wait_ns
        self._next = 0
        self._seen_ns = 0
        self._waiting: dict[int, tuple[RtpPacket, int]] = {}
        self._missed: deque[int] = deque(maxlen=_MISSED_KEPT)
        """The sequence numbers that were counted as lost last."""
        self._held: list[RtpPacket] = []
        """Consecutive packets that may begin a new series."""

    @property
    def highest(self) -> int:
        """The highest sequence number that was passed on, with its cycles: 32 bits (RFC 3550, section 6.4.1)."""
        return ((self.cycles << 16) + self._next - 1) & 0xFFFFFFFF

    @property
    def deadline_ns(self) -> int | None:
        """When :meth:`expire` must be called, monotonic nanoseconds; None if no packet waits."""
        return min(time for _, time in self._waiting.values()) + self._wait_ns if self._waiting else None

    def push(self, data: bytes, now_ns: int) -> list[tuple[RtpPacket, int]]:
        """Add a packet.

        Args:
            data: The packet.
            now_ns: The time of its arrival, monotonic nanoseconds.

        Returns:
            The packets that are now in order, each with the number of packets that are missing before it.
        """
        packet = parse_rtp(data)
        if packet is None:
            self.counts.damaged += 1
            return []
        if packet.payload_type != self._payload_type:
            self.counts.foreign += 1
            return []
        sequence = packet.sequence
        if packet.ssrc == self.ssrc:
            self._seen_ns = now_ns
            if sequence == self._next and not self._waiting:
                self._passed(sequence)
                return [(packet, 0)]
            ahead = (sequence - self._next) & _MASK
            if ahead < _MAX_GAP:
                return self._ahead(packet, ahead, now_ns)
            if ahead >= _HALF and _MASK + 1 - ahead <= max(100, self._window):
                self._behind(sequence)
                return []
        elif sequence == self._next and self.ssrc is not None and not self._waiting:
            # One camera changes its source with each group of pictures: https://github.com/bluenviron/gortsplib/issues/687
            self.ssrc, self._seen_ns = packet.ssrc, now_ns
            self._passed(sequence)
            return [(packet, 0)]
        return self._new_series(packet, now_ns)

    def expire(self, now_ns: int) -> list[tuple[RtpPacket, int]]:
        """Return the packets that have waited long enough, as :meth:`push` does."""
        deadline = self.deadline_ns
        if deadline is None or now_ns < deadline:
            return []
        return self._released(all_of_them=True)

    def _passed(self, sequence: int) -> None:
        self.counts.received += 1
        if self._held:
            self.counts.foreign += len(self._held)
            self._held.clear()
        self._next = (sequence + 1) & _MASK
        if not self._next:
            self.cycles += 1

    def _ahead(self, packet: RtpPacket, ahead: int, now_ns: int) -> list[tuple[RtpPacket, int]]:
        if not self._window:
            self._skip(ahead)
            self._passed(packet.sequence)
            return [(packet, ahead)]
        if packet.sequence in self._waiting:
            self.counts.duplicates += 1
            return []
        self.counts.reordered += any((number - self._next) & _MASK > ahead for number in self._waiting)
        self._waiting[packet.sequence] = packet, now_ns
        return self._released(all_of_them=len(self._waiting) > self._window)

    def _behind(self, sequence: int) -> None:
        """Count a packet that was counted as lost, or passed on before."""
        if sequence in self._missed:
            self._missed.remove(sequence)
            self.counts.late += 1
        else:
            self.counts.duplicates += 1

    def _released(self, all_of_them: bool) -> list[tuple[RtpPacket, int]]:
        """Return the waiting packets up to the first gap, or all of them."""
        out: list[tuple[RtpPacket, int]] = []
        for sequence in sorted(self._waiting, key=lambda number: (number - self._next) & _MASK):
            gap = (sequence - self._next) & _MASK
            if gap and not all_of_them:
                break
            self._skip(gap)
            packet, _ = self._waiting.pop(sequence)
            self._passed(sequence)
            out.append((packet, gap))
        return out

    def _skip(self, gap: int) -> None:
        self.counts.lost += gap
        self._missed.extend((self._next + number) & _MASK for number in range(gap))
        if self._next + gap > _MASK:
            self.cycles += 1
        self._next = (self._next + gap) & _MASK

    def _new_series(self, packet: RtpPacket, now_ns: int) -> list[tuple[RtpPacket, int]]:
        """Start with a packet, or start again after a jump or with another source.

        Two packets in sequence end a jump. Another source has to wait until the present one is silent: some servers send packets
        of an earlier session (https://github.com/scottlamb/retina/issues/17). Until then, its packets are held back.
        """
        held, first, jumped = self._held, self.ssrc is None, packet.ssrc == self.ssrc
        if held and (held[-1].ssrc, (held[-1].sequence + 1) & _MASK) != (packet.ssrc, packet.sequence):
            self.counts.foreign += len(held)
            held.clear()
        held.append(packet)
        silent = jumped or now_ns - self._seen_ns >= _SILENT_NS or len(held) > _MAX_HELD
        if not first and (len(held) < 2 or not silent):
            return []
        self._held = []
        out = self._released(all_of_them=True)
        self.ssrc, self._seen_ns = packet.ssrc, now_ns
        self._missed.clear()
        self._next, self.cycles = held[0].sequence, 0
        for one in held:
            self._passed(one.sequence)
        if not first:
            self.counts.restarts += 1
            self.counts.lost += 1  # the number is unknown
        return out + [(one, int(not first and one is held[0])) for one in held]


class RtpTimeline:
    """Extends 32-bit timestamps, so that they do not wrap."""

    def __init__(self) -> None:
        self._last: int | None = None

    def extend(self, timestamp: int) -> int:
        """Return a timestamp without wrapping. It may be less than the previous one: B-frames go back in time."""
        if self._last is None:
            self._last = timestamp
        else:
            self._last += ((timestamp - self._last + 0x80000000) & 0xFFFFFFFF) - 0x80000000
        return self._last
