"""A video through FFmpeg: a file, standard input, or a file behind a URL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType

import av
from av.packet import Packet
from av.video.stream import VideoStream

from vision_infer.core.errors import StreamError
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.core.trace import Trace
from vision_infer.stream.ffmpeg_log import SourceLog
from vision_infer.stream.files.gap_watch import GapWatch
from vision_infer.stream.files.open_video import (
    STANDARD_INPUT,
    can_open_again,
    is_url,
    open_video,
    reason,
    too_many_pixels,
    video_stream,
)
from vision_infer.stream.files.ordered_times import OrderedTimes
from vision_infer.stream.nvdec import Decoding
from vision_infer.stream.orientation import Orientations
from vision_infer.stream.redact import redact
from vision_infer.stream.source import ReadOptions, ReadReport, SourceSpec, StreamInfo

_SAME_TIME_S = 1e-6
_STEPS_BACK_S = (0.0, 1.0, 10.0)
"""how much earlier than wanted to look for a key frame: containers are not exact, and some are wrong"""
_PROGRESSIVE = 1
"""libavcodec's field orders: 0 is unknown, 1 progressive, the others interlaced"""


class VideoFileSource:
    """A video.

    Args:
        spec: the video, the name of its stream, and which part is read.
        decode_threads: threads of the decoder.

    Raises:
        StreamError: it is missing, unreadable, empty, no video, or holds no such video stream.
    """

    def __init__(self, spec: SourceSpec, decode_threads: int = 1) -> None:
        self.spec = spec
        self.report = ReadReport()
        self._path = spec.paths[0]
        self._shown = "standard input" if self._path == STANDARD_INPUT else redact(self._path)
        self._threads = decode_threads
        self._seen = False
        self._marked = 0
        self._last_is_partial = False
        self._log = SourceLog(spec.name)
        self._decoding = Decoding(spec, self.report)
        try:
            self._open()
            self._origin_s = _start_s(self._stream)
            self.info = self._with_decoder(_info(self._container, self._stream, spec))
        except BaseException:
            self._log.close()
            raise
        if self.info.interlaced:
            self._warn_interlaced()

    def frames(self) -> Iterator[Frame]:
        """The frames that are wanted and can be decoded, in presentation order."""
        read, name, report = self.spec.read, self.spec.name, self.report
        index, orientations = 0, Orientations()
        end_s = begin_s = None
        position, damaged = None, False
        for decoded, pts_s, next_s in self._decoded():
            if pts_s is not None:
                if begin_s is None:  # the first time that is known
                    begin_s, end_s = self._range(pts_s)
                if end_s is not None and pts_s >= end_s - _SAME_TIME_S:
                    break
            if read.start_s and (pts_s is None or (begin_s is not None and pts_s < begin_s - _SAME_TIME_S)):
                continue
            damaged = decoded.is_corrupt
            report.damaged += damaged
            if decoded.interlaced_frame and not self.info.interlaced:
                self.info = replace(self.info, interlaced=True)
                self._warn_interlaced()
            position = next_s
            image = self._decoding.image(decoded, orientations.of(decoded))
            if self.info.decoder != self._decoding.where:
                self.info = self._with_decoder(self.info)
            yield Frame(name, index, pts_s, image, Trace(), damaged=damaged)
            index += 1
        else:
            self._check_end(position, damaged)
        if not self._seen:
            raise StreamError(
                f"{self._shown}: no frame could be decoded", "the file is damaged, or cut off before its first frame"
            )
        if begin_s is None and (read.start_s or read.end_s is not None):
            self._no_times(index)
        if not index:
            raise StreamError(f"{self._shown}: no frame between --start and --end", f"it ends at {self._length()}")

    def __enter__(self) -> VideoFileSource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()
        self._log.close()

    def _open(self) -> None:
        read = self.spec.read
        self._container = open_video(self._path, read, self._log, self._decoding.hwaccel)
        try:
            self._stream = video_stream(self._container, read, self._shown, self._log)
            context = self._stream.codec_context
            context.thread_count = self._threads
            context.thread_type = "AUTO" if self._threads > 1 else "NONE"
            context.options = {"max_pixels": str(read.max_pixels)}
            if read.keyframes_only:
                context.skip_frame = "NONKEY"
            self._decoding.opened(context)
        except BaseException:
            self._container.close()
            raise
        self._packets = self._container.demux(self._stream)
        rate = self._stream.average_rate or self._stream.base_rate
        self._base_s = float(self._stream.time_base or 0)
        self._interval_s = float(1 / rate) if rate and not read.keyframes_only else None

    def _with_decoder(self, info: StreamInfo) -> StreamInfo:
        return replace(info, decoder=self._decoding.where, decoder_bytes=self._decoding.bytes)

    def _close(self) -> None:
        # The decoder's threads come to rest before PyAV frees it: see ffmpeg_log.
        self._stream.codec_context.flush_buffers()
        self._container.close()

    def _range(self, first_s: float) -> tuple[float, float | None]:
        """The times of the first frame that is wanted and the first that is not, seconds on the stream's own clock."""
        read = self.spec.read
        origin = first_s if self._origin_s is None else self._origin_s
        return origin + read.start_s, None if read.end_s is None else origin + read.end_s

    def _decoded(self) -> Iterator[tuple[av.VideoFrame, float | None, float | None]]:
        """Every frame from the one where decoding begins, its presentation time, and when the next is due, seconds."""
        read = self.spec.read
        first = self._seek() if read.start_s else None
        since_s = self._range(0.0)[0] if read.start_s and self._origin_s is not None else None
        watch = GapWatch(self.report, self._interval_s, None if first else self._origin_s, since_s)
        times = OrderedTimes() if self._container.format.name == "avi" and self._stream.codec_context.has_b_frames else None
        while True:
            packet, first = (first or self._next_packet()), None
            if packet is None:
                watch.finish()
                return
            if read.keyframes_only and packet.size and not packet.is_keyframe:
                continue
            if packet.size:
                self._marked += packet.is_corrupt
                self._last_is_partial = packet.is_corrupt
                if times is not None:
                    times.sent(packet.pts)
            self._log.here()
            try:
                decoded = packet.decode()
            except av.error.InvalidDataError:
                if self._log.said("max pixel count"):
                    raise too_many_pixels("pictures further on", read, self._shown) from None
                watch.lost(_packet_s(packet))
                if times is not None:
                    times.lost(packet.pts)
                continue
            except EOFError:  # the decoder was flushed already
                watch.finish()
                return
            except av.error.FFmpegError as error:
                if can_open_again(self._path) and self._decoding.failed(reason(error)):
                    self._close()
                    self._open()
                    first = self._seek() if read.start_s else None
                    continue
                raise StreamError(f"{self._shown}: decoding stopped: {reason(error)}", "the file may be damaged") from error
            for frame in decoded:
                self._seen = True
                if times is not None:
                    frame.pts = times.of(frame.pts, frame.key_frame)
                pts_s = _pts_s(frame)
                next_s = self._next_s(frame, pts_s)
                self._marked += frame.is_corrupt
                watch.frame(pts_s, next_s, self._log.errors + self._marked)
                yield frame, pts_s, next_s

    def _next_s(self, frame: av.VideoFrame, pts_s: float | None) -> float | None:
        if pts_s is None:
            return None
        duration = frame.duration
        return pts_s + (duration * self._base_s if duration else self._interval_s or 0.0)

    def _next_packet(self) -> Packet[VideoStream] | None:
        self._log.here()
        try:
            return next(self._packets, None)
        except (av.error.FFmpegError, OSError) as error:
            failure = self._read_error(error)
            if is_url(self._path):
                raise failure from None  # the library's error holds the whole URL, and a traceback would show it
            raise failure from error

    def _read_error(self, error: Exception) -> StreamError:
        if isinstance(error, av.error.ExitError):
            return StreamError(f"{self._shown}: the server stopped sending", "try again, or download it first")
        if not can_open_again(self._path) and not self._seen and self._log.said("partial file"):
            return StreamError(
                f"{self._shown}: its index is at its end, and we cannot go back there",
                "make it anew with -movflags +faststart, or give it as a file",
            )
        return StreamError(f"{self._shown}: reading stopped: {reason(error)}", "the file may be damaged or cut off")

    def _seek(self) -> Packet[VideoStream] | None:
        """Go to the last key frame from which all wanted frames can be decoded; returns its packet.

        Where that cannot be found (standard input, a server without ranges, a container without times) reading begins at the
        beginning, and None is returned.
        """
        base = self._stream.time_base
        if self._path == STANDARD_INPUT or self._origin_s is None or base is None:
            return None
        begin_s = self._range(0.0)[0]
        for back_s in _STEPS_BACK_S:
            if begin_s - back_s <= self._origin_s:
                break
            try:
                self._container.seek(int((begin_s - back_s) / base), stream=self._stream)
                self._packets = self._container.demux(self._stream)
                packet = self._next_packet()
                while packet is not None and packet.size and not packet.is_keyframe:
                    packet = self._next_packet()
            except (av.error.FFmpegError, OSError, StreamError):
                break
            if packet is not None and packet.size:
                key_s = _packet_s(packet)
                if key_s is not None and key_s <= begin_s + _SAME_TIME_S:
                    return packet
        self._close()
        self._open()
        return None

    def _check_end(self, position_s: float | None, damaged: bool) -> None:
        """Tell of a stream that ends before its time.

        Args:
            position_s: when the last frame ends, seconds.
            damaged: the last frame is.
        """
        if position_s is None or self._origin_s is None:
            return
        at, duration = position_s - self._origin_s, self.info.duration_s
        cut = damaged or self._last_is_partial or self._log.said("ended prematurely", "partial file")
        if duration is None or at >= duration:
            if cut:
                self.report.warn(f"is cut off at {at:.2f} s")
            return
        # The length of a container is that of its longest track; of a track of its own, it is exact.
        if self._stream.duration is not None or not self.info.has_audio:
            slack = max(0.02 * duration, 3 * (self._interval_s or 1.0))
        else:
            slack = max(0.05 * duration, 1.0)
        # Some containers count their length from zero, wherever the stream begins.
        short = max(at, position_s) < duration - slack
        if cut or (short and not self.spec.read.keyframes_only):
            self.report.warn(f"ends at {at:.2f} s of {duration:.2f} s: cut off, or its header is wrong")

    def _no_times(self, delivered: int) -> None:
        if not delivered:
            raise StreamError(f"{self._shown}: its frames have no times", "read it without --start, or put it into a container")
        self.report.warn("its frames have no times: it was read to its end")

    def _warn_interlaced(self) -> None:
        self.report.warn("is interlaced: its fields are not separated, what moves has combed edges")

    def _length(self) -> str:
        return "an unknown time" if self.info.duration_s is None else f"{self.info.duration_s:.2f} s"


def _info(container: av.container.InputContainer, stream: VideoStream, spec: SourceSpec) -> StreamInfo:
    duration = None
    if stream.duration is not None and stream.time_base is not None:
        duration = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        duration = container.duration / av.time_base
    rate = stream.average_rate or stream.base_rate
    context = stream.codec_context
    read = spec.read
    whole = not read.start_s and read.end_s is None and not read.keyframes_only
    return StreamInfo(
        size=Size(context.width, context.height) if context.width and context.height else None,
        frames=_expected_frames(stream, duration, read),
        duration_s=duration,
        frame_rate=rate,
        time_base=stream.time_base,
        codec=context.name,
        has_audio=bool(container.streams.audio) and whole and can_open_again(spec.paths[0]),
        interlaced=context.field_order > _PROGRESSIVE,
        bytes_per_pixel=context.format.padded_bits_per_pixel / 8 if context.format is not None else None,
    )


def _expected_frames(stream: VideoStream, duration: float | None, read: ReadOptions) -> int | None:
    rate = stream.average_rate or stream.base_rate
    if read.keyframes_only:
        return None
    if not read.start_s and read.end_s is None and stream.frames:
        return stream.frames
    if not rate or (duration is None and read.end_s is None):
        return None
    end = min(duration if duration is not None else float("inf"), read.end_s if read.end_s is not None else float("inf"))
    return max(0, round((end - read.start_s) * rate))


def _start_s(stream: VideoStream) -> float | None:
    if stream.start_time is None or stream.time_base is None:
        return None
    return float(stream.start_time * stream.time_base)


def _pts_s(frame: av.VideoFrame) -> float | None:
    """Presentation time, seconds. Where a container gives decoding times only, those: such streams have no B-frames."""
    if frame.pts is not None:
        return frame.time
    dts, base = frame.dts, frame.time_base
    return None if dts is None or base is None else float(dts * base)


def _packet_s(packet: Packet[VideoStream]) -> float | None:
    pts = packet.pts if packet.pts is not None else packet.dts
    return None if pts is None else float(pts * packet.time_base)
