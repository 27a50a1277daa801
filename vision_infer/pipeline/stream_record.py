"""The counters of streams while they run, and the statuses that are made from them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

from vision_infer.analyze.zones import Zones
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import VisionInferError
from vision_infer.core.frame import Frame
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.status import HookStatus, StreamEvent, StreamState, StreamStatus, Usage
from vision_infer.sink.sink import Written
from vision_infer.stream.rtp_counts import PictureCounts, RtpCounts
from vision_infer.stream.source import ReadReport, StreamInfo
from vision_infer.telemetry.flight_recorder import FlightRecorder
from vision_infer.telemetry.histogram import Histogram
from vision_infer.telemetry.rolling import RollingHistogram, RollingRate

CHANGES_KEPT = 256
"""The number of state changes kept for each live stream."""


@dataclass(slots=True)
class LiveRecord:
    """The additional counters of a live stream."""

    lane: str
    weight: float
    wanted_fps: float | None
    connections: int = 0
    """The number of times that the source was opened."""
    last_frame_ns: int | None = None
    """The time when the last frame was decoded, monotonic."""
    left_out: dict[DropReason, int] = field(default_factory=dict)
    """The number of frames that the source has not delivered since the last frame, by reason."""
    interval_ns: float = 0.0
    """The average time between frames; 0 before the second frame."""
    clock: str | None = None
    """The origin of the last frame's capture time."""
    clock_offset_ms: float | None = None
    """How far the camera's clock is behind ours."""
    ages: RollingHistogram = field(default_factory=RollingHistogram)
    """The ages of the results of the last minute."""
    age_total: Histogram = field(default_factory=Histogram)
    """The ages of all results."""
    thread_ns: int = 0
    """The CPU time of the stream's own thread: the cost of decoding, if the decoder has no other threads."""
    convert_ns: int = 0
    """The time for writing its images into slots."""
    rate: RollingRate = field(default_factory=lambda: RollingRate(5))
    """The rates of decoded frames, results, ``thread_ns``, ``convert_ns`` and engine time."""
    flight: FlightRecorder = field(default_factory=FlightRecorder)
    """The outcomes of its frames."""
    changes: deque[StreamEvent] = field(default_factory=lambda: deque(maxlen=CHANGES_KEPT))
    """The last state changes, oldest first."""


@dataclass(slots=True)
class HookCounts:
    """The counters of a stream's hooks; the thread of the hooks writes them."""

    errors: int = 0
    """The number of calls that failed."""
    timeouts: int = 0
    """The number of these that did not return in time, or were not made because an earlier one had not returned."""
    error: str = ""
    """The last failure, one line."""
    times: RollingHistogram = field(default_factory=RollingHistogram)
    """The time in all hooks of the stream for each result."""

    def status(self, now_ns: int) -> HookStatus:
        """Return the counters as plain values; ``now_ns`` is the time now, monotonic."""
        return HookStatus(self.errors, self.timeouts, self.error, self.times.quantiles_ms(now_ns), self.times.total())


@dataclass(slots=True)
class StreamRecord:
    """The counters of a stream. One thread writes each of them; other threads may read a value that is a moment old."""

    name: str
    source: str
    """The file or URL of the source, without secrets."""
    state: StreamState = StreamState.WAITING
    info: StreamInfo | None = None
    decoded: int = 0
    """The number of frames decoded."""
    results: int = 0
    """The number of frames inferred and emitted."""
    detections: int = 0
    by_engine: dict[str, int] = field(default_factory=dict)
    """The number of results by engine: a better engine may be swapped in."""
    report: ReadReport = field(default_factory=ReadReport)
    """What was lost while the source was read."""
    unreadable: int = 0
    """The number of decoded frames whose image could not be written into the engine's slot."""
    tiles: int = 1
    """The number of slots of a batch that each of its frames needs: its tiles, or one."""
    hooks: HookCounts | None = None
    """The counters of its hooks; None if it has none."""
    dropped: dict[DropReason, int] = field(default_factory=dict)
    """The number of decoded frames without a result, by reason."""
    error: VisionInferError | None = None
    outputs: tuple[Written, ...] = ()
    """The complete files of the stream's own sinks; known once it has ended."""
    decode_ns: int = 0
    """The time in the decoder."""
    present_ns: int = 0
    """The time from opening to the last frame."""
    image_bytes: int = 0
    """The maximum memory of its decoded images in the pipeline, without the decoder's own; 0 before it is open."""
    reason: str = ""
    """The reason for the state."""
    since_ns: int = 0
    """The time of the last state change, monotonic."""
    since_wall_ns: int = 0
    """The same, nanoseconds since 1970 (UTC)."""
    zones: Zones | None = None
    """Its zones and lines, if it has any; they stay when the stream has ended."""
    live: LiveRecord | None = None
    """The additional counters of a live stream."""
    gpu: int | None = None
    """The GPU that decodes it by default; None: the CPU."""
    private: bool = False
    """Whether its state changes are not reported as events."""
    row_stream: str = ""
    """The name of the stream in its rows; empty: :attr:`name`."""

    def drop(self, reason: DropReason, frame: Frame | None = None, count: int = 1) -> None:
        """Count dropped frames. ``frame`` is None where they were not decoded."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count
        if self.live is not None:
            self.live.flight.dropped(reason, frame, count)


def progress_of(records: Sequence[StreamRecord]) -> float | None:
    """Return the approximate fraction of these streams that is decoded, 0–1; None if unknown.

    A stream that is not open yet counts like the average of the others.
    """
    known = [(record.decoded, record.info.frames) for record in records if record.info is not None and record.info.frames]
    if not known:
        return None
    expected = sum(frames for _, frames in known) * len(records) / len(known)
    return min(1.0, sum(decoded for decoded, _ in known) / expected)


def _counts(counts: RtpCounts | PictureCounts) -> dict[str, int]:
    """Return counts by name; empty if all are 0: then nothing was read over RTP."""
    named = {name: count for name, count in asdict(counts).items() if name != "restarts"}  # a number of events, not of packets
    return named if any(named.values()) else {}


def status_of(record: StreamRecord) -> StreamStatus:
    """Return the status of a stream."""
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
        gpu_decoder_failures=record.report.gpu_failures,
        damaged=record.report.damaged,
        rtp_packets=_counts(record.report.packets),
        rtp_frames=_counts(record.report.pictures),
        dropped={reason.value: count for reason, count in record.dropped.copy().items()},
        error=None if record.error is None else str(record.error),
        image_bytes=record.image_bytes,
        tiles=record.tiles,
        reason=record.reason,
        since_ns=record.since_ns,
        since_wall_ns=record.since_wall_ns,
        size=(info.size.width, info.size.height) if info and info.size else None,
        codec=info.codec if info else None,
        ingest=info.ingest if info else None,
        ingest_reason=info.ingest_reason if info else "",
        decoder=info.decoder if info else None,
        decoder_bytes=info.decoder_bytes if info else None,
        warnings=tuple(record.report.warnings),
    )


def live_status_of(record: StreamRecord, live: LiveRecord, lane: Lane, engine_ns: int, now_ns: int) -> StreamStatus:
    """Return the status of a live stream.

    Args:
        record: The counters of the stream.
        live: Its additional counters.
        lane: The lane of its frames.
        engine_ns: The engine time that it has used.
        now_ns: The time now, monotonic.
    """
    decoded_fps, result_fps, thread, convert, engine = (0.0,) * 5 if record.state.final else live.rate.per_second
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
        ages=live.ages.total(),
        engine_ns=engine_ns,
        usage=Usage(thread / 1e9, convert / 1e9, engine / 1e9),
        occupancy={} if record.zones is None else record.zones.occupancy(),
        counts={} if record.zones is None else record.zones.counts(),
        hook=None if record.hooks is None else record.hooks.status(now_ns),
    )
