"""Encoded frames as a source reads them, for consumers that do not decode them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size


@dataclass(frozen=True, slots=True)
class SoundFormat:
    """The format of the sound next to a video, as far as it is known when the source is opened."""

    codec: str
    """The codec by FFmpeg's name: ``aac``, ``opus``, ``pcm_mulaw``, ``pcm_alaw``."""
    rate: int
    """The sample rate, Hz; 0 if it is not known yet."""
    channels: int
    """The number of channels; 0 if it is not known yet."""
    extradata: bytes = b""
    """What a decoder needs besides the packets, for example the AudioSpecificConfig of AAC."""


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """The video format of a source, as far as it is known when the source is opened."""

    codec: str
    """The codec by FFmpeg's name: ``h264``, ``hevc``, ``mjpeg``, ``vp8``; ``rawvideo`` for sources of frames without packets."""
    extradata: bytes = b""
    """The parameter sets outside the packets: Annex B, or avcC/hvcC."""
    size: Size | None = None
    """The coded size, pixels; None if it is not known yet."""
    sound: SoundFormat | None = None
    """The sound next to the video; None if there is none, or it is not read."""


@dataclass(frozen=True, slots=True)
class EncodedPacket:
    """An encoded frame."""

    data: memoryview
    """The bytes, uint8; they do not change while a reference to the packet exists."""
    pts_ns: int | None
    """The presentation time, nanoseconds from the zero of the stream, as of its frame; None if there is none."""
    key: bool
    """Whether a decoder can begin here."""
    captured_ns: int | None
    """The capture time, monotonic, nanoseconds; None if it is not known yet."""
    dts_ns: int | None = None
    """The decoding time, nanoseconds from the zero of the stream; None if there is none."""
    payloads: tuple[bytes, ...] = ()
    """The RTP payloads in which the frame arrived; empty if it was not read over RTP, or if they are not exactly this frame."""


@dataclass(frozen=True, slots=True)
class SoundPacket:
    """A packet of sound."""

    data: memoryview
    """The bytes, uint8; they do not change while a reference to the packet exists."""
    pts_ns: int
    """The presentation time, nanoseconds from the zero of the stream, as that of frames."""


class PacketTap(Protocol):
    """Receives what a source reads, on the thread that reads it. No method may block or raise."""

    def opened(self, video: VideoFormat) -> None:
        """Handle a new connection, or a restart of the source; what follows is unrelated to what came before."""
        ...

    def packet(self, packet: EncodedPacket) -> None:
        """Handle an encoded frame, in decoding order, before it is decoded."""
        ...

    def frame(self, frame: Frame) -> None:
        """Handle a decoded frame, in presentation order and of any age. It may be kept, but not changed."""
        ...

    def sound(self, packet: SoundPacket) -> None:
        """Handle a packet of sound. It arrives while :meth:`wants_sound` returns True."""
        ...

    def wants_sound(self) -> bool:
        """Return whether sound is wanted now; called with each video packet. While no tap wants it, the demuxer drops it."""
        ...

    def closed(self) -> None:
        """Handle the end of the connection."""
        ...


class Taps:
    """Passes everything on to several taps."""

    def __init__(self, *taps: PacketTap) -> None:
        self._taps = taps

    def opened(self, video: VideoFormat) -> None:
        """Pass it on; see :class:`PacketTap`."""
        for tap in self._taps:
            tap.opened(video)

    def packet(self, packet: EncodedPacket) -> None:
        """Pass it on; see :class:`PacketTap`."""
        for tap in self._taps:
            tap.packet(packet)

    def frame(self, frame: Frame) -> None:
        """Pass it on; see :class:`PacketTap`."""
        for tap in self._taps:
            tap.frame(frame)

    def sound(self, packet: SoundPacket) -> None:
        """Pass it on; see :class:`PacketTap`."""
        for tap in self._taps:
            tap.sound(packet)

    def wants_sound(self) -> bool:
        """Return whether one of the taps wants sound."""
        return any(tap.wants_sound() for tap in self._taps)

    def closed(self) -> None:
        """Pass it on; see :class:`PacketTap`."""
        for tap in self._taps:
            tap.closed()


@runtime_checkable
class Tappable(Protocol):
    """A source that passes on what it reads."""

    def show(self, tap: PacketTap) -> None:
        """Pass everything on to this tap; called before the first frame is read."""
        ...
