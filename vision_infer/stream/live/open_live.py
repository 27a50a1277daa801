"""Opens a live source: a camera, a live URL, a device, or a file that is played in real time; explains why it cannot be opened.

FFmpeg's default probing takes one to two seconds and then delivers what it has read, a second old. RTSP announces its streams in
the SDP, so nothing is probed there; if the SDP is not sufficient, the source is opened again with default probing. Other network
streams are probed for half a second, and the probed packets are discarded.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from fractions import Fraction
from urllib.parse import urlsplit

import av
import av.container
from av.codec.hwaccel import HWAccel
from av.video.stream import VideoStream

from vision_infer.config.secrets.credentials import with_login
from vision_infer.config.stream_url import PROTOCOLS, url_help
from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.stream.ffmpeg_log import SourceLog
from vision_infer.stream.files.open_video import video_stream
from vision_infer.stream.live.allowed_networks import allowed_address, with_address
from vision_infer.stream.live.guarded_http import GuardedHttp
from vision_infer.stream.live.live_errors import raise_live_error
from vision_infer.stream.redact import redact
from vision_infer.stream.source import SourceSpec

_FORMATS = "hls,mpegts,mov,matroska,flv,live_flv,mpjpeg,mjpeg,jpeg_pipe,h264,hevc,mpeg,mpegvideo,avi,ogg,aac,mp3,ac3,webvtt"
"""The formats that a web server may send: no playlists that join other sources, and no descriptions that lead elsewhere."""
# Options of https://ffmpeg.org/ffmpeg-formats.html#Format-Options
_SHORT_PROBE = {"fflags": "nobuffer", "analyzeduration": "500000"}
_NO_PROBE = {"fflags": "nobuffer", "analyzeduration": "0", "probesize": "32"}
_HELD_BY_PARSERS = {"rtsp": 1, "h264": 1, "hevc": 1, "mpegvideo": 1, "mjpeg": 1, "mpegts": 2}
"""The number of packets by which each format delays its output: a parser finds the end of a frame when the next one begins, and
the MPEG-TS demuxer finds the end of a packet in the same way."""
_PARSED = frozenset({"h264", "hevc", "vvc", "mpeg4", "mpeg1video", "mpeg2video", "h263"})
_MAX_TRACKS = 64
"""The maximum number of tracks: each takes memory in FFmpeg, and an SDP can announce thousands."""
_UNTIMED = frozenset({"mpjpeg", "mjpeg", "jpeg_pipe", "h264", "hevc", "mpegvideo"})
"""The formats without timestamps: FFmpeg counts frames at 25 per second, whatever their rate."""


@dataclass(frozen=True, slots=True)
class OpenedStream:
    """An open container, and how its packets are read."""

    container: av.container.InputContainer
    stream: VideoStream
    kind: str
    format: str
    """FFmpeg's name of the format; ``rtp`` if this program reads it."""
    frame_rate: Fraction | None
    """The frame rate that the source announces, frames/s; None if it announces none."""
    held: int
    """The number of packets by which the demuxer delays its output."""
    paced: bool
    """Whether packets do not arrive in real time, so that each waits until it is due."""
    timed: bool
    """Whether the packets have valid timestamps."""
    web: GuardedHttp | None
    """The HTTP client that reads in place of FFmpeg if the allowed networks are limited."""

    def close(self) -> None:
        """Close it."""
        self.container.close()
        if self.web is not None:
            self.web.close()


def kind_of(path: str) -> str:
    """Return the kind of source that a path or URL names.

    Raises:
        RefusedError: Its scheme is not supported.
    """
    if "://" in path and not os.path.lexists(path):
        scheme = path.partition("://")[0].lower()
        protocol = PROTOCOLS.get(scheme)
        if protocol is None or not protocol.ffmpeg:
            raise RefusedError(f"{redact(path)}: the scheme is not supported", f"Use {url_help()}.")
        return protocol.kind
    return "device" if path.startswith("/dev/video") else "file"


def open_live(spec: SourceSpec, log: SourceLog, hwaccel: HWAccel | None = None) -> OpenedStream:
    """Open a live source.

    Args:
        spec: The source: the first of its paths is opened with its ``live`` options.
        log: The FFmpeg log of the source.
        hwaccel: The hardware decoder; None to decode on the CPU.

    Raises:
        RefusedError: The server refused the connection, or sends nothing that can be decoded.
        StreamError: The source cannot be opened now.
    """
    path = spec.paths[0]
    kind = kind_of(path)
    web = _web(kind, spec)
    try:
        return _probed(path, kind, spec, log, web, hwaccel)
    except BaseException:
        if web is not None:
            web.close()
        raise


def _probed(
    path: str, kind: str, spec: SourceSpec, log: SourceLog, web: GuardedHttp | None, hwaccel: HWAccel | None
) -> OpenedStream:
    """Open a source with the shortest probing that finds its video."""
    # 1. Try the short probing that fits the kind of source, then FFmpeg's default.
    attempts = [_probing(kind, path), {}]
    while True:
        probing = attempts.pop(0)
        container = _open(path, kind, probing, spec, log, web, hwaccel)
        try:
            # 2. If a decoder would miss something, open it again.
            if len(container.streams) > _MAX_TRACKS:
                hint = "Use a URL of a single camera."
                raise RefusedError(
                    f"{redact(path)}: has {len(container.streams)} tracks; at most {_MAX_TRACKS} are supported", hint
                )
            if probing and not _is_known(container):
                container.close()
                continue
            stream = _video(container, spec, redact(path), log)
        except BaseException:
            container.close()
            raise
        # 3. How packets are read follows from the format: see OpenedStream.
        name, codec = container.format.name, stream.codec_context.name
        held = _HELD_BY_PARSERS.get(name, 0) if codec in _PARSED or name == "mjpeg" else 0
        paced = kind == "file" or name == "hls"
        timed = kind == "file" or name not in _UNTIMED
        rate = stream.average_rate or stream.base_rate
        return OpenedStream(container, stream, kind, name, rate, 0 if paced else held, paced, timed, web)


def _probing(kind: str, path: str) -> dict[str, str]:
    if kind == "rtsp":
        return _NO_PROBE
    if kind in ("file", "device") or urlsplit(path).path.endswith(".m3u8"):
        return {}
    return _SHORT_PROBE


def _web(kind: str, spec: SourceSpec) -> GuardedHttp | None:
    """Return the HTTP client that checks each host, if the allowed networks are limited."""
    live = spec.live
    if kind != "http" or not live.allow_networks:
        return None
    return GuardedHttp(live.allow_networks, live.open_timeout_s, live.credentials)


def _open(
    path: str,
    kind: str,
    probing: dict[str, str],
    spec: SourceSpec,
    log: SourceLog,
    web: GuardedHttp | None,
    hwaccel: HWAccel | None,
) -> av.container.InputContainer:
    live = spec.live
    options = {"max_pixels": str(spec.read.max_pixels), **probing}
    name, format_name = with_login(path, live.credentials), None
    if kind == "file":
        name, options["protocol_whitelist"] = f"file:{path}", "file"
    elif kind == "device":
        format_name = "v4l2"
    else:
        options["protocol_whitelist"] = PROTOCOLS[path.partition("://")[0].lower()].ffmpeg
    if kind == "rtsp":
        # Over UDP, the answer of the server chooses the address that packets are sent to (RFC 2326, section 12.39).
        options["rtsp_transport"] = "tcp" if live.allow_networks else live.transport
        if not live.audio:
            options["allowed_media_types"] = "video"  # the camera does not send the sound
    elif kind == "http":
        options["format_whitelist"] = _FORMATS
    if web is not None:
        options["http_persistent"] = "0"  # the HLS demuxer would treat our connections as its own, and abort
    elif live.allow_networks:
        name = _pinned(name, kind, live.allow_networks)
        if kind == "rtmp":
            options["rtmp_tcurl"] = _tc_url(path)
    log.use_thread()
    timeout = (live.open_timeout_s, live.stall_timeout_s)
    began = time.monotonic()
    if web is not None:
        web.allow(live.open_timeout_s)
    try:
        # Cameras name their streams in all sorts of encodings; do not fail on invalid UTF-8.
        return av.open(
            name,
            format=format_name,
            options=options,
            timeout=timeout,
            io_open=web,
            hwaccel=hwaccel,
            metadata_errors="replace",
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise_live_error(error, redact(path), log, live, time.monotonic() - began)


def _pinned(path: str, kind: str, networks: tuple[str, ...]) -> str:
    """Return the URL with the checked address of its host in place of the host name.

    Raises:
        RefusedError: The host is not allowed.
    """
    if kind in ("file", "device"):
        raise RefusedError(f"{redact(path)}: not a network address", "only network addresses are allowed (allow_networks)")
    return with_address(path, allowed_address(path, networks))


def _tc_url(url: str) -> str:
    """Return RTMP's tcUrl: the server and the application, which is the first part of the path, without credentials."""
    parts = urlsplit(url)
    application = parts.path.strip("/").partition("/")[0]
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/{application}"


def _is_known(container: av.container.InputContainer) -> bool:
    """Return whether everything that a decoder needs is known."""
    videos = container.streams.video
    return bool(videos) and all(getattr(video, "codec_context", None) and video.codec_context.width > 0 for video in videos)


def _video(container: av.container.InputContainer, spec: SourceSpec, shown: str, log: SourceLog) -> VideoStream:
    """Return the video track.

    Raises:
        RefusedError: There is none, or it cannot be decoded.
    """
    try:
        return video_stream(container, spec.read, shown, log)
    except StreamError as error:
        raise RefusedError(error.message, error.hint) from None
