"""What the outside may know of a running pipeline: plain values."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from vision_infer.analyze.zones import Zones
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import VisionInferError
from vision_infer.core.frame import Frame
from vision_infer.pipeline.dispatch import LaneLoad
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.sink.sink import Written
from vision_infer.stream.source import ReadReport, StreamInfo
from vision_infer.telemetry.flight_recorder import FlightRecorder
from vision_infer.telemetry.histogram import Histogram
from vision_infer.telemetry.rolling import Rate, RollingHistogram

CHANGES_KEPT = 256
"""changes of state that are kept of each live stream"""


class StreamState(Enum):
    """Where a stream is in its life."""

    WAITING = "waiting"
    """its turn to be opened has not come"""
    OPENING = "opening"
    RUNNING = "running"
    CONNECTING = "connecting"
    """a live source is being opened, or has not given its first frame yet"""
    LIVE = "live"
    """frames come"""
    STALLED = "stalled"
    """connected, and no frame came for a while"""
    BACKING_OFF = "backing_off"
    """the connection is gone; the next attempt waits for its time"""
    REFUSED = "refused"
    """the camera or server refused: wrong password, no such stream, nothing that can be decoded; the next attempt waits long"""
    ENDED = "ended"
    """read to its end, all results written"""
    STOPPED = "stopped"
    """stopped before its end; what was decoded is written"""
    FAILED = "failed"
    """the source or an output broke; what was whole before that is written. A live stream fails when its attempts are used up"""

    @property
    def final(self) -> bool:
        """Whether nothing more comes of the stream."""
        return self in (StreamState.ENDED, StreamState.STOPPED, StreamState.FAILED)


@dataclass(slots=True)
class LiveRecord:
    """What is counted of a live stream besides."""

    lane: str
    weight: float
    wanted_fps: float | None
    connections: int = 0
    """how often the source was opened"""
    last_frame_ns: int | None = None
    """when the last frame was decoded, monotonic"""
    left_out: dict[DropReason, int] = field(default_factory=dict)
    """frames that the source has left out since the last that it gave"""
    interval_ns: float = 0.0
    """between frames, about; 0 before the second"""
    clock: str | None = None
    """where the last frame's time of capture came from"""
    clock_offset_ms: float | None = None
    """how far the camera's own clock is behind ours"""
    ages: RollingHistogram = field(default_factory=RollingHistogram)
    """of the results of the last minute"""
    age_total: Histogram = field(default_factory=Histogram)
    """of all results"""
    thread_ns: int = 0
    """CPU time of the stream's own thread: what decoding takes, where the decoder has no threads of its own"""
    convert_ns: int = 0
    """time in which its pictures were written into slots"""
    rate: Rate = field(default_factory=lambda: Rate(5))
    """frames decoded, results, and ``thread_ns``, ``convert_ns`` and the engine's time"""
    flight: FlightRecorder = field(default_factory=FlightRecorder)
    """what became of its frames"""
    changes: deque[StreamEvent] = field(default_factory=lambda: deque(maxlen=CHANGES_KEPT))
    """its last changes of state, oldest first"""


@dataclass(slots=True)
class StreamRecord:
    """The counts of a stream. Each is written by one thread; whoever reads sees a value that is a moment old."""

    name: str
    source: str
    """the file, or what else the user named; without secrets"""
    state: StreamState = StreamState.WAITING
    info: StreamInfo | None = None
    decoded: int = 0
    """frames decoded"""
    results: int = 0
    """frames inferred and emitted"""
    detections: int = 0
    by_engine: dict[str, int] = field(default_factory=dict)
    """results by the engine that they are of: a better one may be swapped in"""
    report: ReadReport = field(default_factory=ReadReport)
    """what was lost while it was read"""
    unreadable: int = 0
    """frames that were decoded, and whose picture could not be written into the engine's slot"""
    hook_errors: int = 0
    """results that went on unchanged because the hook failed on them"""
    dropped: dict[DropReason, int] = field(default_factory=dict)
    """frames that were decoded and gave no result, by reason"""
    error: VisionInferError | None = None
    outputs: tuple[Written, ...] = ()
    """the stream's own files that are in their place; known once it has ended"""
    decode_ns: int = 0
    """time in the decoder, monotonic"""
    present_ns: int = 0
    """time from opening to the last frame, monotonic"""

    picture_bytes: int = 0
    """most memory that its decoded pictures on their way take, beside the decoder's own; 0 until it is open"""
    reason: str = ""
    """why it is in its state"""
    since_ns: int = 0
    """when it came into its state, monotonic"""
    since_wall_ns: int = 0
    """the same, since 1970 (UTC)"""
    live: LiveRecord | None = None
    """of a live stream"""
    private: bool = False
    """Whether its state changes are not reported as events."""

    def drop(self, reason: DropReason, frame: Frame | None = None, count: int = 1) -> None:
        """Count a dropped frame; None where it was not decoded."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count
        if self.live is not None:
            self.live.flight.dropped(reason, frame, count)


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """A stream changed its state."""

    stream: str
    state: StreamState
    at_ns: int
    """monotonic"""
    reason: str = ""
    """why, in one line without secrets"""
    at_wall_ns: int = 0
    """since 1970 (UTC)"""


@dataclass(frozen=True, slots=True)
class Flight:
    """What became of a live stream's frames, and of the stream."""

    frames: FlightRecorder
    changes: tuple[StreamEvent, ...]
    """its last changes of state, oldest first"""
    wanted_fps: float | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a live stream takes, over the last ten seconds or so: seconds of it in each second."""

    thread: float = 0.0
    """CPU time of its own thread"""
    convert: float = 0.0
    """its pictures being written into slots"""
    engine: float = 0.0
    """engine time, batches shared out among their frames"""


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """A stream as it is now."""

    name: str
    source: str
    state: StreamState
    frames_expected: int | None
    """frames in the whole stream; None if unknown"""
    frame_rate: float | None
    """frames per second of the source; None if unknown"""
    decoded: int
    results: int
    detections: int
    gaps: int
    dropped: dict[str, int]
    error: str | None
    picture_bytes: int
    """most memory that its decoded pictures on their way take; 0 until it is open, and where it is not known"""
    live: bool = False
    reason: str = ""
    """why it is in its state, one line without secrets; empty where there is nothing to say"""
    since_ns: int = 0
    """when it came into its state, monotonic"""
    since_wall_ns: int = 0
    """the same, since 1970 (UTC)"""
    size: tuple[int, int] | None = None
    """width and height of the source picture; None until it is known"""
    codec: str | None = None
    decoder: str | None = None
    """what decodes it: ``cpu``, or ``cuda:0``; None until it is open"""
    decoder_bytes: int | None = None
    """about what its decoder takes of a GPU's memory; None: it is decoded on the CPU"""
    warnings: tuple[str, ...] = ()
    """what should be known of it, a line each"""
    reconnects: int = 0
    """connections after the first"""
    last_frame_ns: int | None = None
    """when the last frame was decoded, monotonic; None: none yet"""
    clock_offset_ms: float | None = None
    """how far the camera's own clock is behind ours, milliseconds; None where it is not known"""
    clock: str | None = None
    """where the last frame's time of capture came from; None before the first"""
    lane: str = ""
    model: str = ""
    engine: str = ""
    wanted_fps: float | None = None
    """most frames a second that are inferred; None: all"""
    weight: float = 1.0
    decoded_fps: float = 0.0
    """over the last ten seconds or so"""
    result_fps: float = 0.0
    """over the last ten seconds or so"""
    age_ms: Mapping[str, float] = field(default_factory=dict)
    """``p50``, ``p95``, ``p99``, ``max`` of the ages of its results in the last minute or so; empty without one"""
    engine_ns: int = 0
    """engine time that it has used"""
    usage: Usage = field(default_factory=Usage)
    degraded: str = "none"
    """how far it gives way while the machine is too small: none, rate, substream, model"""
    degraded_wall_ns: int = 0
    """since when, nanoseconds since 1970 (UTC); 0 where it does not give way"""
    degraded_reason: str = ""
    """what was measured when it came there; empty where it does not give way"""
    occupancy: Mapping[str, int] = field(default_factory=dict)
    """objects in each zone now"""
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """crossings of each line so far, in and out"""


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """A lane as it is now."""

    name: str
    model: str
    engine: str
    input_size: tuple[int, int]
    """width and height, pixels"""
    batch_sizes: tuple[int, ...]
    in_flight: int
    """batches at the same time, at most"""
    flying: int
    """batches in the engine now"""
    waiting: int
    """frames that wait for it now"""
    batches: Mapping[int, int]
    """batches so far, by the number of frames in them"""
    frames: int
    """frames inferred so far"""
    busy_ns: int
    """engine time so far, over all batches"""
    utilisation: float
    """part of the engine's places for batches that was in use, over the last ten seconds or so, 0–1"""
    inference_ms: Mapping[str, float]
    """``p50``, ``p95``, ``p99`` of the engine's time for a batch in the last minute or so"""
    padded: int
    """places of batches wasted so far"""
    buffer_bytes: int
    """size of the engine's input and output buffers"""
    failures: int = 0
    """batches on which the engine failed"""
    error: str | None = None
    """the last failure"""
    failing: bool = False
    """it has failed on every batch lately"""


def progress_of(records: Sequence[StreamRecord]) -> float | None:
    """How much of these streams is decoded, 0–1, about; None if unknown. One that is not open yet counts like the others."""
    known = [(record.decoded, record.info.frames) for record in records if record.info is not None and record.info.frames]
    if not known:
        return None
    expected = sum(frames for _, frames in known) * len(records) / len(known)
    return min(1.0, sum(decoded for decoded, _ in known) / expected)


def status_of(record: StreamRecord) -> StreamStatus:
    """A snapshot of a stream's record."""
    info = record.info
    return StreamStatus(
        name=record.name,
        source=record.source,
        state=record.state,
        frames_expected=info.frames if info else None,
        frame_rate=float(info.frame_rate) if info and info.frame_rate else None,
        decoded=record.decoded,
        results=record.results,
        detections=record.detections,
        gaps=record.report.gaps + record.unreadable,
        dropped={reason.value: count for reason, count in record.dropped.copy().items()},
        error=None if record.error is None else str(record.error),
        picture_bytes=record.picture_bytes,
        reason=record.reason,
        since_ns=record.since_ns,
        since_wall_ns=record.since_wall_ns,
        size=(info.size.width, info.size.height) if info and info.size else None,
        codec=info.codec if info else None,
        decoder=info.decoder if info else None,
        decoder_bytes=info.decoder_bytes if info else None,
        warnings=tuple(record.report.warnings),
    )


def live_status_of(
    record: StreamRecord, live: LiveRecord, lane: Lane, zones: Zones | None, engine_ns: int, now_ns: int
) -> StreamStatus:
    """A snapshot of a live stream's record.

    Args:
        record: its counts.
        live: its other counts.
        lane: where its frames go.
        zones: where its tracks are, if that is looked at.
        engine_ns: the engine time that it has used.
        now_ns: monotonic.
    """
    decoded_fps, result_fps, thread, convert, engine = live.rate.per_second
    return replace(
        status_of(record),
        live=True,
        reconnects=max(0, live.connections - 1),
        last_frame_ns=live.last_frame_ns,
        clock_offset_ms=live.clock_offset_ms,
        clock=live.clock,
        lane=lane.group,
        model=lane.engine.card.name,
        engine=lane.engine.name,
        wanted_fps=live.wanted_fps,
        weight=live.weight,
        decoded_fps=round(decoded_fps, 2),
        result_fps=round(result_fps, 2),
        age_ms=live.ages.quantiles_ms(now_ns),
        engine_ns=engine_ns,
        usage=Usage(thread / 1e9, convert / 1e9, engine / 1e9),
        occupancy={} if zones is None else zones.occupancy(),
        counts={} if zones is None else zones.counts(),
    )


def lane_status_of(lane: Lane, load: LaneLoad, waiting: int, flying: int, now_ns: int) -> LaneStatus:
    """A snapshot of a lane.

    Args:
        lane: which.
        load: what it has done.
        waiting: frames that wait for it.
        flying: batches in the engine.
        now_ns: monotonic.
    """
    engine = lane.engine
    size = engine.input_size
    return LaneStatus(
        name=lane.name,
        model=engine.card.name,
        engine=engine.name,
        input_size=(size.width, size.height),
        batch_sizes=engine.batch_sizes,
        in_flight=engine.in_flight,
        flying=flying,
        waiting=waiting,
        batches=load.batches,
        frames=load.frames,
        busy_ns=load.engine_ns,
        utilisation=min(1.0, round(load.rate.per_second[0] / 1e9 / engine.in_flight, 4)),
        inference_ms=load.times.quantiles_ms(now_ns),
        padded=load.padded,
        buffer_bytes=engine.buffer_bytes,
    )
