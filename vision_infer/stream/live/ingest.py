"""Chooses how a live source is read: RTSP cameras over RTP by this program, and everything else by FFmpeg.

``ingest: auto`` uses FFmpeg for a camera that cannot be read over RTP by this program. It remembers that for ten minutes, because
a bad network may look like a camera that deviates from the protocol.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from contextlib import nullcontext

from av.codec.hwaccel import HWAccel

from vision_infer.core.clock import Clock
from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.stream.ffmpeg_log import SourceLog
from vision_infer.stream.live.live_packets import LivePackets
from vision_infer.stream.live.open_live import kind_of
from vision_infer.stream.live.rtp_packets import RtpPackets
from vision_infer.stream.live.rtsp_stream import UnsupportedByRtpError
from vision_infer.stream.redact import redact
from vision_infer.stream.rtsp.description import DescriptionError
from vision_infer.stream.rtsp.message import RtspSyntaxError
from vision_infer.stream.source import SourceSpec

_MAX_KEPT = 1000
_REMEMBERED_NS = 600_000_000_000
"""The time after which a new connection to a camera that FFmpeg reads is tried over RTP again, nanoseconds."""
_by_ffmpeg: OrderedDict[str, tuple[str, int]] = OrderedDict()
"""Why a camera is read by FFmpeg and until when, monotonic nanoseconds, by its URL. Several threads write it; each operation is
atomic."""
_log = logging.getLogger("vision_infer.stream")


def why_ffmpeg(url: str) -> str:
    """Return why a camera is read by FFmpeg although ``ingest`` is ``auto``, without secrets; empty if it is not."""
    return _by_ffmpeg.get(url, ("", 0))[0]


def open_packets(
    spec: SourceSpec, stopping: threading.Event, clock: Clock, log: SourceLog, hwaccel: HWAccel | None = None
) -> LivePackets | RtpPackets:
    """Open a live source.

    Args:
        spec: The source.
        stopping: No further packet is read once it is set.
        clock: The monotonic and wall clock.
        log: The FFmpeg log of the source.
        hwaccel: The hardware decoder; None to decode on the CPU.

    Raises:
        RefusedError: The server refused the connection, or sends nothing that can be decoded.
        StreamError: The source cannot be opened.
    """
    url, ingest = spec.paths[0], spec.live.ingest
    _, until_ns = _by_ffmpeg.get(url, ("", 0))
    if kind_of(url) != "rtsp" or ingest == "ffmpeg" or (ingest == "auto" and clock.monotonic_ns() < until_ns):
        return LivePackets(spec, stopping, clock, log, hwaccel)

    def failed(message: str) -> None:
        reason = message.removeprefix(f"{redact(url)}: ")
        if ingest == "auto":
            _log.warning("%s: read by FFmpeg from now on: %s", spec.name, reason)
            _by_ffmpeg[url] = reason, clock.monotonic_ns() + _REMEMBERED_NS
            if len(_by_ffmpeg) > _MAX_KEPT:
                _by_ffmpeg.popitem(last=False)

    try:
        by_rtp = RtpPackets(spec, stopping, clock, failed, hwaccel)
        _by_ffmpeg.pop(url, None)
        return by_rtp
    except (UnsupportedByRtpError, RtspSyntaxError, DescriptionError) as error:
        with error.connection if isinstance(error, UnsupportedByRtpError) else nullcontext():
            if ingest == "rtp":
                raise
            try:
                packets = LivePackets(spec, stopping, clock, log, hwaccel)
            except StreamError as other:
                # The next attempt uses only one connection: some cameras accept no second one.
                if isinstance(error, UnsupportedByRtpError) and not isinstance(other, RefusedError):
                    failed(error.message)
                raise
        failed(error.message)  # only now: a camera that starts up may describe nothing
        return packets
