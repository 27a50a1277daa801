"""A video file, through FFmpeg."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import av
import av.container
from av.stream import Disposition
from av.video.stream import VideoStream

from vision_infer.core.errors import StreamError
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.core.trace import Trace
from vision_infer.stream.picture import VideoPicture
from vision_infer.stream.redact import redact
from vision_infer.stream.source import SourceSpec, StreamInfo


class VideoFileSource:
    """A file, decoded in software.

    Args:
        spec: the file, and the name of its stream.
        decode_threads: threads of the decoder.

    Raises:
        StreamError: the file is missing, unreadable, empty, no video, or holds no video stream.
    """

    live = False

    def __init__(self, spec: SourceSpec, decode_threads: int = 1) -> None:
        self.spec = spec
        self.gaps = 0
        self._shown = redact(spec.paths[0])
        self._container = _open(spec.paths[0], self._shown)
        try:
            self._stream = _video_stream(self._container, self._shown)
            context = self._stream.codec_context
            context.thread_count = decode_threads
            context.thread_type = "AUTO" if decode_threads > 1 else "NONE"
            self.info = _info(self._container, self._stream)
        except BaseException:
            self._container.close()
            raise

    def frames(self) -> Iterator[Frame]:
        """All frames that can be decoded, in presentation order."""
        name = self.spec.name
        index = 0
        for decoded in self._decode():
            time = decoded.time
            yield Frame(name, index, None if time is None else float(time), VideoPicture(decoded), Trace())
            index += 1
        if index == 0:
            raise StreamError(
                f"{self._shown}: no frame could be decoded", "the file is damaged, or cut off before its first frame"
            )

    def _decode(self) -> Iterator[av.VideoFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.error.FFmpegError, OSError) as error:
                raise StreamError(
                    f"{self._shown}: reading stopped: {_reason(error)}", "the file may be damaged or cut off"
                ) from error
            try:
                decoded = packet.decode()
            except av.error.InvalidDataError:
                self.gaps += 1
                continue
            except av.error.FFmpegError as error:
                raise StreamError(f"{self._shown}: decoding stopped: {_reason(error)}", "the file may be damaged") from error
            for frame in decoded:
                if isinstance(frame, av.VideoFrame):
                    yield frame

    def __enter__(self) -> VideoFileSource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._container.close()


def _open(path: str, shown: str) -> av.container.InputContainer:
    try:
        if os.path.isfile(path) and os.path.getsize(path) == 0:
            raise StreamError(f"{shown}: the file is empty", "give a file with video in it")
        # "file:" so that a name with a colon is no protocol; a playlist inside a file may name files only, not hosts.
        return av.open(f"file:{Path(path)}", options={"protocol_whitelist": "file"})
    except FileNotFoundError as error:
        raise StreamError(f"{shown}: no such file", "check the path") from error
    except IsADirectoryError as error:
        raise StreamError(f"{shown}: is a folder", "give a folder without a trailing file name") from error
    except PermissionError as error:
        raise StreamError(f"{shown}: permission denied", "make the file readable") from error
    except av.error.InvalidDataError as error:
        raise StreamError(f"{shown}: no video that FFmpeg can read", "is it a video file, and whole?") from error
    except (av.error.FFmpegError, OSError) as error:
        raise StreamError(f"{shown}: cannot be opened: {_reason(error)}", "is it a video file, and whole?") from error


def _video_stream(container: av.container.InputContainer, shown: str) -> VideoStream:
    # The cover picture of a song is a video stream to FFmpeg, but no video.
    streams = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    if not streams:
        held = "only sound" if container.streams.audio else "no video stream"
        raise StreamError(f"{shown}: holds {held}", "give a file with video in it")
    stream = streams[0]
    if getattr(stream, "codec_context", None) is None:
        raise StreamError(f"{shown}: no decoder for its video", "convert it with ffmpeg to H.264, H.265, VP9 or AV1")
    return stream


def _info(container: av.container.InputContainer, stream: VideoStream) -> StreamInfo:
    duration = None
    if stream.duration is not None and stream.time_base is not None:
        duration = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        duration = container.duration / av.time_base
    rate = stream.average_rate or stream.base_rate
    frames: int | None = stream.frames or None
    if frames is None and duration is not None and rate:
        frames = round(duration * rate)
    context = stream.codec_context
    return StreamInfo(
        size=Size(context.width, context.height) if context.width and context.height else None,
        frames=frames,
        duration_s=duration,
        frame_rate=rate,
        time_base=stream.time_base,
        codec=context.name,
        has_audio=bool(container.streams.audio),
    )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
