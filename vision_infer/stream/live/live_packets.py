"""The packets of one connection to a live source, and the time at which each was read.

FFmpeg does not report most failures. When a server is killed, the packets end without an error. When a server freezes, a read
blocks for the whole timeout and then returns the frame that the parser held back, which is as old as the timeout; the error
comes only at the second timeout. When sound continues while the video has stopped, no read blocks at all. So the reads are timed
here, and only video counts as progress.
"""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import av
from av.codec.hwaccel import HWAccel
from av.packet import Packet
from av.video.stream import VideoStream

from vision_infer.core.clock import Clock
from vision_infer.core.errors import StreamError
from vision_infer.stream.ffmpeg_log import SourceLog
from vision_infer.stream.live.capture_clock import SECOND, PacketTimes
from vision_infer.stream.live.connection_guard import ConnectionGuard
from vision_infer.stream.live.live_errors import raise_live_error
from vision_infer.stream.live.nal_units import is_vp9_key
from vision_infer.stream.live.open_live import OpenedStream, open_live
from vision_infer.stream.live.sound_reader import SoundReader
from vision_infer.stream.redact import redact
from vision_infer.stream.source import SourceSpec

_CAMERA_CLOCK = struct.Struct("=q")
"""Microseconds since 1970 (UTC), the first field of FFmpeg's `prft` side data (AVProducerReferenceTime)."""
_GRACE_S = 1.0
"""The time after which a read is ended from outside, although the time-out should have ended it, seconds."""
_STALLED = 0.98
"""The part of the timeout after which a read counts as ended by the timeout."""


class LivePackets:
    """Opens a source and reads its packets. A file may restart at its end.

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

    def __init__(
        self, spec: SourceSpec, stopping: threading.Event, clock: Clock, log: SourceLog, hwaccel: HWAccel | None = None
    ) -> None:
        self.spec = spec
        self._hwaccel = hwaccel
        self._shown = redact(spec.paths[0])
        self._guard = ConnectionGuard(spec.paths[0], stopping, 2 * spec.live.open_timeout_s)  # it may be opened twice
        try:
            self.opened: OpenedStream = open_live(spec, log, hwaccel)
        except BaseException as error:
            self._guard.close()
            if self._guard.problem:
                raise self._ended() from error
            raise
        self._guard.opened(self.opened.container.format.name)
        # FFmpeg's RTP reader for VP9 marks no key frames: https://github.com/FFmpeg/FFmpeg/blob/master/libavformat/rtpdec_vp9.c
        self._unmarked = self.opened.kind == "rtsp" and self.opened.stream.codec_context.name == "vp9"
        self.sound = self._sound_reader()
        self.on_sound: Callable[[], None] = lambda: None
        """Called when the sound reader has a further packet."""
        self.payloads: tuple[bytes, ...] = ()
        """Empty: FFmpeg returns no RTP payloads."""
        self.shift_ns = 0
        """The time that is added to the times of packets and frames, so that they continue when a file restarts, nanoseconds."""
        self._stopping = stopping
        self._clock = clock
        self._log = log
        self._stall_ns = round(spec.live.stall_timeout_s * SECOND)
        self._progress_ns = self._video_ns = clock.monotonic_ns()
        self._latest_ns = 0
        self._frames = 0

    @property
    def interval_ns(self) -> int:
        """The frame interval that the stream announces, nanoseconds; 0 if it announces none."""
        return round(SECOND / self.opened.frame_rate) if self.opened.frame_rate else 0

    def made_progress(self) -> None:
        """Restart the watchdog: a frame was decoded, or a packet was skipped on purpose."""
        self._frames += 1
        self._progress_ns = self._clock.monotonic_ns()

    def read(self) -> Iterator[tuple[Packet[VideoStream], PacketTimes]]:
        """Yield the video packets in decoding order, and at the end an empty one that flushes the decoder.

        Raises:
            StreamError: No data arrives, or packets arrive but no frame is decoded.
        """
        now = self._clock.monotonic_ns
        packets = self.opened.container.demux()
        while not self._stopping.is_set():
            waiting = now()
            self._log.use_thread()
            if self.opened.web is not None:
                self.opened.web.allow(self.spec.live.stall_timeout_s)
            self._guard.allow(self.spec.live.stall_timeout_s + _GRACE_S)
            try:
                packet, before = self._next_video(packets)
            except (av.error.FFmpegError, OSError) as error:
                self._read_failed(error)
                return
            finally:
                self._guard.allow(math.inf)
            if self._guard.problem:
                raise self._ended()
            if packet is None:
                return
            after = now()
            if packet.size and after - before >= _STALLED * self._stall_ns:
                raise self._no_data()  # the packet that the parser held back is as old as the timeout
            self._check_progress(after)
            if self._unmarked and packet.size:
                packet.is_keyframe = is_vp9_key(memoryview(packet))
            times = self._times(packet, waiting, after)
            yield packet, times
            self._video_ns = now()
            self._progress_ns += self._video_ns - after  # the watchdog measures the source, not the time that the caller takes

    def _next_video(self, packets: Iterator[Packet[Any]]) -> tuple[Packet[VideoStream] | None, int]:
        """Return the next video packet, or None at the end, and the time at which its read began. Sound is passed on meanwhile.

        Not each packet of sound goes through :meth:`read`: there are more of them than of video, and no frame depends on them.
        """
        video, now = self.opened.stream.index, self._clock.monotonic_ns
        while True:
            before = now()
            packet = next(packets, None)
            if packet is None or packet.stream_index == video:
                return packet, before
            if packet.stream_index == self.sound.index:
                self.sound.read(packet, self._ns(packet.time_base, packet.pts))
                self.on_sound()
            if self._stopping.is_set():
                return None, before
            self._check_progress(before)

    def restart_file(self) -> bool:
        """Read a file from its beginning again after its end. Returns False if it is not a file, or must not loop.

        Raises:
            StreamError: It cannot be opened again, or no frame of it could be decoded.
        """
        if self.opened.kind != "file" or not self.spec.live.loop or self._stopping.is_set():
            return False
        if not self._frames:
            raise StreamError(f"{self._shown}: no frame could be decoded", "the file is damaged")
        self._frames = 0
        end_ns = self._latest_ns + (self.interval_ns or SECOND // 25)
        self.close()
        self.opened = open_live(self.spec, self._log, self._hwaccel)
        self.sound = self._sound_reader()
        stream = self.opened.stream
        self.shift_ns = 0
        self.shift_ns = end_ns - (self._ns(stream.time_base, stream.start_time) or 0)
        return True

    def close(self) -> None:
        """Close the source."""
        self._guard.close()
        # Stop the decoder's threads before PyAV frees it: see ffmpeg_log.
        self.opened.stream.codec_context.flush_buffers()
        self.opened.close()

    def _sound_reader(self) -> SoundReader:
        return SoundReader(self.opened.container, self.opened.stream.index, self.spec.live.audio)

    def _times(self, packet: Packet[VideoStream], before_ns: int, after_ns: int) -> PacketTimes:
        pts, dts = self._ns(packet.time_base, packet.pts), self._ns(packet.time_base, packet.dts)
        if pts is not None:
            self._latest_ns = max(self._latest_ns, pts)
        camera_ns = None
        if packet.has_sidedata("prft"):
            (camera_us,) = _CAMERA_CLOCK.unpack_from(bytes(packet.get_sidedata("prft")))
            camera_ns = camera_us * 1000 - self._clock.wall_ns() + self._clock.monotonic_ns()
        return PacketTimes(after_ns, after_ns - before_ns, pts, dts, camera_ns)

    def _ns(self, base: Fraction | None, units: int | None) -> int | None:
        if units is None or not base or not self.opened.timed:
            return None
        return units * SECOND * base.numerator // base.denominator + self.shift_ns

    def _ended(self) -> StreamError:
        return StreamError(f"{self._shown}: {self._guard.problem}", self._guard.hint)

    def _read_failed(self, error: Exception) -> None:
        if self._guard.problem:
            raise self._ended() from None
        if self.opened.kind == "http" and self._log.contains("ends prematurely"):
            return  # a live stream has no length: when the server closes the connection, the stream has ended
        if isinstance(error, av.error.ExitError):
            raise self._no_data() from None
        raise_live_error(error, self._shown, self._log, self.spec.live, doing="reading stopped")

    def _check_progress(self, now_ns: int) -> None:
        if now_ns - self._progress_ns <= self._stall_ns:
            return
        if now_ns - self._video_ns > self._stall_ns:
            raise self._no_data("sound arrives, but no video")
        raise StreamError(
            f"{self._shown}: packets arrive, but no frame could be decoded for {self.spec.live.stall_timeout_s:g} s",
            "the packets are damaged, or the camera has changed its codec",
        )

    def _no_data(self, missing: str = "no data") -> StreamError:
        limit_s = self.spec.live.stall_timeout_s
        return StreamError(f"{self._shown}: {missing} for {limit_s:g} s", "Check the camera and the network.")
