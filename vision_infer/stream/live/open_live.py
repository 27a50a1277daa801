"""Opening a live source once: a camera, a live URL, a device, or a file played in real time; saying why it cannot be done.

Default probing takes one to two seconds, and what it read is delivered first, a second old. RTSP says beforehand what is sent,
so there nothing is probed; where that turns out not to be enough, the source is opened again with default probing. Other
network streams are probed for half a second, and what was probed is thrown away.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import urlsplit

import av
import av.container
from av.codec.hwaccel import HWAccel
from av.video.stream import VideoStream

from vision_infer.config.protocols import PROTOCOLS, url_help
from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.stream.ffmpeg_log import SourceLog
from vision_infer.stream.files.open_video import reason, video_stream
from vision_infer.stream.live.allowed_networks import allowed_address, with_address
from vision_infer.stream.live.guarded_http import GuardedHttp
from vision_infer.stream.redact import redact
from vision_infer.stream.source import LiveOptions, SourceSpec

_FORMATS = "hls,mpegts,mov,matroska,flv,live_flv,mpjpeg,mjpeg,jpeg_pipe,h264,hevc,mpeg,mpegvideo,avi,ogg,aac,mp3,ac3,webvtt"
"""what a web server may send us: no scripts that join other sources, no descriptions that lead elsewhere"""
_SHORT_PROBE = {"fflags": "nobuffer", "analyzeduration": "500000"}
_NO_PROBE = {"fflags": "nobuffer", "analyzeduration": "0", "probesize": "32"}
_NO_PARSER = {**_NO_PROBE, "fflags": "nobuffer+noparse"}
_ASSEMBLED = frozenset({"h264", "hevc"})
_TIME_LEFT = 0.9
"""an opening that failed after this part of its time has timed out, whatever FFmpeg calls it"""
_HELD_BY_PARSERS = {"rtsp": 1, "h264": 1, "hevc": 1, "mpegvideo": 1, "mjpeg": 1, "mpegts": 2}
"""how many packets later one comes out, by format: a parser sees where a picture ends when the next one begins, and an MPEG-TS
demuxer where a packet ends in the same way"""
_PARSED = frozenset({"h264", "hevc", "vvc", "mpeg4", "mpeg1video", "mpeg2video", "h263"})
_UNTIMED = frozenset({"mpjpeg", "mjpeg", "jpeg_pipe", "h264", "hevc", "mpegvideo"})
"""formats without times: FFmpeg counts frames at 25 a second, whatever their rate"""


@dataclass(frozen=True, slots=True)
class Opened:
    """An open container, and how its packets are to be taken."""

    container: av.container.InputContainer
    stream: VideoStream
    kind: str
    held: int
    """packets that come out between a packet's arrival and itself"""
    paced: bool
    """packets come in no time of their own: each waits for its turn"""
    timed: bool
    """packets carry times that mean something"""
    assembled: bool
    """packets are pieces of pictures, which we put together ourselves"""
    web: GuardedHttp | None
    """reads in FFmpeg's place, where it is limited which hosts may be asked"""

    def close(self) -> None:
        """Let go of it."""
        self.container.close()
        if self.web is not None:
            self.web.close()


class _PiecesLog(SourceLog):
    """Passes on what FFmpeg says while it probes, but not that pieces of pictures are no pictures."""

    def __init__(self, log: SourceLog) -> None:
        super().__init__(log.name)
        self._log = log

    def take(self, level: int, text: str) -> None:
        """Pass a line on."""
        if text != "no frame!":
            self._log.take(level, text)


def kind_of(path: str) -> str:
    """What a path or URL is.

    Raises:
        RefusedError: it has a scheme that cannot be opened here.
    """
    if "://" in path and not os.path.lexists(path):
        scheme = path.partition("://")[0].lower()
        protocol = PROTOCOLS.get(scheme)
        if protocol is None or not protocol.ffmpeg:
            raise RefusedError(f"{redact(path)}: cannot be opened", f"use {url_help()}")
        return protocol.kind
    return "device" if path.startswith("/dev/video") else "file"


def open_live(spec: SourceSpec, log: SourceLog, hwaccel: HWAccel | None = None) -> Opened:
    """Open a live source.

    Args:
        spec: its ``live`` says how; the first of its paths is opened.
        log: knows what FFmpeg said.
        hwaccel: what decodes it; None: the CPU.

    Raises:
        RefusedError: it was refused, or sends nothing that can be decoded.
        StreamError: it cannot be opened now.
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


def _probed(path: str, kind: str, spec: SourceSpec, log: SourceLog, web: GuardedHttp | None, hwaccel: HWAccel | None) -> Opened:
    """Open with the shortest probing that tells enough."""
    attempts = [_probing(kind, path, spec.live), {}]
    while True:
        probing = attempts.pop(0)
        container = _open(path, kind, probing, spec, log, web, hwaccel)
        try:
            assembled = probing is _NO_PARSER and _can_be_assembled(container)
            if probing and not (assembled or (probing is not _NO_PARSER and _is_known(container))):
                container.close()
                continue
            stream = _video(container, spec, redact(path), log)
        except BaseException:
            container.close()
            raise
        name, codec = container.format.name, stream.codec_context.name
        held = _HELD_BY_PARSERS.get(name, 0) if codec in _PARSED or name == "mjpeg" else 0
        paced = kind == "file" or name == "hls"
        timed = kind == "file" or name not in _UNTIMED
        return Opened(container, stream, kind, 0 if paced or assembled else held, paced, timed, assembled, web)


def raise_live_error(
    error: Exception, shown: str, log: SourceLog, options: LiveOptions, took_s: float = 0.0, doing: str = "cannot be opened"
) -> NoReturn:
    """Say what it means that a live source cannot be opened, or breaks.

    Args:
        error: the library's.
        shown: the source, without secrets.
        log: knows what FFmpeg said.
        took_s: so long it took to fail, seconds.
        doing: what fails, where there is nothing better to say.

    Raises:
        RefusedError: asking again at once is no use.
        StreamError: else.
    """
    refused, message, hint = _explain(error, log, options, took_s, doing)
    failure = (RefusedError if refused else StreamError)(f"{shown}: {message}", hint)
    if "://" in shown:
        raise failure from None  # the library's error holds the whole URL, and a traceback would show it
    raise failure from error


def _probing(kind: str, path: str, live: LiveOptions) -> dict[str, str]:
    if kind == "rtsp":
        return _NO_PARSER if live.assemble else _NO_PROBE
    if kind in ("file", "device") or urlsplit(path).path.endswith(".m3u8"):
        return {}
    return _SHORT_PROBE


def _web(kind: str, spec: SourceSpec) -> GuardedHttp | None:
    """What opens web addresses where hosts are limited."""
    live = spec.live
    if kind != "http" or not live.allow_networks:
        return None
    return GuardedHttp(live.allow_networks, live.open_timeout_s)


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
    name, format_name = path, None
    if kind == "file":
        name, options["protocol_whitelist"] = f"file:{path}", "file"
    elif kind == "device":
        format_name = "v4l2"
    else:
        options["protocol_whitelist"] = PROTOCOLS[path.partition("://")[0].lower()].ffmpeg
    if kind == "rtsp":
        # Over UDP, a server's answer says where packets are sent to.
        options["rtsp_transport"] = "tcp" if live.allow_networks else live.transport
    elif kind == "http":
        options["format_whitelist"] = _FORMATS
    if web is not None:
        options["http_persistent"] = "0"  # HLS would take our connections for its own, and abort
    elif live.allow_networks:
        name = _pinned(path, kind, live.allow_networks)
        if kind == "rtmp":
            options["rtmp_tcurl"] = _without_credentials(path)
    heard = _PiecesLog(log) if probing is _NO_PARSER else log
    heard.here()
    timeout = (live.open_timeout_s, live.stall_timeout_s)
    began = time.monotonic()
    if web is not None:
        web.allow(live.open_timeout_s)
    try:
        # Names that cameras give their streams are in all sorts of encodings.
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
    finally:
        if heard is not log:
            heard.close()


def _pinned(path: str, kind: str, networks: tuple[str, ...]) -> str:
    """The URL with the address of its host, which was looked at.

    Raises:
        RefusedError: it is not allowed.
    """
    if kind in ("file", "device"):
        raise RefusedError(f"{redact(path)}: is no address in a network", "where networks are limited, nothing else is opened")
    return with_address(path, allowed_address(path, networks))


def _without_credentials(url: str) -> str:
    """What an RTMP server is told that we have come for: its name, and the application, the first part of the path."""
    parts = urlsplit(url)
    application = parts.path.strip("/").partition("/")[0]
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/{application}"


def _is_known(container: av.container.InputContainer) -> bool:
    """Whether all is known that a decoder needs."""
    videos = container.streams.video
    return bool(videos) and all(getattr(one, "codec_context", None) is not None and one.codec_context.width > 0 for one in videos)


def _can_be_assembled(container: av.container.InputContainer) -> bool:
    """Whether its video is of a codec whose pictures we can put together; its size is seen with the first of them."""
    videos = container.streams.video
    return bool(videos) and all(getattr(one, "codec_context", None) and one.codec_context.name in _ASSEMBLED for one in videos)


def _video(container: av.container.InputContainer, spec: SourceSpec, shown: str, log: SourceLog) -> VideoStream:
    """The video track, checked.

    Raises:
        RefusedError: there is none, or none that can be decoded.
    """
    try:
        return video_stream(container, spec.read, shown, log)
    except StreamError as error:
        raise RefusedError(error.message, error.hint) from None


def _explain(error: Exception, log: SourceLog, options: LiveOptions, took_s: float, doing: str) -> tuple[bool, str, str]:
    """Whether it was a refusal, what went wrong, and what to do."""
    timed_out = isinstance(error, av.error.ExitError | TimeoutError) or took_s >= _TIME_LEFT * options.open_timeout_s
    if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
        return True, "refused: wrong user or password, or none", "check the user and the password in its URL"
    if isinstance(error, av.error.HTTPNotFoundError):
        return True, "the server knows no such stream (404)", "check the path of its URL"
    if isinstance(error, av.error.HTTPClientError):
        return True, f"the server refused it: {reason(error)}", "check its URL, and its transport"
    if isinstance(error, av.error.HTTPServerError):
        return False, f"the server failed: {reason(error)}", "look at the server's log"
    if log.said("Failed to resolve hostname"):
        return False, "its host is not known", "check the name, and the DNS of this machine"
    if isinstance(error, ConnectionRefusedError):
        return False, "connection refused: nothing listens there", "is it on, and the port right?"
    if isinstance(error, av.error.ProtocolNotFoundError) and not log.said("not on whitelist"):
        return True, "this build of FFmpeg does not know its protocol", "install a PyAV that was built with it"
    if log.said("not on whitelist", "not in allowed"):
        return True, "leads to something that may not be opened from there", "give the stream itself"
    if timed_out:
        return False, f"did not answer within {options.open_timeout_s:g} s", "is it on, and reachable from here?"
    if isinstance(error, FileNotFoundError):
        return False, "no such file or device", "check the path"
    if isinstance(error, PermissionError):
        return False, "permission denied", "the user that runs this must be able to read it, and no firewall may be in its way"
    if isinstance(error, av.error.InvalidDataError):
        return False, "sends nothing that FFmpeg can read as video", "check that its URL is that of a stream"
    return False, f"{doing}: {reason(error)}", "is the address right, and the server there?"
