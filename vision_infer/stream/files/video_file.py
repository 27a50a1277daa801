"""A video file read through FFmpeg: a local file, standard input, or a file behind a URL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType

import av
from av.packet import Packet
from av.video.stream import VideoStream

from vision_infer.core.errors import StreamError
from vision_infer.core.frame import Frame
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
from vision_infer.stream.files.video_info import frame_s, packet_s, start_s, video_info
from vision_infer.stream.nvdec import Decoding
from vision_infer.stream.orientation import Orientations
from vision_infer.stream.redact import redact
from vision_infer.stream.source import ReadReport, SourceSpec, StreamInfo

_SAME_TIME_S = 1e-6
_STEPS_BACK_S = (0.0, 1.0, 10.0)
"""The distances before the start at which a key frame is looked for, seconds: the index of a container may be inexact or
wrong."""


class VideoFileSource:
    """A video file.

    Args:
        spec: The file, the name of its stream, and the part that is read.
        decode_threads: The number of decoder threads.

    Raises:
        StreamError: The file is missing, unreadable, empty or not a video, or has no such video track.
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
            self._origin_s = start_s(self._stream)
            self.info = self._with_decoder(video_info(self._container, self._stream, spec))
        except BaseException:
            self._log.close()
            raise
        if self.info.interlaced:
            self._warn_interlaced()

    def frames(self) -> Iterator[Frame]:
        """Yield the requested frames that can be decoded, in presentation order."""
        read, name, report = self.spec.read, self.spec.name, self.report
        index, orientations = read.first_index, Orientations()
        end_s = begin_s = None
        position, damaged = None, False
        for decoded, pts_s, next_s in self._decoded():
            if pts_s is not None:
                if begin_s is None:  # the first known time
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
            raise StreamError(f"{self._shown}: no frame could be decoded", "the file is damaged or truncated")
        if begin_s is None and (read.start_s or read.end_s is not None):
            self._no_times(index - read.first_index)
        if index == read.first_index:
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
        # Stop the decoder's threads before PyAV frees it: see ffmpeg_log.
        self._stream.codec_context.flush_buffers()
        self._container.close()

    def _range(self, first_s: float) -> tuple[float, float | None]:
        """Return the times of the first requested frame and of the first one after the range, seconds on the stream's own
        clock."""
        read = self.spec.read
        origin = first_s if self._origin_s is None else self._origin_s
        return origin + read.start_s, None if read.end_s is None else origin + read.end_s

    def _decoded(self) -> Iterator[tuple[av.VideoFrame, float | None, float | None]]:
        """Yield each frame from the first one that is decoded, with its presentation time and the time of the next, seconds."""
        read = self.spec.read
        # 1. Start at the last key frame before --start. Damage before it is not counted, nor damage before --start itself.
        first = self._seek() if read.start_s else None
        since_s = self._range(0.0)[0] if read.start_s and self._origin_s is not None else None
        watch = GapWatch(self.report, self._interval_s, None if first else self._origin_s, since_s)
        times = self._ordered_times()
        count = skip = 0  # the number of frames so far, and of those that are not yielded again after a restart
        while True:
            # 2. Read a packet. The last one is empty: it makes the decoder return the frames that it still holds.
            packet, first = (first or self._next_packet()), None
            if packet is None:
                watch.finish()
                return
            if read.keyframes_only and packet.size and not packet.is_keyframe:
                continue
            if packet.size:
                self._marked += packet.is_corrupt and not skip
                self._last_is_partial = packet.is_corrupt
                if times is not None:
                    times.sent(packet.pts)
            # 3. Decode. A packet that cannot be decoded is a gap, not the end.
            try:
                decoded = self._decode(packet)
            except av.error.InvalidDataError:
                if self._log.contains("max pixel count"):
                    raise too_many_pixels("later images", read, self._shown) from None
                if not skip:
                    watch.lost(packet_s(packet))
                if times is not None:
                    times.lost(packet.pts)
                continue
            except EOFError:  # the decoder was flushed already
                watch.finish()
                return
            except av.error.FFmpegError as error:
                first = self._restart_on_cpu(error)
                times, count, skip = self._ordered_times(), 0, count
                continue
            # 4. Yield the frames with their times; gaps between them are counted once there are signs of damage.
            for frame in decoded:
                self._seen = True
                if times is not None:
                    frame.pts = times.of(frame.pts, frame.key_frame)
                count += 1
                if skip:
                    skip -= 1
                    continue
                pts_s = frame_s(frame)
                next_s = self._next_s(frame, pts_s)
                self._marked += frame.is_corrupt
                watch.frame(pts_s, next_s, self._log.errors + self._marked)
                yield frame, pts_s, next_s

    def _decode(self, packet: Packet[VideoStream]) -> list[av.VideoFrame]:
        """Decode a packet; a GPU that another thread has found lost is an error of FFmpeg as well."""
        self._log.use_thread()
        decoded = packet.decode()
        if self._decoding.is_lost:
            raise av.error.ExternalError(av.error.tag_to_code(b"EXT "), "the GPU is lost")
        return decoded

    def _ordered_times(self) -> OrderedTimes | None:
        """AVI has no presentation times: they are restored from the order of the frames."""
        return OrderedTimes() if self._container.format.name == "avi" and self._stream.codec_context.has_b_frames else None

    def _next_s(self, frame: av.VideoFrame, pts_s: float | None) -> float | None:
        if pts_s is None:
            return None
        duration = frame.duration
        return pts_s + (duration * self._base_s if duration else self._interval_s or 0.0)

    def _next_packet(self) -> Packet[VideoStream] | None:
        self._log.use_thread()
        try:
            return next(self._packets, None)
        except (av.error.FFmpegError, OSError) as error:
            failure = self._read_error(error)
            if is_url(self._path):
                raise failure from None  # the library's error holds the whole URL, and a traceback would show it
            raise failure from error

    def _read_error(self, error: Exception) -> StreamError:
        if isinstance(error, av.error.ExitError):
            return StreamError(f"{self._shown}: the server stopped sending", "Try again, or download the file first.")
        if not can_open_again(self._path) and not self._seen and self._log.contains("partial file"):
            return StreamError(
                f"{self._shown}: the index (moov) is at the end, and this source cannot seek",
                "Remux it with -movflags +faststart, or read it as a file.",
            )
        return StreamError(f"{self._shown}: reading stopped: {reason(error)}", "the file may be damaged or truncated")

    def _restart_on_cpu(self, error: av.error.FFmpegError) -> Packet[VideoStream] | None:
        """Open the file again on the CPU, if the GPU decoder failed; returns the first packet as :meth:`_seek` does.

        Raises:
            StreamError: The failure has another reason, or the source cannot be opened again.
        """
        if not can_open_again(self._path) or not self._decoding.failed(reason(error)):
            raise StreamError(f"{self._shown}: decoding stopped: {reason(error)}", "the file may be damaged") from error
        self._close()
        self._open()
        return self._seek() if self.spec.read.start_s else None

    def _seek(self) -> Packet[VideoStream] | None:
        """Seek to the last key frame from which all requested frames can be decoded, and return its packet.

        Returns None, and reads from the beginning, if this is not possible: standard input, a server without range requests, or a
        container without timestamps.
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
                key_s = packet_s(packet)
                if key_s is not None and key_s <= begin_s + _SAME_TIME_S:
                    return packet
        self._close()
        self._open()
        return None

    def _check_end(self, position_s: float | None, damaged: bool) -> None:
        """Warn if the stream ended too early.

        Args:
            position_s: The end of the last frame, seconds.
            damaged: Whether the last frame is damaged.
        """
        if position_s is None or self._origin_s is None:
            return
        at, duration = position_s - self._origin_s, self.info.duration_s
        cut = damaged or self._last_is_partial or self._log.contains("ended prematurely", "partial file")
        if duration is None or at >= duration:
            if cut:
                self.report.warn(f"is truncated at {at:.2f} s")
            return
        # A container's duration is that of its longest track, so it is less exact than the duration of the video track.
        if self._stream.duration is not None or not self.info.has_audio:
            slack = max(0.02 * duration, 3 * (self._interval_s or 1.0))
        else:
            slack = max(0.05 * duration, 1.0)
        # Some containers count their duration from zero, even if the stream starts later.
        short = max(at, position_s) < duration - slack
        if cut or (short and not self.spec.read.keyframes_only):
            self.report.warn(f"ends at {at:.2f} s of {duration:.2f} s: truncated, or its header is wrong")

    def _no_times(self, delivered: int) -> None:
        if not delivered:
            raise StreamError(f"{self._shown}: its frames have no timestamps", "Read it without --start, or remux it.")
        self.report.warn("its frames have no timestamps: it was read to the end")

    def _warn_interlaced(self) -> None:
        self.report.warn("is interlaced: its fields are not separated, so moving edges look combed")

    def _length(self) -> str:
        return "an unknown time" if self.info.duration_s is None else f"{self.info.duration_s:.2f} s"
