"""One stream of sound: RTP packets in, encoded packets with their times out.

G.711, G.722 and Opus are sent one packet each (RFC 3551, RFC 7587), AAC in access units with a table (RFC 3640).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from vision_infer.stream.rtsp.description import MediaSection
from vision_infer.stream.rtsp.rtcp import PLAUSIBLE_S, SenderReport, parse_rtcp
from vision_infer.stream.rtsp.rtp import RtpOrder, RtpPacket, RtpTimeline

CODECS = {"pcmu": "pcm_mulaw", "pcma": "pcm_alaw", "g722": "adpcm_g722", "opus": "opus", "mpeg4-generic": "aac"}
"""The codecs by their name in SDP, and FFmpeg's names."""
_SECOND = 1_000_000_000
_UDP_WINDOW = 16
_AAC_SAMPLES = 1024
"""The number of samples of an access unit of AAC."""
_DURATION = re.compile(r"[1-9]\d{0,4}", re.ASCII)
_MAX_UNIT = 16_384
"""The maximum size of an access unit, bytes."""


class TimedSound(NamedTuple):
    """A packet of sound."""

    data: bytes
    since_ns: int
    """The time since the first packet, nanoseconds."""
    wall_ns: int | None
    """The time by the camera's clock, nanoseconds since 1970, UTC; None before the first sender report."""


def unsupported_sound(media: MediaSection) -> str:
    """Return why sound cannot be read by :class:`RtpSoundTrack`; empty if it can."""
    if media.codec not in CODECS:
        return f"the sound's codec {media.codec or ''} is not supported over RTP".replace("  ", " ")
    if media.secure:
        return "the sound is encrypted (SRTP)"
    if media.codec == "mpeg4-generic" and (_header_bits(media) not in (8, 16) or not media.audio_config()):
        return "this mode of AAC is not supported over RTP"
    return ""


class RtpSoundTrack:
    """Reads one stream of sound.

    Args:
        media: The stream, for which :func:`unsupported_sound` returns nothing.
        udp: Whether packets may arrive in another order.
    """

    def __init__(self, media: MediaSection, udp: bool = False) -> None:
        self.order = RtpOrder(media.payload_type, _UDP_WINDOW if udp else 0)
        self._rate = media.clock_rate
        self._aac = media.codec == "mpeg4-generic"
        self._header_size = _header_bits(media) // 8 if self._aac else 0
        self._index_bits = int(media.parameters.get("indexlength") or 0) if self._aac else 0
        duration = media.parameters.get("constantduration", "")
        self._unit_duration = int(duration) if _DURATION.fullmatch(duration) else _AAC_SAMPLES
        """The duration of an access unit in units of the clock rate: twice the number of samples for HE-AAC."""
        self._restarts = 0
        self._timeline = RtpTimeline()
        self._zero: int | None = None
        self._report: SenderReport | None = None
        self._parts: list[bytes] = []
        """The parts of an access unit that does not fit into a packet."""

    def push_rtp(self, data: bytes, now_ns: int) -> list[TimedSound]:
        """Add an RTP packet; return what is now complete.

        Args:
            data: The packet.
            now_ns: The time of its arrival, monotonic nanoseconds.
        """
        packets = self.order.expire(now_ns) + self.order.push(data, now_ns)
        if self.order.counts.restarts != self._restarts:  # the report was about the times of the previous series
            self._restarts, self._report = self.order.counts.restarts, None
        return [found for packet, lost in packets for found in self._packet(packet, lost)]

    def push_rtcp(self, data: bytes) -> None:
        """Add an RTCP packet."""
        for found in parse_rtcp(data):
            if isinstance(found, SenderReport) and found.wall_ns and self.order.ssrc in (None, found.ssrc):
                self._report = found

    def _packet(self, packet: RtpPacket, lost: int) -> Iterator[TimedSound]:
        if lost:
            self._parts.clear()
        if not self._aac:
            if packet.begin < packet.end:
                yield self._timed(packet.data[packet.begin : packet.end], packet.timestamp)
            return
        for place, unit in enumerate(self._units(packet)):
            yield self._timed(unit, packet.timestamp + place * self._unit_duration & 0xFFFFFFFF)

    def _units(self, packet: RtpPacket) -> Iterator[bytes]:
        """Yield the complete access units of a packet (RFC 3640, section 3.2)."""
        data, at, end = packet.data, packet.begin, packet.end
        if at + 2 > end:
            return
        table = (data[at] << 8 | data[at + 1]) + 7 >> 3
        begin, at = at + 2, at + 2 + table
        sizes = [
            int.from_bytes(data[place : place + self._header_size], "big") >> self._index_bits
            for place in range(begin, min(at, end) - self._header_size + 1, self._header_size)
        ]
        if len(sizes) == 1 and (self._parts or sizes[0] > end - at):
            self._parts.append(data[at:end])
            size = sum(map(len, self._parts))
            if size >= sizes[0] or packet.marker or size > _MAX_UNIT:
                unit = b"".join(self._parts)
                self._parts.clear()
                if unit and len(unit) == sizes[0]:
                    yield unit
            return
        for size in sizes:
            if not 0 < size <= end - at:
                return
            yield data[at : at + size]
            at += size

    def _timed(self, data: bytes, timestamp: int) -> TimedSound:
        extended = self._timeline.extend(timestamp)
        if self._zero is None:
            self._zero = extended
        wall_ns = None
        if self._report is not None:
            since = ((timestamp - self._report.timestamp + 0x80000000) & 0xFFFFFFFF) - 0x80000000
            if abs(since) <= PLAUSIBLE_S * self._rate:
                wall_ns = self._report.wall_ns + since * _SECOND // self._rate
        return TimedSound(data, (extended - self._zero) * _SECOND // self._rate, wall_ns)


def _header_bits(media: MediaSection) -> int:
    """Return the size of an entry of the table; 0 if it varies or is invalid."""
    values = [media.parameters.get(name, "0") for name in ("sizelength", "indexlength", "indexdeltalength")]
    if not all(value.isascii() and value.isdigit() and len(value) < 3 for value in values):
        return 0
    size, index, delta = map(int, values)
    other = any(
        media.parameters.get(name, "0") != "0" for name in ("ctsdeltalength", "dtsdeltalength", "auxiliarydatasizelength")
    )
    return size + index if size and index == delta and not other else 0
