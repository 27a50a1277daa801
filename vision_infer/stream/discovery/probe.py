"""What a URL sends, found out by opening it once, the way a live stream is opened, and watching it for a moment.

The first pictures are decoded, and what that costs is measured; all later ones are judged by their packets alone, so that
watching a large camera on a small machine does not hold up the reads whose times are measured.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import av
import av.container
from av.packet import Packet
from av.video.stream import VideoStream

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import StreamError
from vision_infer.core.geometry import Size
from vision_infer.stream.browser import why_not_untouched
from vision_infer.stream.discovery.packet_watch import PacketWatch
from vision_infer.stream.discovery.probe_steps import STEPS, ProbeError, Step, failed_while_opening, find_host
from vision_infer.stream.ffmpeg_log import SourceLog
from vision_infer.stream.live.capture_clock import SECOND, PacketTimes
from vision_infer.stream.live.live_packets import LivePackets
from vision_infer.stream.live.nal_units import is_intra_only
from vision_infer.stream.live.open_live import kind_of
from vision_infer.stream.live.pattern_source import SCHEME, PatternSource
from vision_infer.stream.redact import redact
from vision_infer.stream.source import LiveOptions, SourceSpec

__all__ = ["STEPS", "Probe", "ProbeError", "Step", "probe"]

WATCH_S = 3.0
"""how long packets are watched after the first picture; shorter, and jitter is luck"""
LIMIT_S = 10.0
_MAX_DECODED = 30
_GRACE_S = 0.5
"""how long after its limit a probe is left alone"""
_OPEN_PART, _STALL_PART = 0.5, 0.2
"""of the limit; FFmpeg may open twice, and says that nothing comes after twice the time-out"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What was seen of a camera."""

    url: str
    """without secrets"""
    kind: str
    """``rtsp``, ``http``, ``rtmp``, ``srt``, ``device``, ``file`` or ``test``"""
    format: str = ""
    """of the container, FFmpeg's name"""
    codec: str
    """FFmpeg's name; ``pattern`` for the built-in camera"""
    profile: str = ""
    """of the codec, as FFmpeg calls it; empty where there is none"""
    pixel_format: str = ""
    """FFmpeg's name"""
    size: Size
    """pixels as coded"""
    interlaced: bool = False
    frame_rate: float | None
    """frames a second: counted, or as the source says where too few came; None where neither tells"""
    said_rate: float | None = None
    """frames a second, as the source says; None: it does not"""
    bit_rate: float | None = None
    """bits a second while it was watched; None where too little came"""
    opened_ms: float
    """until the server had said what it sends, from the beginning"""
    first_frame_ms: float
    """until the first picture was decoded, from the beginning"""
    watched_s: float = 0.0
    """from the first packet to the last"""
    pictures: int
    """that came"""
    damaged: int = 0
    """packets that were marked as damaged, or could not be decoded"""
    jitter_ms: float | None = None
    """19 of 20 packets come no later than this after the quickest; None where they have no times of their own, or too few came"""
    key_interval_s: float | None = None
    """the longest between two key frames; None where no second one came in this time"""
    key_interval_frames: int | None = None
    since_key_s: float | None = None
    """from the last key frame until it was watched no more; None where none came"""
    b_frames: bool = False
    """pictures come in another order than they are shown"""
    decode_ms: float | None = None
    """CPU time of one thread for each of the first pictures; None where nothing is decoded"""
    sound: str = ""
    """FFmpeg's name of the codec of its first sound track; empty: none"""
    camera_clock: bool = False
    """whether it tells the time by its own clock"""
    not_untouched: str
    """why a browser cannot be sent its packets as they are; empty where it can"""

    @property
    def untouched(self) -> bool:
        """Whether a browser plays its packets as they are, so that nothing has to be encoded for viewers."""
        return not self.not_untouched


def probe(
    url: str,
    live: LiveOptions = LiveOptions(),  # noqa: B008
    *,
    watch_s: float = WATCH_S,
    limit_s: float = LIMIT_S,
    stopping: threading.Event | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Probe:
    """Open a source, watch it until a second key frame came, ``watch_s`` at least and ``limit_s`` at most, and close it.

    It runs on a thread of its own, which is left behind where a library does not come back: that ends it at its own time-outs.

    Args:
        url: as of a stream; ``test://`` too.
        live: how it is read; its ``allow_networks`` hold here as for a stream, its time-outs are shortened to fit into the limit.
        watch_s: how long it is watched after the first picture, seconds.
        limit_s: how long all of it may take, seconds.
        stopping: set it, and no further packet is read.
        clock: monotonic and wall time.

    Raises:
        ProbeError: there was no picture; says at which step it failed.
    """
    run = _Run(url, live, watch_s, limit_s, stopping or threading.Event(), clock)
    thread = threading.Thread(target=run, name="probe", daemon=True)
    thread.start()
    thread.join(limit_s + _GRACE_S)
    if thread.is_alive():
        run.given_up.set()
        late = f"{run.shown}: {STEPS[run.step]} took longer than {limit_s:g} s"
        raise ProbeError(run.step, StreamError(late, "is it on, and reachable from here?"))
    if run.failure is not None:
        raise run.failure
    assert run.result is not None
    return run.result


class _Run:
    """One probe, on its thread."""

    def __init__(
        self, url: str, live: LiveOptions, watch_s: float, limit_s: float, stopping: threading.Event, clock: Clock
    ) -> None:
        self.shown = redact(url)
        self.given_up = threading.Event()
        self.step: Step = "address"
        self.result: Probe | None = None
        self.failure: BaseException | None = None
        live = replace(
            live,
            open_timeout_s=min(live.open_timeout_s, _OPEN_PART * limit_s),
            stall_timeout_s=min(live.stall_timeout_s, _STALL_PART * limit_s),
            loop=False,
            assemble=False,
        )
        self._spec = SourceSpec("probe", "live", (url,), live=live)
        self._stopping = stopping
        self._clock = clock
        self._began_ns = clock.monotonic_ns()
        self._until_ns = self._began_ns + round(limit_s * SECOND)
        self._watch_ns = round(watch_s * SECOND)

    def __call__(self) -> None:
        look: Callable[[], Probe] = self._pattern if self._spec.paths[0].startswith(SCHEME) else self._camera
        try:
            self.result = look()
        except StreamError as error:
            step = self.step
            if step == "answer":
                step = failed_while_opening(error, self._spec, self._since_ns() / SECOND)
            self.failure = ProbeError(step, error)
            self.failure.__context__ = None  # a library's error would show the whole URL
        except BaseException as error:  # noqa: BLE001 - it is raised on the thread that asked
            self.failure = error

    def _camera(self) -> Probe:
        log = SourceLog(self._spec.name)
        try:
            kind_of(self._spec.paths[0])  # refuses schemes that nothing here opens
            self.step = "name"
            find_host(self._spec)
            self.step = "answer"
            packets = LivePackets(self._spec, self._stopping, self._clock, log)
            opened_ns = self._since_ns()
            self.step = "picture"
            try:
                return self._watched(packets, opened_ns)
            finally:
                packets.close()
        finally:
            log.close()

    def _watched(self, packets: LivePackets, opened_ns: int) -> Probe:
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
                pictures = _decoded(packet, watch)
                cpu_ns += time.thread_time_ns() - before
                decoded += len(pictures)
                if first is None and pictures:
                    first, first_ns = pictures[0], self._since_ns()
            packets.made_progress()  # frames that cannot be decoded yet, or that are not decoded, are not a stall
            if self._enough(watch, times, first_ns):
                break
        if first is None:
            message = f"{self.shown}: {watch.pictures} packets came, and no picture could be decoded"
            raise StreamError(message, "its key frames are too far apart, or what it sends is damaged")
        return self._told(packets, watch, first, (opened_ns, first_ns), cpu_ns / 1e6 / decoded)

    def _enough(self, watch: PacketWatch, times: PacketTimes, first_ns: int) -> bool:
        """Whether it was watched for long enough, by our clock or, where packets come at any pace, by its own."""
        if self.given_up.is_set() or times.read_ns >= self._until_ns:
            return True
        if not first_ns or watch.key_interval_frames is None:
            return False
        return max(times.read_ns - self._began_ns - first_ns, watch.shown_ns) >= self._watch_ns

    def _told(
        self, packets: LivePackets, watch: PacketWatch, first: av.VideoFrame, times_ns: tuple[int, int], decode_ms: float
    ) -> Probe:
        opened, context = packets.opened, packets.opened.stream.codec_context
        said = opened.stream.average_rate or opened.stream.base_rate
        b_frames = watch.b_frames or bool(context.has_b_frames)
        return Probe(
            url=self.shown,
            kind=opened.kind,
            format=opened.container.format.name,
            codec=context.name,
            profile=str(context.profile or ""),
            pixel_format=first.format.name,
            size=Size(first.width, first.height),
            interlaced=first.interlaced_frame,
            frame_rate=watch.rate or (float(said) if said else None),
            said_rate=float(said) if said else None,
            bit_rate=watch.bit_rate,
            opened_ms=times_ns[0] / 1e6,
            first_frame_ms=times_ns[1] / 1e6,
            watched_s=watch.watched_s,
            pictures=watch.pictures,
            damaged=watch.damaged,
            jitter_ms=None if opened.paced or not opened.timed else watch.jitter_ms(),
            key_interval_s=watch.key_interval_s,
            key_interval_frames=watch.key_interval_frames,
            since_key_s=watch.since_key_s,
            b_frames=b_frames,
            decode_ms=decode_ms,
            sound=_sound(opened.container),
            camera_clock=watch.camera_clock,
            not_untouched=why_not_untouched(context.name, str(context.profile or ""), first.format.name, b_frames),
        )

    def _pattern(self) -> Probe:
        """The built-in camera: what it says of itself holds."""
        with PatternSource(self._spec, self._stopping, self._clock) as source:
            opened_ns = self._since_ns()
            self.step = "picture"
            if next(source.frames(), None) is None or source.info.size is None:
                raise StreamError(f"{self.shown}: no picture came", "it was stopped before one did")
            rate = source.info.frame_rate
            return Probe(
                url=self.shown,
                kind="test",
                codec="pattern",
                size=source.info.size,
                frame_rate=float(rate) if rate else None,
                opened_ms=opened_ns / 1e6,
                first_frame_ms=self._since_ns() / 1e6,
                pictures=1,
                not_untouched="it is drawn here, and has no packets",
            )

    def _since_ns(self) -> int:
        return self._clock.monotonic_ns() - self._began_ns


def _decoded(packet: Packet[VideoStream], watch: PacketWatch) -> list[av.VideoFrame]:
    try:
        return list(packet.decode())
    except EOFError:  # the decoder was flushed already
        return []
    except av.error.FFmpegError:
        watch.damaged += 1
        return []


def _sound(container: av.container.InputContainer) -> str:
    """FFmpeg's name of the codec of the first sound track; empty where there is none."""
    tracks = container.streams.audio
    context = getattr(tracks[0], "codec_context", None) if tracks else None
    return "" if context is None else str(context.name)
