"""The summary of a run: what it has done, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vision_infer.core.trace import STAGES
from vision_infer.engine.placeholder import PlaceholderEngine
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.runs.counts import counts_of
from vision_infer.pipeline.runs.job import Job
from vision_infer.pipeline.status import StreamState, StreamStatus
from vision_infer.pipeline.stream_record import LiveRecord, StreamRecord, status_of
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.sink.sink import Sink
from vision_infer.stream.redact import redact
from vision_infer.telemetry.account import Work

MIN_BUSY = 0.5
"""A stage that was busy for less than this fraction of its time was not the bottleneck."""
FINISHED_EARLIER = "finished earlier"
"""The state of a source that an earlier run has finished."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The account of a run; ``to_dict`` is what ``--summary`` and ``--json`` print."""

    frames: int
    """The number of frames inferred, over all sources."""
    decoded: int
    """The number of frames decoded, over all sources."""
    detections: int
    seconds: float
    """The time from the first open to the last result written; 0 if no source was opened."""
    startup_seconds: float
    """The time from the start of the process to the first open: imports, the engine, its warm-up."""
    cpu_seconds: float
    """The CPU time of the whole process during ``seconds``, user and system."""
    peak_rss_bytes: int
    """The maximum resident memory of the process."""
    bound_by: str
    """The busiest stage, or ``nothing``."""
    busy: dict[str, float]
    """The fraction of time for which the workers of each stage were busy, 0–1."""
    stages: dict[str, dict[str, Any]]
    """For each stage: mean_ms, p50_ms, p95_ms, p99_ms, share."""
    sources: tuple[dict[str, Any], ...]
    model: str
    engine: str
    """The last engine of the model."""
    outputs: tuple[str, ...]
    padded: int
    """The number of batch slots that were padding."""
    interrupted: bool
    """Whether the run was stopped before its end."""
    encoders: dict[str, str] = field(default_factory=dict)
    """The video encoder of each annotated video."""
    frames_by_engine: dict[str, int] = field(default_factory=dict)
    """The number of results of each engine; more than one engine when a better one was swapped in."""
    engine_reasons: tuple[str, ...] = ()
    """Why this engine was chosen, and what took longer than usual to open it; a line each."""
    exit_status: int = 0
    """The exit status of the command: 0, or that of the worst error of a source or its outputs."""

    @property
    def fps(self) -> float:
        """The number of frames inferred per second."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    @property
    def failed(self) -> bool:
        """Whether a source could not be read to its end, or an output could not be written."""
        return any(source["error"] for source in self.sources)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
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


@dataclass(frozen=True, slots=True)
class Spent:
    """What the process has spent on a run."""

    startup_seconds: float
    cpu_seconds: float
    peak_rss_bytes: int


def summarize(
    job: Job, supervisor: Supervisor, lanes: Sequence[Lane], shared: Sequence[Sink], spent: Spent, interrupted: bool
) -> RunSummary:
    """Return the summary of a run whose supervisor is closed."""
    records = supervisor.records()
    written = [*(file for sink in shared for file in sink.outputs), *(file for record in records for file in record.outputs)]
    work = supervisor.work()
    engine = next(lane.engine for lane in lanes if not isinstance(lane.engine, PlaceholderEngine))
    errors = [*job.found.errors, *(record.error for record in records if record.error is not None)]
    return RunSummary(
        frames=sum(record.results for record in records),
        decoded=sum(record.decoded for record in records),
        detections=sum(record.detections for record in records),
        seconds=(supervisor.last_written_ns - supervisor.first_open_ns) / 1e9 if supervisor.first_open_ns else 0.0,
        startup_seconds=spent.startup_seconds,
        cpu_seconds=spent.cpu_seconds,
        peak_rss_bytes=spent.peak_rss_bytes,
        bound_by=bound_by(work),
        busy=busy_fractions(work),
        stages=supervisor.account().summary(),
        sources=_sources(job, records),
        model=engine.card.name,
        engine=engine.name,
        frames_by_engine=frames_by_engine(records),
        outputs=tuple(dict.fromkeys(file.path for file in written)),
        encoders={file.path: file.how for file in written if file.how},
        exit_status=max((error.exit_status for error in errors), default=0),
        padded=supervisor.padded,
        interrupted=interrupted,
    )


def busy_fractions(work: Work) -> dict[str, float]:
    """Return how busy the workers of each stage were; ``queue`` has none."""
    return {stage: getattr(work, stage).fraction for stage in STAGES if stage != "queue"}


def bound_by(work: Work) -> str:
    """Return the stage that was the bottleneck.

    A decoder waits when its window is full, an inference worker when there is no frame: the bottleneck is the stage that never
    waits. The inference workers do two stages; together they count, and the longer one is returned.
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
    return name if fraction >= MIN_BUSY else "nothing"


def frames_by_engine(records: Sequence[StreamRecord]) -> dict[str, int]:
    """Return the number of results of each engine over all sources, in the order in which the engines were used."""
    counts: dict[str, int] = {}
    for record in records:
        for engine, count in record.by_engine.items():
            counts[engine] = counts.get(engine, 0) + count
    return counts


def source_summary(record: StreamRecord) -> dict[str, Any]:
    """Return the part of the summary about one source."""
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
        "hook_errors": 0 if record.hooks is None else record.hooks.errors,
        "counts": counts_of(record),
        **({} if record.live is None else _live_summary(record.live, status)),
        "error": status.error if status.state is StreamState.FAILED else None,
    }


def _live_summary(live: LiveRecord, status: StreamStatus) -> dict[str, Any]:
    ages = live.age_total
    quantiles = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {
        "ingest": status.ingest,
        "ingest_reason": status.ingest_reason,
        "rtp_packets": dict(status.rtp_packets),
        "reconnects": max(0, live.connections - 1),
        "age_ms": {name: round(ages.quantile_ns(share) / 1e6, 3) for name, share in quantiles.items()},
    }


def _sources(job: Job, records: Sequence[StreamRecord]) -> tuple[dict[str, Any], ...]:
    """Return the sources that an earlier run has finished, those of this run, and those that were not found."""
    earlier = [
        unread(spec.name, redact(spec.paths[0]), FINISHED_EARLIER) for spec in job.found.specs if spec.name in job.todo.finished
    ]
    not_found = [unread(error.source, error.source, "failed") | {"error": str(error)} for error in job.found.errors]
    return (*earlier, *(source_summary(record) for record in records), *not_found)


def unread(name: str, source: str, state: str) -> dict[str, Any]:
    """Return the part of the summary about a source that was not read."""
    return source_summary(StreamRecord(name, source)) | {"state": state}
