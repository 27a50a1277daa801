"""Opens a video: a file, standard input, or a file behind a URL; explains why it cannot be opened."""

from __future__ import annotations

import os
from typing import NoReturn

import av
import av.container
from av.codec.hwaccel import HWAccel
from av.stream import Disposition
from av.video.stream import VideoStream

from vision_infer.core.errors import StreamError
from vision_infer.stream.ffmpeg_log import SourceLog
from vision_infer.stream.redact import redact
from vision_infer.stream.source import ReadOptions

STANDARD_INPUT = "-"
HTTP_TIMEOUT_S = 15.0
"""The maximum time that a server may send no data, seconds."""

PROGRESSIVE = 1
"""The highest of libavcodec's field orders that is not interlaced: 0 is unknown, 1 progressive."""
_WHOLE = "is it a video file, and whole?"
_INTACT = "Check that it is a video file, and complete."


def is_url(path: str) -> bool:
    """Return whether a path is a URL that can be opened."""
    return path.lower().startswith(("http://", "https://"))


def can_open_again(path: str) -> bool:
    """Return whether a second reader can open it and seek. Standard input is read once; a server is not asked twice."""
    return path != STANDARD_INPUT and not is_url(path)


def open_video(path: str, read: ReadOptions, log: SourceLog, hwaccel: HWAccel | None = None) -> av.container.InputContainer:
    """Open a container.

    Args:
        path: A file, a URL, or ``-``.
        read: The read options; ``max_pixels`` also limits what FFmpeg decodes while it probes.
        log: The FFmpeg log of the source.
        hwaccel: The hardware decoder; None to decode on the CPU.

    Raises:
        StreamError: The file is missing, unreadable, empty or not a video. The message names it, without a password.
    """
    shown = redact(path)
    # A playlist or a redirect must not lead to another kind of source than the user named.
    name, protocols, timeout = f"file:{path}", "file", None
    if path == STANDARD_INPUT:
        name, protocols, shown = "pipe:0", "pipe", "standard input"
    elif is_url(path):
        name, protocols, timeout = path, "http,https,tcp,tls,crypto", HTTP_TIMEOUT_S
    elif "://" in path and not os.path.lexists(path):
        raise StreamError(f"{shown}: no such file", "Only http:// and https:// URLs can be opened here.")
    log.use_thread()
    try:
        if timeout is None and os.path.isfile(path) and os.path.getsize(path) == 0:
            raise StreamError(f"{shown}: the file is empty", "Use a file that contains video.")
        options = {"protocol_whitelist": protocols, "max_pixels": str(read.max_pixels)}
        if timeout is not None:
            # Without this option, FFmpeg 8.1 asks a server to close the connection but sends its next request over it anyway if
            # the response does not confirm that: a seek fails, and frames are lost without an error.
            # https://ffmpeg.org/ffmpeg-protocols.html#http
            options["multiple_requests"] = "1"
        # Titles are in all sorts of encodings; do not fail on invalid UTF-8.
        return av.open(name, options=options, timeout=timeout, hwaccel=hwaccel, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise_open_error(error, shown, log)


def raise_open_error(error: Exception, shown: str, log: SourceLog) -> NoReturn:
    """Raise the error that explains why a container cannot be opened.

    Raises:
        StreamError: Always.
    """
    message, hint = _explain(error, shown, log)
    failure = StreamError(f"{shown}: {message}", hint)
    if "://" in shown:
        # The library's error holds the whole URL, and a traceback would show it.
        raise failure from None
    raise failure from error


def video_stream(container: av.container.InputContainer, read: ReadOptions, shown: str, log: SourceLog) -> VideoStream:
    """Return the selected video track.

    Raises:
        StreamError: There is no video, no such track or no decoder, or the images are too large.
    """
    # FFmpeg treats the cover image of a song as a video track.
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        content = "only audio" if container.streams.audio else "no video"
        hint = "Use a URL that leads to video." if "://" in shown else "Use a file that contains video."
        raise StreamError(f"{shown}: it contains {content}", hint)
    if read.track_index >= len(streams):
        content = "1 video track" if len(streams) == 1 else f"{len(streams)} video tracks"
        raise StreamError(
            f"{shown}: no video track {read.track_index}: it has {content}", f"Set --track-index to 0–{len(streams) - 1}."
        )
    stream = streams[read.track_index]
    if getattr(stream, "codec_context", None) is None:
        raise StreamError(f"{shown}: no decoder for its video", "Convert it with ffmpeg to H.264, H.265, VP9 or AV1.")
    context = stream.codec_context
    check_pixels(context.width, context.height, read, shown)
    if not context.width and log.contains("max pixel count"):
        raise too_many_pixels("images", read, shown)
    return stream


def check_pixels(width: int, height: int, read: ReadOptions, shown: str) -> None:
    """Reject images that are too large.

    Raises:
        StreamError: They are; the message gives their size.
    """
    if width * height > read.max_pixels:
        raise too_many_pixels(f"images of {width}x{height}", read, shown)


def too_many_pixels(what: str, read: ReadOptions, shown: str) -> StreamError:
    """Return the error for images that are too large."""
    hint = "Use a smaller stream of the camera; for files, raise --max-pixels if you trust the source."
    return StreamError(f"{shown}: {what} exceed the limit of {read.max_pixels} pixels", hint)


def reason(error: Exception) -> str:
    """Return the text of a library's error, without its name and number."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _explain(error: Exception, path: str, log: SourceLog) -> tuple[str, str]:
    """Return what failed, and what to do."""
    if isinstance(error, StreamError):
        return error.message, error.hint
    if isinstance(error, av.error.HTTPClientError | av.error.HTTPServerError):
        return f"the server rejected the request: {reason(error)}", "Check the URL, and whether it needs a password."
    if isinstance(error, av.error.ExitError):
        return f"the server sent no data for {HTTP_TIMEOUT_S:g} s", "Try again later."
    if isinstance(error, FileNotFoundError):
        return "no such file", "Check the path."
    if isinstance(error, IsADirectoryError):
        return "it is a folder", "Name the folder without a trailing file name."
    if isinstance(error, PermissionError):
        return "permission denied", "Make the file readable."
    if isinstance(error, av.error.ProtocolNotFoundError) or log.contains("not on whitelist"):
        return "it leads to a protocol or format that is not allowed", "Use the video itself."
    if log.contains("moov atom not found"):
        return (
            "FFmpeg cannot read it as video: an MP4 without an index (moov)",
            "It is truncated, or its index is at the end and this source cannot seek. Remux it with -movflags +faststart.",
        )
    if isinstance(error, av.error.InvalidDataError):
        return "FFmpeg cannot read it as video", _INTACT
    hint = "Check the address and the server." if is_url(path) else _INTACT
    return f"cannot be opened: {reason(error)}", hint
