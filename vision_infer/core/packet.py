"""Coded pictures as they come from a source, for those who pass them on without decoding them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """What a source sends, as far as it is known when it is opened."""

    codec: str
    """FFmpeg's name: ``h264``, ``hevc``, ``mjpeg``, ``vp8``; ``rawvideo`` where there are pictures and no packets"""
    extradata: bytes = b""
    """parameter sets that may stand outside the packets: Annex B, or avcC/hvcC"""
    size: Size | None = None
    """as coded, pixels; None where it is not known yet"""


@dataclass(frozen=True, slots=True)
class EncodedPacket:
    """One coded picture."""

    data: memoryview
    """the bytes, uint8; they stay as they are for as long as somebody holds this"""
    pts_ns: int | None
    """presentation time, nanoseconds from the stream's own zero, the same as of its frame; None where there is none"""
    key: bool
    """a decoder can begin here"""
    captured_ns: int | None
    """when the picture was taken, monotonic; None where it is not known yet"""
    dts_ns: int | None = None
    """decoding time, nanoseconds from the stream's own zero; None where there is none"""


class PacketTap(Protocol):
    """Is shown what a source reads, on the thread that reads it. No method may block, or fail."""

    def opened(self, video: VideoFormat) -> None:
        """A connection was opened, or the source begins again; what follows has nothing to do with what was before."""
        ...

    def packet(self, packet: EncodedPacket) -> None:
        """A coded picture came, in decoding order; it is not decoded yet."""
        ...

    def frame(self, frame: Frame) -> None:
        """A picture was decoded, in presentation order, however old it is. It may be kept, not changed."""
        ...

    def closed(self) -> None:
        """The connection ended."""
        ...


class Taps:
    """Several taps as one."""

    def __init__(self, *taps: PacketTap) -> None:
        self._taps = taps

    def opened(self, video: VideoFormat) -> None:
        """As of :class:`PacketTap`."""
        for tap in self._taps:
            tap.opened(video)

    def packet(self, packet: EncodedPacket) -> None:
        """As of :class:`PacketTap`."""
        for tap in self._taps:
            tap.packet(packet)

    def frame(self, frame: Frame) -> None:
        """As of :class:`PacketTap`."""
        for tap in self._taps:
            tap.frame(frame)

    def closed(self) -> None:
        """As of :class:`PacketTap`."""
        for tap in self._taps:
            tap.closed()


@runtime_checkable
class Tappable(Protocol):
    """A source that shows what it reads."""

    def show(self, tap: PacketTap) -> None:
        """Show it all to this from now on; called before the first frame is read."""
        ...
