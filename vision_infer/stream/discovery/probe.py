"""Opens a URL once, in the same way as a live stream, and measures what it sends for a moment.

The first frames are decoded to measure the cost. Later ones are judged by their packets only, so that probing a large camera on a
small machine does not delay the reads that are timed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import av
import av.container
from av.video.codeccontext import VideoCodecContext

from vision_infer.config.preview import PreviewSettings
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import StreamError
from vision_infer.core.geometry import Size
from vision_infer.stream.browser import VideoFacts, passthrough
from vision_infer.stream.discovery.packet_watch import PacketWatch
from vision_infer.stream.discovery.probe_steps import STEPS, ProbeError, Step, failed_while_opening, find_host, with_paths
from vision_infer.stream.ffmpeg_log import SourceLog
from vision_infer.stream.live.capture_clock import SECOND, PacketTimes
from vision_infer.stream.live.ingest import open_packets, why_ffmpeg
from vision_infer.stream.live.live_packets import LivePackets
from vision_infer.stream.live.nal_units import is_intra_only
from vision_infer.stream.live.open_live import kind_of
from vision_infer.stream.live.pattern_source import SCHEME, PatternSource
from vision_infer.stream.live.rtp_packets import RtpPackets
from vision_infer.stream.redact import redact
from vision_infer.stream.source import MAX_LIVE_PIXELS, LiveOptions, ReadOptions, SourceSpec

__all__ = ["STEPS", "Probe", "ProbeError", "Step", "probe"]

WATCH_S = 3.0
"""The time for which packets are watched after the first frame, seconds; the jitter of a shorter time is not representative."""
LIMIT_S = 10.0
_MAX_DECODED = 30
_GRACE_S = 0.5
"""The time after its limit at which a probe is abandoned, seconds."""
_OPEN_PART, _STALL_PART = 0.5, 0.2
"""The parts of the limit for opening and for a stall; FFmpeg may open twice, and reports a stall after twice the timeout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The result of a probe."""

    url: str
    """The URL without secrets."""
    kind: str
    """The kind of source: ``rtsp``, ``http``, ``rtmp``, ``srt``, ``device``, ``file`` or ``test``."""
    format: str = ""
    """FFmpeg's name of the container format; ``rtp`` for an RTSP camera that this program reads itself."""
    ingest: Literal["rtp", "ffmpeg"] | None = None
    """What reads it, as in the settings of a stream; None for the test pattern."""
    ingest_reason: str = ""
    """Why FFmpeg reads an RTSP camera although ``ingest`` is ``auto``, without secrets; empty if it does not."""
    ingest_delays: bool = False
    """Whether FFmpeg passes on a frame only when the next one begins."""
    codec: str
    """FFmpeg's name of the codec; ``pattern`` for the test pattern."""
    profile: str = ""
    """FFmpeg's name of the codec's profile; empty if it has none."""
    pixel_format: str = ""
    """FFmpeg's name of the pixel format."""
    size: Size
    """The coded size in pixels."""
    interlaced: bool = False
    frame_rate: float | None
    """The measured frame rate in frames/s, or the announced one if too few frames arrived; None if both are unknown."""
    nominal_rate: float | None = None
    """The frame rate that the source announces, frames/s; None if it announces none."""
    bit_rate: float | None = None
    """The measured bit rate, bits per second; None if too few packets arrived."""
    opened_ms: float
    """The time until the source was open, milliseconds from the beginning."""
    first_frame_ms: float
    """The time until the first frame was decoded, milliseconds from the beginning."""
    watched_s: float = 0.0
    """The time from the first to the last packet, seconds."""
    frames: int
    """The number of frames that arrived."""
    damaged: int = 0
    """The number of packets that were marked as damaged or could not be decoded."""
    packets_received: int = 0
    """The number of RTP packets that were received; 0 if FFmpeg reads it."""
    packets_lost: int = 0
    """The number of RTP packets that were lost."""
    jitter_ms: float | None = None
    """The 95th percentile of the packet delay relative to the fastest packet, milliseconds; None if it cannot be measured."""
    key_interval_s: float | None = None
    """The longest interval between two key frames, seconds; None if fewer than two arrived."""
    key_interval_frames: int | None = None
    since_key_s: float | None = None
    """The time from the last key frame to the end, seconds; None if none arrived."""
    b_frames: bool = False
    """Whether the decoding order differs from the presentation order."""
    decode_ms: float | None = None
    """The CPU time of one thread per decoded frame, milliseconds; None if nothing is decoded."""
    audio_codec: str = ""
    """FFmpeg's name of the first audio track's codec; empty if there is none."""
    camera_clock: bool = False
    """Whether it sends the time of its clock."""
    passthrough_problem: str
    """The reason why the preview encodes the video for all browsers; empty if some get the packets unmodified."""
    passthrough_players: str = ""
    """The browsers that get the packets unmodified; empty if none do."""


def probe(
    url: str,
    live: LiveOptions = LiveOptions(),  # noqa: B008
    *,
    watch_s: float = WATCH_S,
    limit_s: float = LIMIT_S,
    stopping: threading.Event | None = None,
    clock: Clock = SYSTEM_CLOCK,
    max_height: int = PreviewSettings().max_height,
) -> Probe:
    """Open a source, watch it until a second key frame arrives, for ``watch_s`` to ``limit_s`` seconds, and close it.

    The probe runs on a separate thread. If a library call does not return in time, the thread is abandoned and ends at its own
    timeouts.

    Args:
        url: A URL as for a stream, including ``test://``.
        live: The read options. ``allow_networks`` applies as for a stream; the timeouts are shortened to fit into the limit.
        watch_s: The time for which the source is watched after the first frame, seconds.
        limit_s: The time limit of the whole probe, seconds.
        stopping: Stops the reads when it is set.
        clock: The monotonic and wall clock.
        max_height: The maximum height that the preview passes through, pixels: ``preview.max_height``.

    Raises:
        ProbeError: No frame arrived; its ``step`` says where the probe failed.
    """
    run = _ProbeRun(url, live, watch_s, limit_s, stopping or threading.Event(), clock, max_height)
    thread = threading.Thread(target=run, name="probe", daemon=True)
    thread.start()
    thread.join(limit_s + _GRACE_S)
    if thread.is_alive():
        run.abandoned.set()
        late = f"{run.shown}: timeout of {limit_s:g} s {STEPS[run.step]}"
        raise ProbeError(run.step, StreamError(late, "Check that it is on and reachable from this machine."))
    if run.failure is not None:
        raise run.failure
    assert run.result is not None
    return run.result


class _ProbeRun:
    """One probe, which runs on its own thread."""

    def __init__(
        self,
        url: str,
        live: LiveOptions,
        watch_s: float,
        limit_s: float,
        stopping: threading.Event,
        clock: Clock,
        max_height: int,
    ) -> None:
        self.shown = redact(url)
        self.abandoned = threading.Event()
        self.step: Step = "address"
        self.result: Probe | None = None
        self.failure: BaseException | None = None
        live = replace(
            live,
            open_timeout_s=min(live.open_timeout_s, _OPEN_PART * limit_s),
            stall_timeout_s=min(live.stall_timeout_s, _STALL_PART * limit_s),
            loop=False,
        )
        self._spec = SourceSpec("probe", "live", (url,), read=ReadOptions(max_pixels=MAX_LIVE_PIXELS), live=live)
        self._stopping = stopping
        self._clock = clock
        self._max_height = max_height
        self._began_ns = clock.monotonic_ns()
        self._until_ns = self._began_ns + round(limit_s * SECOND)
        self._watch_ns = round(watch_s * SECOND)

    def __call__(self) -> None:
        run: Callable[[], Probe] = self._pattern if self._spec.paths[0].startswith(SCHEME) else self._camera
        try:
            self.result = run()
        except StreamError as error:
            step = self.step
            if step == "answer":
                step = failed_while_opening(error, self._spec, self._since_ns() / SECOND)
            self.failure = ProbeError(step, with_paths(error, self._spec))
            self.failure.__context__ = None  # a library's error would show the whole URL
        except BaseException as error:  # noqa: BLE001 - it is raised on the caller's thread
            self.failure = error

    def _camera(self) -> Probe:
        log = SourceLog(self._spec.name)
        try:
            kind_of(self._spec.paths[0])  # rejects unsupported schemes
            self.step = "name"
            find_host(self._spec)
            self.step = "answer"
            packets = open_packets(self._spec, self._stopping, self._clock, log)
            opened_ns = self._since_ns()
            self.step = "frame"
            try:
                return self._watched(packets, opened_ns)
            finally:
                packets.close()
        finally:
            log.close()

    def _watched(self, packets: LivePackets | RtpPackets, opened_ns: int) -> Probe:
        context = packets.opened.stream.codec_context
        context.thread_type = "NONE"
        watch = PacketWatch(is_intra_only(context.name), packets.opened.timed)
        first: av.VideoFrame | None = None
        first_ns, decoded, cpu_ns = 0, 0, 0
        for packet, times in packets.read():
            if packet.size:
                watch.packet(packet.size, packet.is_keyframe, packet.is_corrupt, times)
            if decoded < _MAX_DECODED:
                before = time.thread_time_ns()
                frames = watch.decode(packet)
                cpu_ns += time.thread_time_ns() - before
                decoded += len(frames)
                if first is None and frames:
                    first, first_ns = frames[0], self._since_ns()
            packets.made_progress()  # frames that cannot be decoded yet, or that are not decoded, are not a stall
            if self._enough(watch, times, first_ns):
                break
        if first is None:
            message = f"{self.shown}: {watch.frames} packets arrived, but no frame could be decoded"
            raise StreamError(message, "its key frames are too far apart, or its packets are damaged")
        return self._result(packets, watch, first, (opened_ns, first_ns), cpu_ns / 1e6 / decoded)

    def _enough(self, watch: PacketWatch, times: PacketTimes, first_ns: int) -> bool:
        """Return whether it was watched for long enough: by our clock, or by its timestamps if it does not send in real time."""
        if self.abandoned.is_set() or times.read_ns >= self._until_ns:
            return True
        if not first_ns or watch.key_interval_frames is None:
            return False
        return max(times.read_ns - self._began_ns - first_ns, watch.duration_ns) >= self._watch_ns

    def _result(
        self,
        packets: LivePackets | RtpPackets,
        watch: PacketWatch,
        first: av.VideoFrame,
        times_ns: tuple[int, int],
        decode_ms: float,
    ) -> Probe:
        opened, context = packets.opened, packets.opened.stream.codec_context
        nominal = opened.frame_rate
        b_frames = watch.b_frames or bool(context.has_b_frames)
        shown = passthrough(_video_facts(context, first), b_frames, self._max_height)
        return Probe(
            url=self.shown,
            kind=opened.kind,
            format=opened.format,
            ingest="rtp" if isinstance(packets, RtpPackets) else "ffmpeg",
            ingest_reason=why_ffmpeg(self._spec.paths[0]) if self._spec.live.ingest == "auto" else "",
            ingest_delays=opened.held > 0,
            codec=context.codec.canonical_name,
            profile=str(context.profile or ""),
            pixel_format=first.format.name,
            size=Size(first.width, first.height),
            interlaced=first.interlaced_frame,
            frame_rate=watch.rate or (float(nominal) if nominal else None),
            nominal_rate=float(nominal) if nominal else None,
            bit_rate=watch.bit_rate,
            opened_ms=times_ns[0] / 1e6,
            first_frame_ms=times_ns[1] / 1e6,
            watched_s=watch.watched_s,
            frames=watch.frames,
            damaged=watch.damaged,
            packets_received=packets.packets.received if isinstance(packets, RtpPackets) else 0,
            packets_lost=packets.packets.lost if isinstance(packets, RtpPackets) else 0,
            jitter_ms=None if opened.paced or not opened.timed else watch.jitter_ms(),
            key_interval_s=watch.key_interval_s,
            key_interval_frames=watch.key_interval_frames,
            since_key_s=watch.since_key_s,
            b_frames=b_frames,
            decode_ms=decode_ms,
            audio_codec=packets.sound.format.codec if packets.sound.format else "",
            camera_clock=watch.camera_clock,
            passthrough_problem=shown.problem,
            passthrough_players=shown.players,
        )

    def _pattern(self) -> Probe:
        """Return the properties of the test pattern as it announces them."""
        with PatternSource(self._spec, self._stopping, self._clock) as source:
            opened_ns = self._since_ns()
            self.step = "frame"
            if next(source.frames(), None) is None or source.info.size is None:
                raise StreamError(f"{self.shown}: no frame arrived", "the probe was stopped")
            rate = source.info.frame_rate
            return Probe(
                url=self.shown,
                kind="test",
                codec="pattern",
                size=source.info.size,
                frame_rate=float(rate) if rate else None,
                opened_ms=opened_ns / 1e6,
                first_frame_ms=self._since_ns() / 1e6,
                frames=1,
                passthrough_problem=passthrough(VideoFacts("rawvideo"), False, self._max_height).problem,
            )

    def _since_ns(self) -> int:
        return self._clock.monotonic_ns() - self._began_ns


def _video_facts(context: VideoCodecContext, frame: av.VideoFrame) -> VideoFacts:
    """Return the facts of decoded video."""
    form, profile = frame.format, str(context.profile or "")
    chroma = "4:0:0"
    if len(form.components) > 1:
        across, down = form.chroma_width(2), form.chroma_height(2)
        chroma = {(1, 1): "4:2:0", (1, 2): "4:2:2", (2, 2): "4:4:4"}.get((across, down), "4:4:0")
    size = Size(frame.width, frame.height)
    codec, bits = context.codec.canonical_name, form.components[0].bits
    return VideoFacts(codec, profile, bits=bits, chroma=chroma, size=size, interlaced=frame.interlaced_frame)
