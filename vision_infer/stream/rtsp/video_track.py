"""One video stream: RTP and RTCP packets in, pictures with their times out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from vision_infer.stream.rtsp.depacketize_h264 import H264Depacketizer
from vision_infer.stream.rtsp.depacketize_h265 import H265Depacketizer
from vision_infer.stream.rtsp.depacketize_jpeg import JpegDepacketizer
from vision_infer.stream.rtsp.description import MediaSection
from vision_infer.stream.rtsp.nal_pieces import Depacketizer
from vision_infer.stream.rtsp.picture import Picture, PictureAssembler
from vision_infer.stream.rtsp.rtcp import PLAUSIBLE_S, Goodbye, ReceiverReports, SenderReport, parse_rtcp
from vision_infer.stream.rtsp.rtp import RtpOrder, RtpPacket, RtpTimeline

_DEPACKETIZERS: dict[str, Callable[[], Depacketizer]] = {
    "h264": H264Depacketizer,
    "h265": H265Depacketizer,
    "jpeg": JpegDepacketizer,
}
_SECOND = 1_000_000_000
_UDP_WINDOW = 64
"""The maximum number of packets that wait for a missing one over UDP."""
_REPORT_NS = 5 * _SECOND
"""The interval of receiver reports (RFC 3550, section 6.2)."""


class TimedPicture(NamedTuple):
    """A picture and its time."""

    picture: Picture
    pts_ns: int
    """The presentation time, nanoseconds since the first picture; negative for a B-frame before it."""
    wall_ns: int | None
    """When it was captured by the camera's clock, nanoseconds since 1970, UTC; None before the first sender report."""


def unsupported(media: MediaSection) -> str:
    """Return why a stream cannot be read by :class:`RtpVideoTrack`; empty if it can."""
    if media.codec not in _DEPACKETIZERS:
        return f"the codec {media.codec or 'of the stream'} is not supported over RTP"
    if media.secure:
        return "the packets are encrypted (SRTP)"
    if media.parameters.get("packetization-mode") == "2":
        return "the interleaved mode of H.264 is not supported"
    if media.parameters.get("sprop-max-don-diff", "0") != "0":
        return "decoding order numbers of H.265 are not supported"
    return ""


class RtpVideoTrack:
    """Reads one video stream.

    Args:
        media: The stream, for which :func:`unsupported` returns nothing.
        ssrc: Our own source identifier for receiver reports, random, 32 bits.
        udp: Whether packets may arrive in another order.
    """

    def __init__(self, media: MediaSection, ssrc: int, udp: bool = False) -> None:
        self.order = RtpOrder(media.payload_type, _UDP_WINDOW if udp else 0)
        self.assembler = PictureAssembler(_DEPACKETIZERS[media.codec]())
        self.ended = False
        """Whether the source has said goodbye."""
        self.zero_wall_ns: int | None = None
        """The time of the first picture by the camera's clock, as in :class:`TimedPicture`."""
        self._rate = media.clock_rate
        self._reports = ReceiverReports(ssrc, media.clock_rate)
        self._report: SenderReport | None = None
        self._report_ns: int | None = None
        self._restarts = 0
        self._timeline = RtpTimeline()
        self._zero: int | None = None

    @property
    def deadline_ns(self) -> int | None:
        """When :meth:`expire` must be called, monotonic nanoseconds; None if no packet waits."""
        return self.order.deadline_ns

    def push_rtp(self, data: bytes, now_ns: int) -> list[TimedPicture]:
        """Add an RTP packet; return the pictures that are now complete.

        Args:
            data: The packet.
            now_ns: The time of its arrival, monotonic nanoseconds.
        """
        return self._joined(self.order.push(data, now_ns), now_ns)

    def expire(self, now_ns: int) -> list[TimedPicture]:
        """Give up missing packets whose time is over, and return the pictures that are now complete."""
        return self._joined(self.order.expire(now_ns), now_ns)

    def push_rtcp(self, data: bytes, now_ns: int) -> None:
        """Add an RTCP packet."""
        for found in parse_rtcp(data):
            if isinstance(found, Goodbye):
                self.ended = self.ended or found.ssrc == self.order.ssrc
            # Some cameras send reports of another source: https://github.com/scottlamb/retina/blob/main/CHANGELOG.md
            elif self.order.ssrc in (None, found.ssrc):
                self._report = found if found.wall_ns else None
                self._reports.sender_report(found, now_ns)

    def report(self, now_ns: int) -> bytes | None:
        """Return a receiver report if it is time for one."""
        if self.order.ssrc is None or (self._report_ns is not None and now_ns - self._report_ns < _REPORT_NS):
            return None
        self._report_ns = now_ns
        return self._reports.write(self.order, now_ns)

    def _joined(self, packets: list[tuple[RtpPacket, int]], now_ns: int) -> list[TimedPicture]:
        out: list[TimedPicture] = []
        if self.order.counts.restarts != self._restarts:  # the report was about the times of the previous series
            self._restarts, self._report = self.order.counts.restarts, None
        for packet, lost in packets:
            for picture in self.assembler.push(packet, lost, now_ns):
                self._reports.packet(picture.timestamp, now_ns)
                out.append(self._timed(picture))
        return out

    def _timed(self, picture: Picture) -> TimedPicture:
        extended = self._timeline.extend(picture.timestamp)
        if self._zero is None:
            self._zero = extended
        wall_ns = None
        if self._report is not None:
            since = ((picture.timestamp - self._report.timestamp + 0x80000000) & 0xFFFFFFFF) - 0x80000000
            if abs(since) <= PLAUSIBLE_S * self._rate:
                wall_ns = self._report.wall_ns + since * _SECOND // self._rate
        pts_ns = (extended - self._zero) * _SECOND // self._rate
        self.zero_wall_ns = None if wall_ns is None else wall_ns - pts_ns
        return TimedPicture(picture, pts_ns, wall_ns)
