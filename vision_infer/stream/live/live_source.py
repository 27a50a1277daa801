"""A live source read through FFmpeg: one connection to a camera or server, or a file that is played in real time.

The source yields frames that are recent enough for inference. Frames that are too old are counted and dropped. After a stall or a
burst, or when the decoder cannot keep up, :mod:`vision_infer.stream.live.backlog` decides which packets are decoded. When the
connection breaks, ``frames()`` ends or raises; the caller reconnects.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
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
from vision_infer.stream.files.open_video import PROGRESSIVE, reason, too_many_pixels
from vision_infer.stream.live.age_limit import AgeLimit
from vision_infer.stream.live.backlog import Action, Backlog
from vision_infer.stream.live.capture_clock import SECOND, CaptureClock, PacketTimes, UntimedClock
from vision_infer.stream.live.ingest import open_packets, why_ffmpeg
from vision_infer.stream.live.live_errors import raise_live_error
from vision_infer.stream.live.nal_units import is_disposable, is_intra_only
from vision_infer.stream.live.packet_decoder import PacketDecoder
from vision_infer.stream.live.playout import Playout
from vision_infer.stream.live.rtp_packets import RtpPackets
from vision_infer.stream.nvdec import Decoding
from vision_infer.stream.orientation import Orientations
from vision_infer.stream.redact import redact
from vision_infer.stream.source import ReadReport, SourceSpec, StreamInfo

_READS_KEPT = 64
"""The maximum number of packets whose frames are still expected; no decoder delays more frames."""
_RARE_KEYS_NS = 10_000_000_000
"""The interval without a key frame after which decoding only key frames is reported as a problem, nanoseconds."""
_DROPS = {Action.SKIP: DropReason.NOT_REFERENCED, Action.DISCARD: DropReason.TO_KEYFRAME}


class LiveSource:
    """One connection to a live source.

    Args:
        spec: The source and how it is read (``live``).
        decode_threads: The number of decoder threads.
        stopping: Ends the frames when it is set. A read that waits for a packet notices it at the read timeout.
        clock: The monotonic and wall clock.

    Raises:
        RefusedError: The server refused the connection, or sends nothing that can be decoded.
        StreamError: The source cannot be opened now.
    """

    def __init__(self, spec: SourceSpec, decode_threads: int, stopping: threading.Event, clock: Clock = SYSTEM_CLOCK) -> None:
        self.spec = spec
        self.report = ReadReport()
        self._shown = redact(spec.paths[0])
        self._threads = decode_threads
        self._stopping = stopping
        self._now = clock.monotonic_ns
        self._log = SourceLog(spec.name)
        try:
            self._decoding = Decoding(spec, self.report)
            self._packets = open_packets(spec, stopping, clock, self._log, self._decoding.hwaccel)
        except BaseException:
            self._log.close()
            raise
        self._decoder = self._new_decoder()
        opened = self._packets.opened
        self.info = self._with_decoder(_info(opened.stream, opened.frame_rate))
        if isinstance(self._packets, RtpPackets):
            self.report.packets, self.report.pictures = self._packets.packets, self._packets.pictures
            self.info = replace(self.info, ingest="rtp")
        elif spec.live.ingest == "auto" and (reason := why_ffmpeg(spec.paths[0])):
            delay = ", which delays each frame by one frame interval" if opened.held else ""
            self.report.warn(f"is read by FFmpeg{delay}: {reason}")
            self.info = replace(self.info, ingest_reason=reason)
        interval_ns = self._packets.interval_ns
        self._playout = Playout(interval_ns) if opened.paced else None
        self._times = CaptureClock(spec.live.clock, opened.held, interval_ns) if opened.timed else UntimedClock()
        self._age_limit = AgeLimit(spec, self.report, self._now)
        self._backlog = Backlog(self._age_limit.max_age_ns)
        self._orientations = Orientations()
        self._codec = opened.stream.codec_context.codec.canonical_name
        self._index = 0
        self._reads: dict[int | None, tuple[int, bool, bool]] = {}
        """When the packet of each expected frame was read, whether it was damaged, and whether it is a key frame; by PTS."""
        self._key_ns: int | None = None
        """The time of the last key frame, monotonic nanoseconds."""
        self._latest_s: float | None = None
        self._failing = self._broken = False
        """Whether packets cannot be decoded now, and whether frames refer to one that was damaged."""
        self._tap: PacketTap | None = None
        self.decoding: Callable[[], bool] = lambda: True
        """Called before each packet is decoded; while it returns False, packets are read but not decoded."""

    def show(self, tap: PacketTap) -> None:
        """Also pass packets and frames to a tap."""
        self._tap = tap
        if self._playout is None:
            self._packets.on_sound = self._pass_sound
        self._show_format()

    def frames(self) -> Iterator[Frame]:
        """Yield the frames that are recent enough, until the server ends the stream.

        Raises:
            StreamError: No data arrives, nothing can be decoded, or all frames are too old.
        """
        try:
            while True:
                for packet, times in self._packets.read():
                    yield from self._packet(packet, times)
                if not self._packets.restart_file():
                    return
                self._decoder.close()
                self._decoder = self._new_decoder()
                self._show_format()
        finally:
            self._without_frame(None)

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._tap is not None:
            self._tap.closed()
        self._decoder.close()
        self._packets.close()
        self._log.close()

    def _show_format(self) -> None:
        if self._tap is not None:
            extradata = bytes(self._packets.opened.stream.codec_context.extradata or b"")
            self._tap.opened(VideoFormat(self._codec, extradata, self.info.size, self._packets.sound.format))

    def _pass_sound(self, until_ns: int | None = None) -> None:
        """Pass sound on at once; that of a paced source, together with the video of the same time."""
        if self._tap is not None:
            for packet in self._packets.sound.take(until_ns):
                self._tap.sound(packet)

    def _new_decoder(self) -> PacketDecoder:
        return PacketDecoder(self.spec, self._threads, self._decoding, self._packets.opened.stream.codec_context)

    def _packet(self, packet: Packet[VideoStream], times: PacketTimes) -> Iterator[Frame]:
        """Decide what happens to a packet, and yield the frames that result."""
        # 1. An empty packet marks the end of the stream: the decoder returns the frames that it still holds.
        if not packet.size:
            yield from self._decoded(packet, times)
            return
        # 2. Estimate the age of the frame. A paced source waits here until the packet is due.
        age_ns = self._arrived(times)
        # 3. Pass the packet on (preview, clips) before anything can be skipped: viewers and clips need all packets.
        if self._tap is not None:
            captured = None if age_ns is None else self._now() - age_ns
            shown, payloads = memoryview(packet), self._packets.payloads
            self._tap.packet(EncodedPacket(shown, times.pts_ns, packet.is_keyframe, captured, times.dts_ns, payloads))
            self._packets.sound.listen(self._tap.wants_sound())
            if self._playout is not None:
                self._pass_sound(times.pts_ns if times.dts_ns is None else times.dts_ns)
        if self._stopping.is_set():
            return
        # 4. Ages may be known from this packet on: yield or drop the frames that waited for that.
        yield from self._age_limit.release(self._times)
        # 5. Skip what the settings exclude. The NAL units are inspected only if the answer matters.
        late = age_ns is None or age_ns > self._age_limit.max_age_ns
        live = self.spec.live
        disposable = (late or live.skip_nonref) and is_disposable(self._codec, memoryview(packet))
        intra_only = is_intra_only(self._codec)
        if live.keyframes_only and not packet.is_keyframe:
            rare = self._key_ns is None or self._now() - self._key_ns > _RARE_KEYS_NS
            self._skip(DropReason.NO_KEYFRAME if rare else DropReason.UNDECODED)
            return
        if live.skip_nonref and disposable and not intra_only:
            self._skip(DropReason.UNDECODED)
            return
        if packet.is_keyframe:
            self._key_ns = self._now()
        # 6. Skip what would only delay the stream further while it is behind.
        action = self._backlog.packet(self._now(), age_ns, packet.is_keyframe or intra_only, disposable, times.waited)
        if action in _DROPS:
            self._skip(_DROPS[action])
            return
        # 7. Decode. The decoder may return the frame with a later packet, so the read time is kept by PTS.
        self._reads[packet.pts] = times.read_ns, packet.is_corrupt, packet.is_keyframe
        if len(self._reads) > _READS_KEPT:
            self._no_frame(next(iter(self._reads)))
        yield from self._decoded(packet, times)

    def _arrived(self, times: PacketTimes) -> int | None:
        """Record the arrival of a packet. A paced source waits until the packet is due.

        Returns:
            The age of its frame in nanoseconds; None if the frame is old but its age is unknown.
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

    def _skip(self, reason: DropReason) -> None:
        self.report.drop(reason)
        self._packets.made_progress()
        self._age_limit.reset()

    def _decoded(self, packet: Packet[VideoStream], times: PacketTimes) -> Iterator[Frame]:
        """Decode a packet, and yield the frames that are recent enough."""
        if not self.decoding():
            self._reads.pop(packet.pts, None)
            self._packets.made_progress()
            return
        for image in self._decode(packet):
            frame = self._frame(image, times)
            if self._tap is not None:
                self._tap.frame(frame)
            self._packets.made_progress()
            self._failing = False
            if self._playout is None and not self._times.settled:
                self._age_limit.hold(frame)
            elif self._age_limit.accepts(frame):
                yield frame

    def _decode(self, packet: Packet[VideoStream]) -> list[av.VideoFrame]:
        self._log.use_thread()
        try:
            return self._decoder.decode(packet)
        except EOFError:  # the decoder was flushed already
            return []
        except av.error.FFmpegError as error:
            self._packet_failed(error)
            if packet.pts in self._reads:
                self._reads[packet.pts] = self._reads[packet.pts][0], True, False
            return []

    def _without_frame(self, until: int | None) -> None:
        """Count the damaged packets for which the decoder returns no frame.

        Args:
            until: The PTS of a frame that was returned: earlier ones follow no more. None at the end.
        """
        for pts in [pts for pts in self._reads if until is None or (pts is not None and pts < until)]:
            self._no_frame(pts)

    def _no_frame(self, pts: int | None) -> None:
        _, damaged, _ = self._reads.pop(pts)
        if damaged:
            self.report.drop(DropReason.DAMAGED)

    def _frame(self, image: av.VideoFrame, times: PacketTimes) -> Frame:
        base = image.time_base or self._packets.opened.stream.time_base
        pts_ns = None
        if image.pts is not None and base is not None and self._packets.opened.timed:
            pts_ns = image.pts * SECOND * base.numerator // base.denominator + self._packets.shift_ns
        read_ns, damaged, key = self._reads.pop(image.pts, (times.read_ns, False, False))
        if image.pts is not None:
            self._without_frame(image.pts)
        self._broken = image.is_corrupt or (self._broken and not (key or image.key_frame))
        damaged = damaged or self._broken
        if self._playout is not None:
            due = self._playout.frame_due(pts_ns)
            self._wait_until(due)
            trace = Trace(captured_ns=min(due, self._now()), clock="playout")
        else:
            trace = Trace(captured_ns=self._times.captured(pts_ns, read_ns), clock=self._times.clock)
        trace.decode_start_ns, trace.decode_end_ns = read_ns, self._now()
        pts_s = self._latest_s = None if pts_ns is None else pts_ns / SECOND
        self.report.damaged += damaged
        shown = self._decoding.image(image, self._orientations.of(image))
        self._update_info(image)
        index, self._index = self._index, self._index + 1
        return Frame(self.spec.name, index, pts_s, shown, trace, damaged=damaged)

    def _update_info(self, image: av.VideoFrame) -> None:
        """Update the size, scan type and decoder: a camera may change its video at any time."""
        size = Size(image.width, image.height)
        interlaced = self.info.interlaced or image.interlaced_frame
        if size != self.info.size or interlaced != self.info.interlaced:
            self.info = replace(self.info, size=size, interlaced=interlaced)
        if self._decoding.where != self.info.decoder:
            self.info = self._with_decoder(self.info)

    def _with_decoder(self, info: StreamInfo) -> StreamInfo:
        return replace(info, decoder=self._decoding.where, decoder_bytes=self._decoding.bytes)

    def _packet_failed(self, error: Exception) -> None:
        """Handle a packet that could not be decoded. Reading continues unless later packets would fail as well."""
        if self._log.contains("max pixel count"):
            raise too_many_pixels("images", self.spec.read, self._shown) from None
        if not isinstance(error, av.error.InvalidDataError):
            if self._decoding.failed(reason(error)):
                raise StreamError(f"{self._shown}: the GPU decoder failed", "The next connection decodes on the CPU.") from None
            raise_live_error(error, self._shown, self._log, self.spec.live, doing="decoding stopped")
        self._broken = True
        if not self._failing:
            self._failing = True
            self.report.gap(self._latest_s, None)


def _info(stream: VideoStream, frame_rate: Fraction | None) -> StreamInfo:
    context = stream.codec_context
    return StreamInfo(
        size=Size(context.width, context.height) if context.width and context.height else None,
        frames=None,
        duration_s=None,
        frame_rate=frame_rate,
        time_base=stream.time_base,
        codec=context.codec.canonical_name,
        has_audio=False,
        interlaced=context.field_order > PROGRESSIVE,
        ingest="ffmpeg",
    )
