"""The packets of one connection to a camera that is read over RTP, with the interface of
:class:`~vision_infer.stream.live.live_packets.LivePackets`.
"""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import cast

import av
from av.codec.hwaccel import HWAccel
from av.packet import Packet
from av.video.stream import VideoStream

from vision_infer.core.clock import Clock
from vision_infer.core.errors import StreamError
from vision_infer.core.packet import SoundFormat, SoundPacket
from vision_infer.stream.live.capture_clock import SECOND, PacketTimes
from vision_infer.stream.live.nal_units import frames_to_recovery, is_disposable
from vision_infer.stream.live.open_live import OpenedStream
from vision_infer.stream.live.rtsp_stream import ReadPicture, RtspStream
from vision_infer.stream.redact import redact
from vision_infer.stream.rtsp.picture import Picture
from vision_infer.stream.rtsp.sound_track import CODECS, TimedSound
from vision_infer.stream.source import SourceSpec

_FORMATS = {"h264": "h264", "h265": "hevc", "jpeg": "mjpeg"}
"""FFmpeg's format of each codec."""
_TIME_BASE = Fraction(1, 1_200_000)
"""The time base of FFmpeg's raw formats."""
_MAX_WAITING = 1024


class RtpSound:
    """The sound of one connection, with the interface of :class:`~vision_infer.stream.live.sound_reader.SoundReader`.

    Args:
        stream: The connection.
    """

    def __init__(self, stream: RtspStream) -> None:
        self.format: SoundFormat | None = None
        """The format of the sound; None if there is none."""
        self.on_packet: Callable[[], None] = lambda: None
        """Called when there is a further packet."""
        self.video_zero_ns: int | None = None
        """When the first picture arrived, monotonic nanoseconds."""
        self._stream = stream
        self._listening = False
        self._waiting: deque[SoundPacket] = deque(maxlen=_MAX_WAITING)
        self._zero_ns: int | None = None
        media = stream.sound
        if media is not None:
            extradata = media.audio_config() if media.codec == "mpeg4-generic" else b""
            # The clock of G.722 is half of its sample rate, by a mistake that was kept (RFC 3551, section 4.5.2).
            rate = 16_000 if media.codec == "g722" else media.clock_rate
            self.format = SoundFormat(CODECS[media.codec], rate, media.channels, extradata)
            stream.on_sound = self._heard

    def listen(self, wanted: bool) -> None:
        """Keep the sound from now on, or drop it."""
        if wanted != self._listening:
            self._listening = wanted
            self._waiting.clear()

    def take(self, until_ns: int | None = None) -> list[SoundPacket]:
        """Return the packets that were read, up to a presentation time."""
        taken: list[SoundPacket] = []
        while self._waiting and (until_ns is None or self._waiting[0].pts_ns <= until_ns):
            taken.append(self._waiting.popleft())
        return taken

    def _heard(self, sound: TimedSound, now_ns: int) -> None:
        if self.video_zero_ns is None:
            return
        if self._zero_ns is None:
            self._zero_ns = now_ns - sound.since_ns
        if not self._listening:
            return
        # Sender reports relate the clocks of sound and video; until both have arrived, their first packets do.
        zero_wall_ns = self._stream.zero_wall_ns
        if sound.wall_ns is None or zero_wall_ns is None:
            pts_ns = sound.since_ns + self._zero_ns - self.video_zero_ns
        else:
            pts_ns = sound.wall_ns - zero_wall_ns
        self._waiting.append(SoundPacket(memoryview(sound.data), pts_ns))
        self.on_packet()


class RtpPackets:
    """Opens a camera and reads its packets.

    Args:
        spec: The source.
        stopping: No further packet is read once it is set.
        clock: The monotonic and wall clock.
        failed: Called with the reason if the stream turns out to be one that cannot be read over RTP.
        hwaccel: The hardware decoder; None to decode on the CPU.

    Raises:
        UnsupportedByRtpError: The stream cannot be read over RTP.
        RefusedError: The server refused the connection.
        StreamError: The camera cannot be reached, or deviates from the protocol.
    """

    shift_ns = 0

    def __init__(
        self,
        spec: SourceSpec,
        stopping: threading.Event,
        clock: Clock,
        failed: Callable[[str], None],
        hwaccel: HWAccel | None = None,
    ) -> None:
        self.spec = spec
        self._clock = clock
        self._failed = failed
        self._shown = redact(spec.paths[0])
        self._stall_ns = round(spec.live.stall_timeout_s * SECOND)
        self._rtsp = RtspStream(spec.paths[0], spec.live, stopping, clock)
        try:
            self.opened: OpenedStream = _opened(self._rtsp, hwaccel)
        except BaseException:
            self._rtsp.close()
            raise
        self.packets, self.pictures = self._rtsp.counts
        """What was received, and what became of it; both change while the stream is read."""
        self.sound = RtpSound(self._rtsp)
        self._progress_ns = clock.monotonic_ns()
        self._latest_ns, self._reordered = 0, False
        self._broken = False
        """Whether pictures refer to something that is missing."""
        self._recovers_in = 0
        """The number of pictures after which they no longer do; 0 if it is not known."""
        self._exact_ns = -SECOND
        """The time of the key frame that ended this. B-frames that follow it may precede it in time, and refer further back."""
        self.payloads: tuple[bytes, ...] = ()
        """The RTP payloads of the packet that was read last; see :class:`~vision_infer.core.packet.EncodedPacket`."""

    @property
    def on_sound(self) -> Callable[[], None]:
        """Called when there is a further packet of sound."""
        return self.sound.on_packet

    @on_sound.setter
    def on_sound(self, call: Callable[[], None]) -> None:
        self.sound.on_packet = call

    @property
    def interval_ns(self) -> int:
        """The frame interval that the camera announces, nanoseconds; 0 if it announces none."""
        return round(SECOND / self.opened.frame_rate) if self.opened.frame_rate else 0

    def made_progress(self) -> None:
        """Restart the watchdog: a frame was decoded, or a packet was skipped on purpose."""
        self._progress_ns = self._clock.monotonic_ns()

    def read(self) -> Iterator[tuple[Packet[VideoStream], PacketTimes]]:
        """Yield the video packets in decoding order, and at the end an empty one that flushes the decoder.

        Raises:
            StreamError: No data arrives, or packets arrive but no frame is decoded.
        """
        now, stream = self._clock.monotonic_ns, self.opened.stream
        base = stream.time_base or _TIME_BASE  # of all frames that the decoder returns
        for (picture, at_ns, wall_ns), waited_ns in self._pictures():
            after = now()
            self._check_progress(after)
            if self.sound.video_zero_ns is None:
                self.sound.video_zero_ns = picture.arrived_ns - at_ns
            packet = cast("Packet[VideoStream]", Packet(picture.data))
            packet.stream, packet.time_base = stream, base
            units = round(at_ns * base.denominator / (base.numerator * SECOND))
            packet.pts = packet.dts = units
            pts_ns = units * SECOND * base.numerator // base.denominator  # exactly that of the frame
            self._note_loss(picture, pts_ns)
            packet.is_keyframe, packet.is_corrupt = picture.key, self._broken or pts_ns < self._exact_ns
            camera_ns = None if wall_ns is None else wall_ns - self._clock.wall_ns() + now()
            # RTP carries no decoding time. It is the presentation time until that goes back: then there are B-frames. At a key
            # frame, the camera has restarted.
            self._reordered = self._reordered or (pts_ns < self._latest_ns and not picture.key)
            self._latest_ns = pts_ns
            dts_ns = None if self._reordered else pts_ns
            self.payloads = picture.payloads
            yield packet, PacketTimes(picture.arrived_ns, waited_ns, pts_ns, dts_ns, camera_ns)
            self._progress_ns += now() - after  # the watchdog measures the source, not the time that the caller takes
        end = cast("Packet[VideoStream]", Packet())
        end.stream = stream
        yield end, PacketTimes(now(), 0, None)

    def _note_loss(self, picture: Picture, pts_ns: int) -> None:
        """Update whether pictures are broken: what follows a loss refers to what is missing, until a key frame."""
        if picture.damaged or picture.lost:
            self._broken, self._recovers_in = True, 0
        if not self._broken or picture.damaged:
            self._exact_ns = min(self._exact_ns, pts_ns) if picture.key else self._exact_ns  # times may go back
            return
        if picture.key and not self._recovers_in:
            self._recovers_in = frames_to_recovery(picture.data) if self.opened.stream.codec_context.name == "h264" else 0
            self._broken = self._recovers_in > 0
        elif self._recovers_in:
            self._recovers_in -= not is_disposable("h264", picture.data)
            self._broken = self._recovers_in > 0
        if not self._broken:
            self._exact_ns = pts_ns

    def _pictures(self) -> Iterator[ReadPicture]:
        """Yield the pictures, and report a camera whose packets contain none."""
        try:
            yield from self._rtsp.read()
        except StreamError as error:
            if not self._rtsp.any and not self._rtsp.silent:
                self._failed(error.message)
            raise

    def restart_file(self) -> bool:
        """Return False: a camera has no end."""
        return False

    def close(self) -> None:
        """Close the connection."""
        self._rtsp.close()
        # Stop the decoder's threads before PyAV frees it: see ffmpeg_log.
        self.opened.stream.codec_context.flush_buffers()
        self.opened.close()

    def _check_progress(self, now_ns: int) -> None:
        if now_ns - self._progress_ns > self._stall_ns:
            raise StreamError(
                f"{self._shown}: packets arrive, but no frame could be decoded for {self.spec.live.stall_timeout_s:g} s",
                "the packets are damaged, or the camera has changed its codec",
            )


def _opened(rtsp: RtspStream, hwaccel: HWAccel | None) -> OpenedStream:
    """Return a stream with a decoder for the pictures.

    PyAV decodes a packet with the decoder of its stream, and only a container has streams. So a container without content is
    opened; no packet is read from it.
    """
    options = {"probesize": "32", "analyzeduration": "0"}
    container = av.open(io.BytesIO(), "r", format=_FORMATS[rtsp.media.codec], options=options, hwaccel=hwaccel)
    stream = container.streams.video[0]
    sets = rtsp.media.parameter_sets()
    if sets:
        stream.codec_context.extradata = sets
    rate = rtsp.media.frame_rate
    frame_rate = Fraction(rate).limit_denominator(1001) if rate else None
    return OpenedStream(container, stream, "rtsp", "rtp", frame_rate, held=0, paced=False, timed=True, web=None)
