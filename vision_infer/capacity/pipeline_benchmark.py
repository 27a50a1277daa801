"""Measure the complete pipeline with increasing numbers of streams, until the target is missed.

The measurement is open loop: each stream is a file that is played in real time, so its frames arrive independent of the load,
and the age of each result counts from the time at which its frame was due. Frames without a result because a newer one
superseded them count as missing, so neither late nor missing results are hidden. The streams start evenly spread over a key-frame
interval, because cameras do not send their key frames together, and a key frame takes several times as long to decode as others.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vision_infer.capacity.report import PipelineRow
from vision_infer.config.stream_policy import StreamPolicy
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import StreamError
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.engine.engine import Engine
from vision_infer.engine.measure import resident_bytes
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.lanes.lane import Lane, make_selector
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.sink.sink import Written
from vision_infer.stream.files.sample_clip import GROUP_S
from vision_infer.stream.source import LiveOptions, SourceSpec
from vision_infer.telemetry.process import cpu_ns, machine_cpu_ns

NS = 1_000_000_000
DELIVERED = 0.98
"""The minimum share of the wanted frames with a result."""
_LOST = (DropReason.SUPERSEDED, DropReason.OUTDATED, DropReason.FAILED, DropReason.BACKLOGGED)
"""The reasons why a wanted frame has no result."""
_LOST_BEFORE = (DropReason.NOT_REFERENCED, DropReason.TO_KEYFRAME, DropReason.STALE, DropReason.LATE)
"""The reasons why a frame was lost before it was known whether it was wanted."""
_RESULTS = 2
"""The minimum number of results of each stream in a run."""
_AGES_KEPT = 200_000
_START_S = 20.0


@dataclass(frozen=True, slots=True)
class Offered:
    """The streams and their targets."""

    clip: Path
    source_fps: float
    fps: float
    """The wanted results per second of each stream."""
    target_ms: float
    """The maximum 99th percentile of the age, in milliseconds."""
    settle_s: float = 2.0
    seconds: float = 10.0

    @property
    def wanted(self) -> float:
        """The results per second of each stream, at most its frame rate."""
        return min(self.fps, self.source_fps)


class _Ages:
    """A sink that collects the ages of results."""

    needs_images = False
    outputs: Sequence[Written] = ()

    def __init__(self) -> None:
        self.counting = False
        self.streams: set[str] = set()
        self.ages_ms: list[float] = []
        self.batch_ms: list[float] = []

    def write(self, frame: Frame, result: Result | None) -> None:  # noqa: ARG002
        """Collect a result."""
        if result is None or result.live is None:
            return
        self.streams.add(result.stream)
        if self.counting and len(self.ages_ms) < _AGES_KEPT:
            self.ages_ms.append(result.live.age_ns / 1e6)
            self.batch_ms.append(result.latency.inference_ns / 1e6)

    def close(self, complete: bool) -> None:
        """Do nothing."""


@dataclass(slots=True)
class _CpuCounters:
    """The counters at one time."""

    at_ns: int
    process_ns: int
    machine_ns: int
    decoded: int
    results: int
    lost: float
    """The number of wanted frames without a result; for frames that were lost earlier, their wanted share."""
    by_part: dict[str, int] = field(default_factory=dict)
    """The CPU time of the program's threads: ``stream``, ``inference``, ``rest``."""


def run_streams(
    engine: Engine, streams: int, offered: Offered, stop: threading.Event, clock: Clock = SYSTEM_CLOCK
) -> PipelineRow | None:
    """Run and measure a number of streams.

    Raises:
        StreamError: The streams do not start.
    """
    ages = _Ages()
    lane = Lane("bench", engine, make_selector(engine.card, None, None, None))
    with Supervisor([lane], [ages], keep_going=True) as supervisor:
        for number in range(streams):
            source = SourceSpec(f"s{number:03}", "live", (str(offered.clip),), live=LiveOptions(loop=True))
            fps = None if offered.fps >= offered.source_fps else offered.fps
            supervisor.add(AddStream(source, lane.name, policy=StreamPolicy(fps=fps)))
            if stop.wait(GROUP_S / streams):
                return None
        _wait_for_all(ages, streams, supervisor, stop, clock)
        if stop.wait(offered.settle_s):
            return None
        ages.counting = True
        before = _counts(supervisor, offered, clock)
        if stop.wait(max(offered.seconds, _RESULTS / offered.wanted)):
            return None
        after = _counts(supervisor, offered, clock)
        ages.counting = False
        rss = resident_bytes()
        if supervisor.error is not None:
            raise supervisor.error
    return _row(engine.name, streams, offered, ages, before, after, rss)


def search_most(
    engine: Engine,
    offered: Offered,
    *,
    guess: int,
    most: int,
    confirm: bool,
    stop: threading.Event,
    late: Callable[[], bool] = lambda: False,
    found: Callable[[PipelineRow], None] = lambda _: None,
) -> list[PipelineRow]:
    """Search the maximum number of streams that meet the target: one, then around the guess, then by bisection.

    Args:
        confirm: Repeat the runs around the maximum; a number that misses the target once does not count.
        stop: Set it to stop; the runs so far are returned.
        late: Checked before each run; when true, no further run starts.

    Raises:
        StreamError: The streams do not start.
    """
    rows: dict[int, PipelineRow] = {}

    def run(streams: int) -> PipelineRow | None:
        row = None if stop.is_set() or (late() and rows) else run_streams(engine, streams, offered, stop)
        if row is not None:
            rows[streams] = row if streams not in rows else _merged(rows[streams], row)
            found(rows[streams])
        return row

    good, bad, candidate = 0, most + 1, 1
    while good < candidate < bad:
        row = run(candidate)
        if row is None:
            return _ordered(rows)
        if row.holds:
            good = candidate
        else:
            bad = candidate
        upwards = max(guess, 2) if good == 1 else max(good + 1, good * 3 // 2)
        candidate = (good + bad) // 2 if bad <= most else min(most, upwards)
    if confirm and good:
        for streams in (good, bad, good, bad):
            if streams <= most and run(streams) is None:
                break
    return _ordered(rows)


def _ordered(rows: dict[int, PipelineRow]) -> list[PipelineRow]:
    return [rows[streams] for streams in sorted(rows)]


def _wait_for_all(ages: _Ages, streams: int, supervisor: Supervisor, stop: threading.Event, clock: Clock) -> None:
    until = clock.monotonic_ns() + int(_START_S * NS)
    while len(ages.streams) < streams and not stop.wait(0.05):
        if supervisor.error is not None:
            raise supervisor.error
        if clock.monotonic_ns() > until:
            raise StreamError(
                f"{len(ages.streams)} of {streams} streams delivered a result within {_START_S:.0f} s",
                "The machine is too busy or its disk too slow. Try fewer streams.",
            )


def _counts(supervisor: Supervisor, offered: Offered, clock: Clock) -> _CpuCounters:
    records = supervisor.records()
    drops = [record.dropped.copy() for record in records]
    before = sum(dropped.get(reason, 0) for dropped in drops for reason in _LOST_BEFORE)
    counts = _CpuCounters(
        clock.monotonic_ns(),
        cpu_ns(),
        machine_cpu_ns(),
        sum(record.decoded for record in records),
        sum(record.results for record in records),
        sum(dropped.get(reason, 0) for dropped in drops for reason in _LOST) + before * offered.wanted / offered.source_fps,
        {"stream": 0, "inference": 0, "rest": 0},
    )
    for thread in threading.enumerate():
        part = thread.name.partition("-")[0]
        with contextlib.suppress(OSError, AttributeError):  # the thread has just ended, or the system has no such clock
            used = time.clock_gettime_ns(time.pthread_getcpuclockid(thread.ident or 0))
            counts.by_part[part if part in counts.by_part else "rest"] += used
    return counts


def _row(
    engine: str, streams: int, offered: Offered, ages: _Ages, before: _CpuCounters, after: _CpuCounters, rss: int | None
) -> PipelineRow:
    seconds = (after.at_ns - before.at_ns) / NS
    decoded, results = after.decoded - before.decoded, after.results - before.results
    used = after.process_ns - before.process_ns
    ours = {part: after.by_part[part] - before.by_part[part] for part in before.by_part}
    # CPU time outside the program's own threads belongs to the threads of a runtime.
    inference = used - ours["stream"] - ours["rest"]
    age = sorted(ages.ages_ms) or [0.0]
    p50, p95, p99 = (age[min(len(age) - 1, int(len(age) * part))] for part in (0.5, 0.95, 0.99))
    delivered = results / (results + after.lost - before.lost) if results else 0.0
    batch = sorted(ages.batch_ms) or [0.0]
    return PipelineRow(
        streams=streams,
        engine=engine,
        seconds=round(seconds, 3),
        wanted_per_s=offered.wanted * streams,
        results_per_s=round(results / seconds, 3),
        delivered=round(delivered, 4),
        age_p50_ms=round(p50, 2),
        age_p95_ms=round(p95, 2),
        age_p99_ms=round(p99, 2),
        holds=p99 <= offered.target_ms and delivered >= DELIVERED,
        cpu_cores=round(used / NS / seconds, 4),
        other_cores=round(max(0, after.machine_ns - before.machine_ns - used) / NS / seconds, 4),
        stream_ms=round(ours["stream"] / 1e6 / max(1, decoded), 4),
        inference_ms=round(max(0, inference) / 1e6 / max(1, results), 4),
        rest_ms=round(ours["rest"] / 1e6 / max(1, results), 4),
        batch_ms=round(batch[len(batch) // 2], 3),
        rss_bytes=rss,
    )


def _merged(first: PipelineRow, second: PipelineRow) -> PipelineRow:
    """Merge two runs with the same number of streams: weighted means; the target is met if both met it."""
    earlier, later = first.model_dump(), second.model_dump()
    tries = first.repeats
    mean = {
        name: round((earlier[name] * tries + later[name]) / (tries + 1), 4)
        for name in earlier
        if isinstance(earlier[name], float) and isinstance(later[name], float)
    }
    return PipelineRow(**{**earlier, **mean, "holds": first.holds and second.holds, "repeats": tries + 1})
