"""What a URL sends, found out before a stream is made of it: codec, size, rate, how soon its first picture comes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction

import av
from av.packet import Packet
from av.video.stream import VideoStream

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import StreamError
from vision_infer.core.geometry import Size
from vision_infer.stream.ffmpeg_log import SourceLog
from vision_infer.stream.live_packets import LivePackets
from vision_infer.stream.redact import redact
from vision_infer.stream.source import LiveOptions, SourceSpec

WATCH_S = 1.5
"""how long pictures are counted after the first"""
LIMIT_S = 12.0
_LEAST_FRAMES = 3
_SECOND = 1_000_000_000
_BROWSER_PROFILES = ("baseline", "main", "high")
_BROWSER_FORMATS = ("yuv420p", "yuvj420p")


@dataclass(frozen=True, slots=True)
class Probe:
    """What a URL sends."""

    codec: str
    profile: str
    """of the codec, as FFmpeg calls it; empty where there is none"""
    size: Size
    """pixels as coded"""
    frame_rate: float | None
    """frames a second: counted, or as the source says where too few came; None where neither tells"""
    opened_ms: float
    """until the server had answered"""
    first_frame_ms: float
    """until the first picture was decoded, opening included"""
    key_interval_s: float | None
    """between two key frames; None where no second one came in this time"""
    b_frames: bool
    """pictures come in another order than they are shown"""
    bit_rate: float | None
    """bits a second while it was watched; None where too little came"""
    not_untouched: str
    """why a browser cannot be sent its packets as they are; empty where it can"""

    @property
    def untouched(self) -> bool:
        """Whether a browser plays its packets as they are, so that nothing has to be encoded for viewers."""
        return not self.not_untouched


@dataclass(slots=True)
class _Seen:
    opened_ns: int
    first_ns: int = 0
    first_pts_ns: int | None = None
    last_pts_ns: int | None = None
    first_key_ns: int | None = None
    key_interval_ns: int | None = None
    frames: int = 0
    packets: int = 0
    size_bytes: int = 0
    b_frames: bool = False
    format: str = ""


def probe(
    url: str,
    live: LiveOptions = LiveOptions(),  # noqa: B008
    *,
    watch_s: float = WATCH_S,
    limit_s: float = LIMIT_S,
    stopping: threading.Event | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Probe:
    """Open a source, look at it for a moment, and close it.

    Args:
        url: as of a stream; ``test://`` too.
        live: how it is read; its ``allow_networks`` hold here as for a stream.
        watch_s: how long pictures are counted after the first one, seconds.
        limit_s: how long all of it may take; opening and each wait for a packet have their own limits below that.
        stopping: set it, and no further packet is read.

    Raises:
        RefusedError: it was refused, or sends nothing that can be decoded.
        StreamError: it cannot be opened, breaks, or sends no picture in this time; says why.
    """
    live = replace(live, open_timeout_s=min(live.open_timeout_s, limit_s), stall_timeout_s=min(live.stall_timeout_s, limit_s))
    spec = SourceSpec("probe", "live", (url,), live=replace(live, assemble=False))
    stopping = stopping or threading.Event()
    with _stopped_after(limit_s, stopping):
        if url.startswith("test://"):
            return _pattern(spec, stopping, clock)
        return _packets(spec, stopping, clock, round(watch_s * _SECOND))


def _packets(spec: SourceSpec, stopping: threading.Event, clock: Clock, watch_ns: int) -> Probe:
    began = clock.monotonic_ns()
    log = SourceLog(spec.name)
    try:
        packets = LivePackets(spec, stopping, clock, log)
        try:
            seen = _Seen(clock.monotonic_ns())
            stream = packets.opened.stream
            stream.codec_context.thread_type = "NONE"
            for packet, times in packets.read():
                now = clock.monotonic_ns()
                if seen.frames and now - seen.first_ns >= watch_ns:
                    break
                _count(seen, packet, times.pts_ns, now)
                for picture in _decoded(packet):
                    if not seen.frames:
                        seen.first_ns, seen.format = clock.monotonic_ns(), picture.format.name
                    seen.frames += 1
                    packets.picture()
            if not seen.frames:
                raise StreamError(f"{redact(spec.paths[0])}: no picture could be decoded in this time", "is it a video stream?")
            return _told(seen, stream, began, clock.monotonic_ns(), packets.opened.timed)
        finally:
            packets.close()
    finally:
        log.close()


def _count(seen: _Seen, packet: Packet[VideoStream], pts_ns: int | None, now_ns: int) -> None:
    if not packet.size:
        return
    seen.packets += 1
    seen.size_bytes += packet.size
    if pts_ns is not None:
        seen.b_frames |= seen.last_pts_ns is not None and pts_ns < seen.last_pts_ns
        seen.first_pts_ns = pts_ns if seen.first_pts_ns is None else seen.first_pts_ns
        seen.last_pts_ns = max(pts_ns, seen.last_pts_ns or pts_ns)
    if packet.is_keyframe:
        moment = now_ns if pts_ns is None else pts_ns
        if seen.first_key_ns is not None and seen.key_interval_ns is None:
            seen.key_interval_ns = moment - seen.first_key_ns
        seen.first_key_ns = moment if seen.first_key_ns is None else seen.first_key_ns


def _decoded(packet: Packet[VideoStream]) -> list[av.VideoFrame]:
    try:
        return packet.decode()
    except (av.error.FFmpegError, EOFError):  # what a decoder makes of the first packets of a stream in its midst
        return []


def _told(seen: _Seen, stream: VideoStream, began_ns: int, ended_ns: int, timed: bool) -> Probe:
    context = stream.codec_context
    said = stream.average_rate or stream.base_rate
    span_ns = 0
    if timed and seen.first_pts_ns is not None and seen.last_pts_ns is not None:
        span_ns = seen.last_pts_ns - seen.first_pts_ns
    elif seen.packets > 1:
        span_ns = ended_ns - seen.first_ns
    counted = seen.packets > _LEAST_FRAMES and span_ns > 0
    b_frames = seen.b_frames or bool(context.has_b_frames)
    profile = str(context.profile or "")
    return Probe(
        codec=context.name,
        profile=profile,
        size=Size(context.width, context.height),
        frame_rate=round((seen.packets - 1) * _SECOND / span_ns, 2) if counted else _rate(said),
        opened_ms=(seen.opened_ns - began_ns) / 1e6,
        first_frame_ms=(seen.first_ns - began_ns) / 1e6,
        key_interval_s=None if seen.key_interval_ns is None else round(seen.key_interval_ns / _SECOND, 3),
        b_frames=b_frames,
        bit_rate=round(seen.size_bytes * 8 * _SECOND / span_ns) if counted else None,
        not_untouched=_obstacle(context.name, profile, seen.format, b_frames),
    )


def _rate(rate: Fraction | None) -> float | None:
    return round(float(rate), 2) if rate else None


def _obstacle(codec: str, profile: str, pixels: str, b_frames: bool) -> str:
    """Why a browser cannot be sent its packets as they are; empty where it can."""
    if codec != "h264":
        return f"browsers do not take {codec} over WebRTC"
    if b_frames:
        return "it has B-frames, which WebRTC does not know"
    if pixels not in _BROWSER_FORMATS:
        return f"browsers do not decode its colours ({pixels})"
    if profile and not any(name in profile.lower() for name in _BROWSER_PROFILES):
        return f"browsers do not decode its profile ({profile})"
    return ""


def _pattern(spec: SourceSpec, stopping: threading.Event, clock: Clock) -> Probe:
    """The built-in camera: what it says of itself holds."""
    from vision_infer.stream.test_pattern import PatternSource

    began = clock.monotonic_ns()
    with PatternSource(spec, stopping, clock) as source:
        opened = clock.monotonic_ns()
        if next(source.frames(), None) is None or source.info.size is None:
            raise StreamError(f"{redact(spec.paths[0])}: no picture came in this time", "try again")
        first = clock.monotonic_ns()
        return Probe(
            codec="pattern",
            profile="",
            size=source.info.size,
            frame_rate=_rate(source.info.frame_rate),
            opened_ms=(opened - began) / 1e6,
            first_frame_ms=(first - began) / 1e6,
            key_interval_s=None,
            b_frames=False,
            bit_rate=None,
            not_untouched="it is drawn here, and has no packets",
        )


@contextmanager
def _stopped_after(seconds: float, stopping: threading.Event) -> Iterator[None]:
    timer = threading.Timer(seconds, stopping.set)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
