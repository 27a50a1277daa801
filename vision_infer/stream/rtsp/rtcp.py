"""RTCP: sender reports, which relate RTP timestamps to the camera's clock, and our receiver reports (RFC 3550, section 6)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from vision_infer.stream.rtsp.rtp import RtpOrder

_HEADER = struct.Struct("!BBH")
_SENDER = struct.Struct("!IQIII")
_SSRC = struct.Struct("!I")
_BLOCK = struct.Struct("!IIIIII")
_SENDER_REPORT, _RECEIVER_REPORT, _SOURCE_DESCRIPTION, _BYE = 200, 201, 202, 203
_NTP_EPOCH_S = 2_208_988_800
"""The seconds from 1900, the epoch of NTP, to 1970."""
_SECOND = 1_000_000_000
PLAUSIBLE_S = 3600
"""The maximum distance of a packet from a sender report, seconds. A larger one means that the report is wrong."""
_MAX_LOST = 0x7FFFFF
_MAX_PACKETS = 64
"""The maximum number of packets of a compound packet that are read."""


class SenderReport(NamedTuple):
    """The time of the camera's clock at an RTP timestamp."""

    ssrc: int
    wall_ns: int
    """Nanoseconds since 1970, UTC; 0 if the camera does not know the time."""
    timestamp: int
    """The RTP timestamp at that time, 32 bits."""
    ntp_middle: int
    """The middle 32 bits of the NTP time, which a receiver report returns."""


class Goodbye(NamedTuple):
    """A source has ended."""

    ssrc: int


def parse_rtcp(data: bytes) -> list[SenderReport | Goodbye]:
    """Return the sender reports and goodbyes of a compound packet. What follows a damaged part is ignored."""
    found: list[SenderReport | Goodbye] = []
    at = 0
    for _ in range(_MAX_PACKETS):
        if at + _HEADER.size > len(data):
            break
        first, kind, words = _HEADER.unpack_from(data, at)
        end = at + 4 + 4 * words
        if first >> 6 != 2 or end > len(data):
            break
        if kind == _SENDER_REPORT and end - at >= 4 + _SENDER.size:
            ssrc, ntp, timestamp, _, _ = _SENDER.unpack_from(data, at + 4)
            found.append(SenderReport(ssrc, _wall_ns(ntp), timestamp, ntp >> 16 & 0xFFFFFFFF))
        elif kind == _BYE:
            found += [Goodbye(_SSRC.unpack_from(data, at + 4 + 4 * place)[0]) for place in range(min(first & 31, words))]
        at = end
    return found


def _wall_ns(ntp: int) -> int:
    seconds = (ntp >> 32) - _NTP_EPOCH_S
    return max(0, seconds * _SECOND + ((ntp & 0xFFFFFFFF) * _SECOND >> 32)) if ntp else 0


class ReceiverReports:
    """Writes the receiver reports of one stream: some servers end a session without them.

    Args:
        ssrc: Our own source identifier, random, 32 bits.
        clock_rate: The units of an RTP timestamp per second.
    """

    def __init__(self, ssrc: int, clock_rate: int) -> None:
        self._ssrc = ssrc
        self._rate = clock_rate
        self._jitter = 0.0
        self._transit: int | None = None
        self._expected = self._received = 0
        self._report: tuple[SenderReport, int] | None = None

    def packet(self, timestamp: int, now_ns: int) -> None:
        """Note a packet for the jitter (RFC 3550, appendix A.8). One packet per picture is sufficient."""
        transit = (now_ns * self._rate // _SECOND - timestamp) & 0xFFFFFFFF
        if self._transit is not None:
            change = ((transit - self._transit + 0x80000000) & 0xFFFFFFFF) - 0x80000000
            self._jitter += (abs(change) - self._jitter) / 16
        self._transit = transit

    def sender_report(self, report: SenderReport, now_ns: int) -> None:
        """Note a sender report."""
        self._report = report, now_ns

    def write(self, order: RtpOrder, now_ns: int) -> bytes:
        """Return a compound packet: a receiver report and our name, which is the same for all users.

        Args:
            order: The stream.
            now_ns: The present time, monotonic nanoseconds.
        """
        received = order.counts.received
        lost = max(0, order.counts.lost - order.counts.late)
        expected = received + lost
        recent = expected - self._expected
        missing = max(0, recent - (received - self._received))
        self._expected, self._received = expected, received
        fraction = min(255, missing * 256 // recent) if recent > 0 else 0
        middle = since = 0
        if self._report is not None:
            report, at_ns = self._report
            middle, since = report.ntp_middle, min(0xFFFFFFFF, max(0, now_ns - at_ns) * 65536 // _SECOND)
        jitter = min(0xFFFFFFFF, int(self._jitter))
        block = _BLOCK.pack(order.ssrc or 0, fraction << 24 | min(lost, _MAX_LOST), order.highest, jitter, middle, since)
        name = b"\x01\x0cvision-infer\0\0"
        words = 1 + len(name) // 4
        return b"".join(
            (
                _HEADER.pack(0x81, _RECEIVER_REPORT, 7),
                _SSRC.pack(self._ssrc),
                block,
                _HEADER.pack(0x81, _SOURCE_DESCRIPTION, words),
                _SSRC.pack(self._ssrc),
                name,
            )
        )
