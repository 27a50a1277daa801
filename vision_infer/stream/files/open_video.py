"""Opening a video: a file, standard input, or a file behind a URL; and saying why it cannot be done."""

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
"""how long a server may say nothing"""

_WHOLE = "is it a video file, and whole?"


def is_url(path: str) -> bool:
    """Whether this is a URL that can be opened."""
    return path.lower().startswith(("http://", "https://"))


def can_open_again(path: str) -> bool:
    """Whether a second reader can open it, and seek: standard input is read once, and a server is not asked twice."""
    return path != STANDARD_INPUT and not is_url(path)


def open_video(path: str, read: ReadOptions, log: SourceLog, hwaccel: HWAccel | None = None) -> av.container.InputContainer:
    """Open a container.

    Args:
        path: a file, a URL, or ``-``.
        read: its ``max_pixels`` holds for what FFmpeg decodes to find out what is there, too.
        log: knows what FFmpeg said.
        hwaccel: what decodes it; None: the CPU.

    Raises:
        StreamError: it is missing, unreadable, empty or no video; names it, without a password.
    """
    shown = redact(path)
    # A playlist, or a server that sends us elsewhere, may not name what is not of the kind that the user named.
    name, protocols, timeout = f"file:{path}", "file", None
    if path == STANDARD_INPUT:
        name, protocols, shown = "pipe:0", "pipe", "standard input"
    elif is_url(path):
        name, protocols, timeout = path, "http,https,tcp,tls,crypto", HTTP_TIMEOUT_S
    elif "://" in path and not os.path.lexists(path):
        raise StreamError(f"{shown}: no such file", "only http:// and https:// URLs can be opened here")
    log.here()
    try:
        if timeout is None and os.path.isfile(path) and os.path.getsize(path) == 0:
            raise StreamError(f"{shown}: the file is empty", "give a file with video in it")
        options = {"protocol_whitelist": protocols, "max_pixels": str(read.max_pixels)}
        if timeout is not None:
            # Without it FFmpeg 8.1 asks a server to close the connection and, where the answer does not confirm that, sends its
            # next request over it all the same: a seek fails, and frames are lost without an error.
            options["multiple_requests"] = "1"
        # Titles are in all sorts of encodings.
        return av.open(name, options=options, timeout=timeout, hwaccel=hwaccel, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise_open_error(error, shown, log)


def raise_open_error(error: Exception, shown: str, log: SourceLog) -> NoReturn:
    """Say what it means that a container cannot be opened.

    Raises:
        StreamError: always.
    """
    message, hint = _explain(error, shown, log)
    failure = StreamError(f"{shown}: {message}", hint)
    if "://" in shown:
        # The library's error holds the whole URL, and a traceback would show it.
        raise failure from None
    raise failure from error


def video_stream(container: av.container.InputContainer, read: ReadOptions, shown: str, log: SourceLog) -> VideoStream:
    """The video track that is wanted, checked.

    Raises:
        StreamError: there is no video, no such track, no decoder, or its pictures are too large.
    """
    # The cover picture of a song is a video stream to FFmpeg, but no video.
    streams = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    if not streams:
        held = "only sound" if container.streams.audio else "no video stream"
        hint = "give a URL that leads to video" if "://" in shown else "give a file with video in it"
        raise StreamError(f"{shown}: holds {held}", hint)
    if read.track_index >= len(streams):
        held = "1 video track" if len(streams) == 1 else f"{len(streams)} video tracks"
        raise StreamError(
            f"{shown}: has no video track {read.track_index}: it holds {held}", f"give --track-index 0 to {len(streams) - 1}"
        )
    stream = streams[read.track_index]
    if getattr(stream, "codec_context", None) is None:
        raise StreamError(f"{shown}: no decoder for its video", "convert it with ffmpeg to H.264, H.265, VP9 or AV1")
    context = stream.codec_context
    check_pixels(context.width, context.height, read, shown)
    if not context.width and log.said("max pixel count"):
        raise too_many_pixels("pictures", read, shown)
    return stream


def check_pixels(width: int, height: int, read: ReadOptions, shown: str) -> None:
    """Refuse pictures that are too large.

    Raises:
        StreamError: they are; says how large.
    """
    if width * height > read.max_pixels:
        raise too_many_pixels(f"pictures of {width}x{height}", read, shown)


def too_many_pixels(what: str, read: ReadOptions, shown: str) -> StreamError:
    """The error that refuses a picture."""
    return StreamError(f"{shown}: {what} are larger than {read.max_pixels} pixels", "if you trust it, raise --max-pixels")


def reason(error: Exception) -> str:
    """What a library's error says, without its name and its numbers."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _explain(error: Exception, path: str, log: SourceLog) -> tuple[str, str]:
    """What went wrong, and what to do."""
    if isinstance(error, StreamError):
        return error.message, error.hint
    if isinstance(error, av.error.HTTPClientError | av.error.HTTPServerError):
        return f"the server refused it: {reason(error)}", "check the URL, and whether it wants a password"
    if isinstance(error, av.error.ExitError):
        return f"the server sent nothing for {HTTP_TIMEOUT_S:g} s", "try again later"
    if isinstance(error, FileNotFoundError):
        return "no such file", "check the path"
    if isinstance(error, IsADirectoryError):
        return "is a folder", "give a folder without a trailing file name"
    if isinstance(error, PermissionError):
        return "permission denied", "make the file readable"
    if isinstance(error, av.error.ProtocolNotFoundError) or log.said("not on whitelist"):
        return "names something that may not be opened from there", "give the video itself"
    if log.said("moov atom not found"):
        return (
            "no video that FFmpeg can read: an MP4 without its index (moov)",
            "it was cut off, or its index is at its end and cannot be reached here: make it anew with -movflags +faststart",
        )
    if isinstance(error, av.error.InvalidDataError):
        return "no video that FFmpeg can read", _WHOLE
    hint = "is the address right, and the server there?" if is_url(path) else _WHOLE
    return f"cannot be opened: {reason(error)}", hint
