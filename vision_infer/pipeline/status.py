"""What the outside may know of a running pipeline: plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from vision_infer.core.drop import DropReason
from vision_infer.core.errors import VisionInferError
from vision_infer.sink.sink import Written
from vision_infer.stream.source import ReadReport, StreamInfo


class StreamState(Enum):
    """Where a stream is in its life."""

    WAITING = "waiting"
    """its turn to be opened has not come"""
    OPENING = "opening"
    RUNNING = "running"
    ENDED = "ended"
    """read to its end, all results written"""
    STOPPED = "stopped"
    """stopped before its end; what was decoded is written"""
    FAILED = "failed"
    """the source or an output broke; what was whole before that is written"""


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

    def drop(self, reason: DropReason) -> None:
        """Count a dropped frame."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """A stream changed its state."""

    stream: str
    state: StreamState
    at_ns: int
    """monotonic"""
    reason: str = ""
    """why, in one line without secrets"""


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
    )
