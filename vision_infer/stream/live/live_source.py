"""A live source through FFmpeg: one connection to a camera or server, or a file that is played in real time.

What it yields is worth inferring: frames that are too old are counted and not delivered, and what a stall, a burst or a decoder
that cannot keep up leaves behind is decoded or left out by :mod:`vision_infer.stream.live.backlog`. A connection that breaks ends
``frames()``, or raises; to connect again is up to whoever reads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType

import av
from av.packet import Packet
from av.video.stream import VideoStream

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import StreamError
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.core.packet import EncodedPacket, PacketTap, VideoFormat
from vision_infer.core.trace import Trace
from vision_infer.stream.ffmpeg_log import SourceLog
from vision_infer.stream.files.open_video import reason, too_many_pixels
from vision_infer.stream.live.backlog import Action, Backlog
from vision_infer.stream.live.capture_clock import SECOND, CaptureClock, PacketTimes, UntimedClock
from vision_infer.stream.live.live_packets import LivePackets
from vision_infer.stream.live.nal_units import every_image_alone, not_needed
from vision_infer.stream.live.open_live import raise_live_error
from vision_infer.stream.live.playout import Playout
from vision_infer.stream.nvdec import Decoding
from vision_infer.stream.orientation import Orientations
from vision_infer.stream.redact import redact
from vision_infer.stream.source import ReadReport, SourceSpec, StreamInfo

_READS_KEPT = 64
"""packets whose pictures may still come: no decoder holds back more"""
_MAX_UNJUDGED = 3
_STALE_STALLS = 2
"""a connection of which every picture has been too old for this many stall time-outs is dead too"""
_RARE_KEYS_NS = 10_000_000_000
"""cameras send a key frame each second or few; where none comes for so long, key frames alone give no results"""
_PROGRESSIVE = 1
"""libavcodec's field orders: 0 is unknown, 1 progressive, the others interlaced"""
_DROPS = {Action.SKIP: DropReason.NOT_REFERENCED, Action.DISCARD: DropReason.TO_KEYFRAME}


class LiveSource:
    """One connection to a live source.

    The decoder has no frame threads: each would hold back a frame. Slices are decoded in parallel where the camera makes them.

    Args:
        spec: the source, and how it is read (``live``).
        decode_threads: threads of the decoder.
        stopping: ends the frames; while a read waits for a packet, it is seen at the read's time-out.
        clock: monotonic and wall time.

    Raises:
        RefusedError: it was refused, or sends nothing that can be decoded.
        StreamError: it cannot be opened now.
    """

    def __init__(self, spec: SourceSpec, decode_threads: int, stopping: threading.Event, clock: Clock = SYSTEM_CLOCK) -> None:
        self.spec = spec
        self.report = ReadReport()
        self._shown = redact(spec.paths[0])
        self._threads = decode_threads
        self._stopping = stopping
        self._now = clock.monotonic_ns
        self._max_age_ns = round(spec.live.max_age_s * SECOND)
        self._log = SourceLog(spec.name)
        try:
            self._decoding = Decoding(spec, self.report)
            self._packets = LivePackets(spec, stopping, clock, self._log, self._decoding.hwaccel)
        except BaseException:
            self._log.close()
            raise
        self._set_decoder()
        opened = self._packets.opened
        self.info = self._with_decoder(_info(opened.stream))
        interval_ns = self._packets.interval_ns
        self._playout = Playout(interval_ns) if opened.paced else None
        self._times = CaptureClock(spec.live.clock, opened.held, interval_ns) if opened.timed else UntimedClock()
        self._backlog = Backlog(self._max_age_ns)
        self._orientations = Orientations()
        self._codec = opened.stream.codec_context.name
        self._index = 0
        self._reads: dict[int | None, int] = {}
        """when the packet of each picture that is still to come was read, by PTS"""
        self._unjudged: deque[Frame] = deque()
        """decoded before the age of anything was known, at most three"""
        self._stale_since: int | None = None
        self._key_ns: int | None = None
        """when the last key frame came, monotonic"""
        self._latest_s: float | None = None
        self._failing = False
        self._tap: PacketTap | None = None
        self.decoding: Callable[[], bool] = lambda: True
        """asked before each packet; where it is not wanted, its pictures do not come"""

    def show(self, tap: PacketTap) -> None:
        """Show packets and pictures to it too."""
        self._tap = tap
        self._show_format()

    def frames(self) -> Iterator[Frame]:
        """The frames that are young enough; ends where the server ends the stream.

        Raises:
            StreamError: nothing comes any more, nothing that can be decoded, or nothing that is not too old.
        """
        while True:
            for packet, times in self._packets.read():
                yield from self._packet(packet, times)
            if not self._packets.begin_again():
                return
            self._set_decoder()
            self._show_format()

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._tap is not None:
            self._tap.closed()
        self._packets.close()
        self._log.close()

    def _show_format(self) -> None:
        if self._tap is not None:
            context = self._packets.opened.stream.codec_context
            self._tap.opened(VideoFormat(self._codec, bytes(context.extradata or b""), self.info.size))

    def _set_decoder(self) -> None:
        context, live = self._packets.opened.stream.codec_context, self.spec.live
        context.thread_count = self._threads
        context.thread_type = "SLICE" if self._threads > 1 else "NONE"
        context.options = {"max_pixels": str(self.spec.read.max_pixels)}
        if live.keyframes_only:
            context.skip_frame = "NONKEY"
        elif live.skip_nonref:
            context.skip_frame = "NONREF"
        self._decoding.opened(context)

    def _packet(self, packet: Packet[VideoStream], times: PacketTimes) -> Iterator[Frame]:
        if not packet.size:  # the end: the decoder gives what it still holds
            yield from self._pictures(packet, times)
            return
        age_ns = self._arrived(times)
        if self._tap is not None:
            captured = None if age_ns is None else self._now() - age_ns
            self._tap.packet(EncodedPacket(memoryview(packet), times.pts_ns, packet.is_keyframe, captured, times.dts_ns))
        if self._stopping.is_set():
            return
        yield from self._judge()
        late = age_ns is None or age_ns > self._max_age_ns
        live = self.spec.live
        unneeded = (late or live.skip_nonref) and not_needed(self._codec, memoryview(packet))
        alone = every_image_alone(self._codec)
        if live.keyframes_only and not packet.is_keyframe:
            rare = self._key_ns is None or self._now() - self._key_ns > _RARE_KEYS_NS
            self._leave_out(DropReason.NO_KEYFRAME if rare else DropReason.UNDECODED)
            return
        if live.skip_nonref and unneeded and not alone:
            self._leave_out(DropReason.UNDECODED)
            return
        if packet.is_keyframe:
            self._key_ns = self._now()
        action = self._backlog.packet(self._now(), age_ns, packet.is_keyframe or alone, unneeded, times.waited)
        if action in _DROPS:
            self._leave_out(_DROPS[action])
            return
        self._reads[packet.pts] = times.read_ns
        if len(self._reads) > _READS_KEPT:
            del self._reads[next(iter(self._reads))]
        yield from self._pictures(packet, times)

    def _arrived(self, times: PacketTimes) -> int | None:
        """Take note of a packet, and wait until it is its turn where it has one.

        Returns:
            The age of its picture, nanoseconds; None where it is not known, but old.
        """
        if self._playout is not None:
            turn = times.pts_ns if times.dts_ns is None else times.dts_ns
            due = self._playout.packet_due(turn, times.read_ns, times.waited)
            self._wait_until(due)
            return self._now() - due
        self._times.packet(times)
        self.report.clock_offset_ms = self._times.clock_offset_ms
        return self._now() - self._times.captured(times.pts_ns, times.read_ns) if self._times.settled else None

    def _wait_until(self, due_ns: int) -> None:
        wait = due_ns - self._now()
        if wait > 0:
            self._stopping.wait(wait / SECOND)

    def _leave_out(self, reason: DropReason) -> None:
        self.report.drop(reason)
        self._packets.image()
        self._stale_since = None

    def _pictures(self, packet: Packet[VideoStream], times: PacketTimes) -> Iterator[Frame]:
        """Decode a packet; yields the frames that are young enough."""
        if not self.decoding():
            self._packets.image()
            return
        for image in self._decode(packet):
            frame = self._frame(image, times)
            if self._tap is not None:
                self._tap.frame(frame)
            self._packets.image()
            self._failing = False
            if self._playout is None and not self._times.settled:
                self._unjudged.append(frame)
                if len(self._unjudged) > _MAX_UNJUDGED:
                    self._unjudged.popleft()
                    self.report.drop(DropReason.STALE)
            else:
                yield from self._young(frame)

    def _decode(self, packet: Packet[VideoStream]) -> list[av.VideoFrame]:
        self._log.here()
        try:
            decoded = packet.decode()
            if self.spec.live.keyframes_only and packet.size:
                # A decoder that knows of B-frames would hold it back until some more have come, seconds later.
                context = self._packets.opened.stream.codec_context
                decoded += context.decode(None)
                context.flush_buffers()
        except EOFError:  # the decoder was flushed already
            return []
        except av.error.FFmpegError as error:
            self._lost(error)
            return []
        return decoded

    def _frame(self, image: av.VideoFrame, times: PacketTimes) -> Frame:
        base = image.time_base or self._packets.opened.stream.time_base
        pts_ns = None
        if image.pts is not None and base is not None and self._packets.opened.timed:
            pts_ns = image.pts * SECOND * base.numerator // base.denominator + self._packets.shift_ns
        read_ns = self._reads.pop(image.pts, times.read_ns)
        if self._playout is not None:
            due = self._playout.picture_due(pts_ns)
            self._wait_until(due)
            trace = Trace(captured_ns=min(due, self._now()), clock="playout")
        else:
            trace = Trace(captured_ns=self._times.captured(pts_ns, read_ns), clock=self._times.clock)
        trace.decode_start_ns, trace.decode_end_ns = read_ns, self._now()
        pts_s = self._latest_s = None if pts_ns is None else pts_ns / SECOND
        self.report.damaged += image.is_corrupt
        shown = self._decoding.image(image, self._orientations.of(image))
        self._follow(image)
        index, self._index = self._index, self._index + 1
        return Frame(self.spec.name, index, pts_s, shown, trace, damaged=image.is_corrupt)

    def _follow(self, image: av.VideoFrame) -> None:
        """A camera may change its picture at any time."""
        size = Size(image.width, image.height)
        interlaced = self.info.interlaced or image.interlaced_frame
        if size != self.info.size or interlaced != self.info.interlaced:
            self.info = replace(self.info, size=size, interlaced=interlaced)
        if self._decoding.where != self.info.decoder:
            self.info = self._with_decoder(self.info)

    def _with_decoder(self, info: StreamInfo) -> StreamInfo:
        return replace(info, decoder=self._decoding.where, decoder_bytes=self._decoding.bytes)

    def _judge(self) -> Iterator[Frame]:
        """Yield the frames whose age was not known, once it is known, and they are young."""
        while self._unjudged and self._times.settled:
            frame = self._unjudged.popleft()
            pts_ns = None if frame.pts_s is None else round(frame.pts_s * SECOND)
            frame.trace.captured_ns = self._times.captured(pts_ns, frame.trace.decode_start_ns)
            frame.trace.clock = self._times.clock
            yield from self._young(frame)

    def _young(self, frame: Frame) -> Iterator[Frame]:
        """The frame, unless it is too old."""
        now = self._now()
        age_ns = now - frame.trace.captured_ns
        if age_ns <= self._max_age_ns:
            self._stale_since = None
            yield frame
            return
        self._stale_since = self._stale_since or now
        stalls = (now - self._stale_since) / (self.spec.live.stall_timeout_s * SECOND)
        self.report.drop(DropReason.LATE if stalls > 1 else DropReason.STALE)
        if stalls > _STALE_STALLS:
            raise StreamError(
                f"{self._shown}: pictures come {age_ns / SECOND:.1f} s late, and stay so",
                "the network is too slow for it, or the camera's clock is wrong",
            )

    def _lost(self, error: Exception) -> None:
        """A packet could not be decoded; what follows is tried all the same."""
        if self._log.said("max pixel count"):
            raise too_many_pixels("pictures", self.spec.read, self._shown) from None
        if not isinstance(error, av.error.InvalidDataError):
            if self._decoding.failed(reason(error)):
                raise StreamError(
                    f"{self._shown}: the GPU's decoder failed", "the CPU decodes it from the next connection on"
                ) from None
            raise_live_error(error, self._shown, self._log, self.spec.live, doing="decoding stopped")
        if not self._failing:
            self._failing = True
            self.report.gap(self._latest_s, None)


def _info(stream: VideoStream) -> StreamInfo:
    context = stream.codec_context
    return StreamInfo(
        size=Size(context.width, context.height) if context.width and context.height else None,
        frames=None,
        duration_s=None,
        frame_rate=stream.average_rate or stream.base_rate,
        time_base=stream.time_base,
        codec=context.name,
        has_audio=False,
        interlaced=context.field_order > _PROGRESSIVE,
    )
