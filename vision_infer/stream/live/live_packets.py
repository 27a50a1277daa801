"""The packets of one connection to a live source, and when each was read.

FFmpeg gives no sign of most of what goes wrong. A server that is killed ends the packets without an error. One that freezes
holds up a read for the whole time-out, and then lets out what the parser had held back: a picture that is as old as the time-out;
its error comes at the second time-out only. Sound that goes on while the picture has stopped holds up nothing at all. So reads
are timed here, and all tracks are read.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import cast

import av
from av.codec.hwaccel import HWAccel
from av.packet import Packet
from av.video.stream import VideoStream

from vision_infer.core.clock import Clock
from vision_infer.core.errors import StreamError
from vision_infer.stream.ffmpeg_log import SourceLog
from vision_infer.stream.live.assembly import Assembler, Piece
from vision_infer.stream.live.capture_clock import SECOND, PacketTimes
from vision_infer.stream.live.open_live import Opened, open_live, raise_live_error
from vision_infer.stream.redact import redact
from vision_infer.stream.source import SourceSpec

_CAMERA_CLOCK = struct.Struct("=q")
"""microseconds since 1970 (UTC), first in FFmpeg's `prft` side data"""
_STALLED = 0.98
"""a read that took this part of the time-out was ended by it"""


class LivePackets:
    """Opens a source and reads its packets; a file may begin again at its end.

    Args:
        spec: the source.
        stopping: no further packet is read once it is set.
        clock: monotonic and wall time.
        log: of the source.
        hwaccel: what decodes it; None: the CPU.

    Raises:
        StreamError: it cannot be opened; RefusedError where it was refused.
    """

    def __init__(
        self, spec: SourceSpec, stopping: threading.Event, clock: Clock, log: SourceLog, hwaccel: HWAccel | None = None
    ) -> None:
        self.spec = spec
        self._hwaccel = hwaccel
        self.opened: Opened = open_live(spec, log, hwaccel)
        self._assembler = Assembler(self.opened.stream.codec_context.name) if self.opened.assembled else None
        self.shift_ns = 0
        """added to the times of packets and pictures: where a file begins again, they go on"""
        self._stopping = stopping
        self._clock = clock
        self._log = log
        self._shown = redact(spec.paths[0])
        self._stall_ns = round(spec.live.stall_timeout_s * SECOND)
        self._progress_ns = clock.monotonic_ns()
        self._latest_ns = 0
        self._pictures = 0

    @property
    def interval_ns(self) -> int:
        """Between two pictures, as the stream says; 0 if it does not."""
        rate = self.opened.stream.average_rate or self.opened.stream.base_rate
        return round(SECOND / rate) if rate else 0

    def image(self) -> None:
        """A picture was decoded, or one left out on purpose: the watchdog waits from here on."""
        self._pictures += 1
        self._progress_ns = self._clock.monotonic_ns()

    def read(self) -> Iterator[tuple[Packet[VideoStream], PacketTimes]]:
        """The packets of the video, in decoding order; an empty one where the stream ends, for what the decoder still holds.

        Raises:
            StreamError: nothing comes any more, or packets come and no picture does.
        """
        now = self._clock.monotonic_ns
        index = self.opened.stream.index
        packets = self.opened.container.demux()
        while not self._stopping.is_set():
            before = now()
            self._log.here()
            if self.opened.web is not None:
                self.opened.web.allow(self.spec.live.stall_timeout_s)
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError) as error:
                self._read_failed(error)
                return
            if packet is None:
                return
            after = now()
            if packet.size and after - before >= _STALLED * self._stall_ns:
                raise self._silent()  # what came out is as old as the time-out
            if after - self._progress_ns > self._stall_ns:
                raise StreamError(
                    f"{self._shown}: packets come, but no picture could be decoded for {self.spec.live.stall_timeout_s:g} s",
                    "they are damaged, or the camera has changed its codec",
                )
            if packet.stream_index == index:
                video: Packet[VideoStream] = packet  # type: ignore[assignment]
                times = self._times(video, before, after)
                if self._assembler is None:
                    yield video, times
                else:
                    yield from self._assembled(self._assembler, video, times)
                self._progress_ns += now() - after  # the watchdog watches what comes, not how long others take with it

    def begin_again(self) -> bool:
        """After the end, read a file from its beginning; False where it is none, or shall not be.

        Raises:
            StreamError: it cannot be opened any more, or held no picture.
        """
        if self.opened.kind != "file" or not self.spec.live.loop or self._stopping.is_set():
            return False
        if not self._pictures:
            raise StreamError(f"{self._shown}: no picture could be decoded", "the file is damaged")
        self._pictures = 0
        end_ns = self._latest_ns + (self.interval_ns or SECOND // 25)
        self.close()
        self.opened = open_live(self.spec, self._log, self._hwaccel)
        stream = self.opened.stream
        self.shift_ns = 0
        self.shift_ns = end_ns - (self._ns(stream.time_base, stream.start_time) or 0)
        return True

    def close(self) -> None:
        """Let go of the source."""
        # The decoder's threads come to rest before PyAV frees it: see ffmpeg_log.
        self.opened.stream.codec_context.flush_buffers()
        self.opened.close()

    def _assembled(
        self, assembler: Assembler, packet: Packet[VideoStream], times: PacketTimes
    ) -> Iterator[tuple[Packet[VideoStream], PacketTimes]]:
        """Put pieces together; a picture arrived when its first piece did."""
        if not packet.size:
            wholes = assembler.flush()
        elif packet.pts is None:
            return  # nothing tells which picture it is a piece of
        else:
            data = bytes(packet)
            piece = Piece(data, packet.pts, times.read_ns, times.waited_ns, packet.is_corrupt, times.camera_ns)
            wholes = assembler.push(piece)
        for whole in wholes:
            first = whole.first
            image = cast("Packet[VideoStream]", Packet(whole.data))
            image.pts = image.dts = first.pts
            image.time_base, image.stream = packet.time_base, packet.stream
            image.is_keyframe, image.is_corrupt = whole.key, whole.corrupt
            pts = self._ns(packet.time_base, first.pts)
            # No decoding time: with B-frames, it is not the presentation time.
            yield image, PacketTimes(first.read_ns, first.waited_ns, pts, None, first.camera_ns)
        if not packet.size:
            yield packet, times

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

    def _read_failed(self, error: Exception) -> None:
        if self.opened.kind == "http" and self._log.said("ends prematurely"):
            return  # a live stream has no length: where the server closes, it is at its end
        if isinstance(error, av.error.ExitError):
            raise self._silent() from None
        raise_live_error(error, self._shown, self._log, self.spec.live, doing="reading stopped")

    def _silent(self) -> StreamError:
        return StreamError(
            f"{self._shown}: nothing came for {self.spec.live.stall_timeout_s:g} s", "is the camera on, and the network well?"
        )
