"""What a run has done and what it cost, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vision_infer.core.trace import STAGES
from vision_infer.pipeline.status import StreamRecord, StreamState, status_of
from vision_infer.telemetry.account import Work

BUSY_ENOUGH = 0.5
"""a part that was busy for less than half of its time did not bound the run"""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The account of a run; ``to_dict`` is what ``--summary`` and ``--json`` print."""

    frames: int
    """frames inferred, over all sources"""
    decoded: int
    """frames decoded, over all sources"""
    detections: int
    seconds: float
    """from the first open to the last result written"""
    startup_seconds: float
    """from the start of the process to the first open: imports, the engine, its warm-up"""
    cpu_seconds: float
    """CPU time of the whole process during ``seconds``, user and system"""
    peak_rss_bytes: int
    """most memory that the process has had resident"""
    bound_by: str
    """the busiest stage, or ``nothing``"""
    busy: dict[str, float]
    """for each stage how busy its workers were, 0–1"""
    stages: dict[str, dict[str, Any]]
    """for each stage mean_ms, p50_ms, p95_ms, p99_ms, share"""
    sources: tuple[dict[str, Any], ...]
    model: str
    engine: str
    """the last one"""
    outputs: tuple[str, ...]
    padded: int
    """places of batches that were wasted"""
    interrupted: bool
    """it was stopped before its end"""
    encoders: dict[str, str] = field(default_factory=dict)
    """for each annotated video the encoder that made it"""
    frames_by_engine: dict[str, int] = field(default_factory=dict)
    """more than one where a better engine was swapped in"""
    engine_reasons: tuple[str, ...] = ()
    """why it is this engine, and what took longer than usual to open it; a line each"""
    exit_status: int = 0
    """of the command: 0, or that of the worst error of a source or its outputs"""

    @property
    def fps(self) -> float:
        """Frames inferred a second."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    @property
    def failed(self) -> bool:
        """Whether a source could not be read to its end, or an output not be written."""
        return any(source["error"] for source in self.sources)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "frames": self.frames,
            "decoded": self.decoded,
            "detections": self.detections,
            "seconds": round(self.seconds, 4),
            "startup_seconds": round(self.startup_seconds, 4),
            "fps": round(self.fps, 3),
            "cpu_seconds": round(self.cpu_seconds, 4),
            "peak_rss_bytes": self.peak_rss_bytes,
            "bound_by": self.bound_by,
            "busy": {stage: round(fraction, 4) for stage, fraction in self.busy.items()},
            "stages": self.stages,
            "sources": list(self.sources),
            "model": self.model,
            "engine": self.engine,
            "frames_by_engine": self.frames_by_engine,
            "engine_reasons": list(self.engine_reasons),
            "outputs": list(self.outputs),
            "encoders": self.encoders,
            "padded": self.padded,
            "interrupted": self.interrupted,
        }


def busy_fractions(work: Work) -> dict[str, float]:
    """How busy the workers of each stage were; ``queue`` has none."""
    return {stage: getattr(work, stage).fraction for stage in STAGES if stage != "queue"}


def bound_by(work: Work) -> str:
    """The stage that held the others up.

    A decoder waits when its window is full, an inference worker when no frame is there: whoever never waits is the bottleneck.
    The inference workers do two stages; together they count, and the longer one is named.
    """
    inferring = work.preprocess.fraction + work.inference.fraction
    longer = "inference" if work.inference.busy_ns >= work.preprocess.busy_ns else "preprocess"
    parts = {
        longer: inferring,
        "decode": work.decode.fraction,
        "postprocess": work.postprocess.fraction,
        "write": work.write.fraction,
    }
    name, fraction = max(parts.items(), key=lambda part: part[1])
    return name if fraction >= BUSY_ENOUGH else "nothing"


def frames_by_engine(records: Sequence[StreamRecord]) -> dict[str, int]:
    """Results of all sources by the engine that they are of, in the order in which the engines came."""
    counts: dict[str, int] = {}
    for record in records:
        for engine, count in record.by_engine.items():
            counts[engine] = counts.get(engine, 0) + count
    return counts


def source_summary(record: StreamRecord) -> dict[str, Any]:
    """A source's part of the summary."""
    status = status_of(record)
    return {
        "name": status.name,
        "source": status.source,
        "state": status.state.value,
        "frames": status.results,
        "decoded": status.decoded,
        "detections": status.detections,
        "gaps": status.gaps,
        "gap_times": [list(gap) for gap in record.report.gap_times],
        "damaged": record.report.damaged,
        "warnings": list(record.report.warnings),
        "decoder": status.decoder,
        "dropped": status.dropped,
        "hook_errors": record.hook_errors,
        "error": status.error if status.state is StreamState.FAILED else None,
    }
