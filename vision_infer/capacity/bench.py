"""Run a benchmark: decoding, conversion, engines, and the complete pipeline."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vision_infer import __version__
from vision_infer.capacity.engines import BATCHES, EnginePlan, measure_engines
from vision_infer.capacity.pipeline_benchmark import Offered, search_most
from vision_infer.capacity.report import OTHERS_DISTURB, BenchReport, BenchSettings, ConvertRow, DecodeRow, EngineRow, PipelineRow
from vision_infer.capacity.stages import measure_convert, measure_decode
from vision_infer.capacity.this_machine import notes_of, this_machine
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.core.geometry import Size
from vision_infer.engine.engine import Engine
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.selection.candidates import candidates
from vision_infer.stream.files.sample_clip import ClipSpec, sample_clip
from vision_infer.telemetry.process import cpu_ns, machine_cpu_ns

NS = 1_000_000_000
SIZES = (Size(1920, 1080), Size(1280, 720), Size(640, 360))
MAX_STREAMS = 256


@dataclass(frozen=True, slots=True)
class Effort:
    """The extent of a benchmark."""

    sizes: Sequence[Size]
    codecs: Sequence[str]
    batches: Sequence[int]
    rounds: int
    round_s: float
    stream_s: float
    """The duration of each pipeline run, in seconds: whole key-frame intervals of the sample."""
    settle_s: float
    confirm: bool
    deadline_s: float
    """The time after which no further measurement starts, in seconds."""


QUICK = Effort(SIZES[::2], ("h264",), (1, 4), 5, 0.15, 4.0, 0.5, False, 50.0)
FULL = Effort(SIZES, ("h264", "hevc"), BATCHES, 7, 0.5, 10.0, 2.0, True, 1800.0)


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What to measure."""

    graph: Path
    settings: BenchSettings
    clips: Path
    """The folder where sample clips are cached."""
    engine_dir: Path | None
    effort: Effort
    streams: bool = True
    """Whether to measure the complete pipeline."""


@dataclass(slots=True)
class _Measurements:
    """The measurements so far, which are kept when the benchmark is interrupted."""

    notes: list[str]
    decode: list[DecodeRow] = field(default_factory=list)
    convert: list[ConvertRow] = field(default_factory=list)
    engines: list[EngineRow] = field(default_factory=list)
    pipeline: list[PipelineRow] = field(default_factory=list)


def run_bench(
    request: BenchRequest, on_message: Callable[[str], None], stop: threading.Event, clock: Clock = SYSTEM_CLOCK
) -> BenchReport:
    """Run a benchmark.

    Raises:
        ModelError: The graph is invalid.
        EngineError: There is no engine.
        StreamError: No sample can be generated or read.
    """
    began, cpu, all_cpu = clock.monotonic_ns(), cpu_ns(), machine_cpu_ns()
    machine = this_machine()
    found = _Measurements(list(notes_of(machine)))
    effort, asked = request.effort, request.settings
    if asked.engine != "auto":  # fails before measurements that take minutes
        with _opened(request, on_message):
            pass

    def late() -> bool:
        return clock.monotonic_ns() - began > effort.deadline_s * NS

    def ended() -> bool:
        return stop.is_set() or late()

    _stages(request, found, machine.cores, bool(machine.gpus), on_message, ended)
    if not stop.is_set():
        plan = EnginePlan(
            request.graph,
            request.engine_dir,
            effort.batches,
            effort.rounds,
            effort.round_s,
            len(machine.gpus),
            asked.engine,
            found.notes,
        )
        found.engines += measure_engines(plan, on_message, stop.is_set, late)
    if request.streams and not stop.is_set():
        _streams(request, found, machine.cores, on_message, stop, late)
    if late() and not stop.is_set():
        found.notes.append("The time limit was reached before everything was measured.")
    elapsed = max(1, clock.monotonic_ns() - began)
    others = max(0, machine_cpu_ns() - all_cpu - (cpu_ns() - cpu)) / elapsed
    if others > OTHERS_DISTURB * machine.cores:
        found.notes.append(
            f"Other programs used {others:.1f} of {machine.cores} cores. The real capacity is higher, and this benchmark "
            "is not compared with others."
        )
    return BenchReport(
        date=datetime.datetime.fromtimestamp(clock.wall_ns() // NS, datetime.UTC),
        program=__version__,
        machine=machine,
        settings=asked,
        seconds=round(elapsed / NS, 1),
        other_cores=round(others, 3),
        interrupted=stop.is_set(),
        notes=tuple(dict.fromkeys(found.notes)),
        decode=tuple(found.decode),
        convert=tuple(found.convert),
        engines=tuple(found.engines),
        pipeline=tuple(found.pipeline),
    )


def _stages(
    request: BenchRequest,
    found: _Measurements,
    cores: int,
    gpu: bool,
    on_message: Callable[[str], None],
    ended: Callable[[], bool],
) -> None:
    effort = request.effort
    clips: list[tuple[ClipSpec, Path]] = []
    for spec in _specs(request):
        if ended():
            return
        on_message(f"sample of {spec.codec} {spec.size}")
        try:
            clips.append((spec, sample_clip(spec, request.clips)))
        except VisionInferError as error:
            if spec == _watched(request):
                raise
            found.notes.append(f"{error.message}.")
    on_message(f"decoding: {', '.join(f'{spec.codec} {spec.size}' for spec, _ in clips)}")
    found.decode += measure_decode(clips, cores=cores, rounds=effort.rounds, round_s=2 * effort.round_s, stop=ended)
    if gpu:
        found.decode += measure_decode(clips, cores=cores, rounds=effort.rounds, round_s=2 * effort.round_s, gpu=0, stop=ended)
    if ended():
        return
    on_message("conversion")
    card = read_graph_facts(request.graph).card
    by_size = {spec.size: (spec, path) for spec, path in reversed(clips)}
    found.convert += measure_convert(list(by_size.values()), card, rounds=effort.rounds, round_s=effort.round_s / 2, stop=ended)


def _streams(
    request: BenchRequest,
    found: _Measurements,
    cores: int,
    on_message: Callable[[str], None],
    stop: threading.Event,
    late: Callable[[], bool],
) -> None:
    asked, effort = request.settings, request.effort
    clip = sample_clip(_watched(request), request.clips)
    offered = Offered(clip, asked.source_fps, asked.fps, asked.target_ms, effort.settle_s, effort.stream_s)

    def report(row: PipelineRow) -> None:
        verdict = "target met" if row.holds else "target missed"
        on_message(f"{row.streams} streams: p99 {row.age_p99_ms:.0f} ms, {row.delivered:.0%} of the results: {verdict}")

    with _opened(request, on_message) as engine:
        engine.warm_up()
        on_message(
            f"streams of {asked.codec} {asked.width}x{asked.height}, each at {offered.wanted:g} results/s, on {engine.name}"
        )
        guess = guess_streams(found.decode, found.convert, found.engines, engine.name, asked, cores)
        found.pipeline += search_most(
            engine,
            offered,
            guess=guess,
            most=MAX_STREAMS,
            confirm=effort.confirm,
            stop=stop,
            late=late,
            found=report,
        )


def _opened(request: BenchRequest, on_message: Callable[[str], None]) -> Engine:
    """Open the engine for the streams."""
    name = request.settings.engine
    graph = next((candidate.graph for candidate in candidates(request.graph) if candidate.engine == name), request.graph)
    return open_engine(graph, EngineRequest(name, engine_dir=request.engine_dir), on_message)


def guess_streams(
    decode: Sequence[DecodeRow],
    convert: Sequence[ConvertRow],
    engines: Sequence[EngineRow],
    engine: str,
    asked: BenchSettings,
    cores: int,
) -> int:
    """Estimate the number of streams from the CPU time of each step, at least one."""
    size = (asked.width, asked.height)
    decoded = next((row.cpu_ms.median for row in decode if (row.codec, row.width, row.height) == (asked.codec, *size)), 0.0)
    converted = next((row.cpu_ms.median for row in convert if (row.width, row.height) == size), 0.0)
    inferred = next((row.cpu_ms.median for row in engines if row.engine == engine and row.batch == 1), 0.0)
    each = decoded * asked.source_fps + (converted + inferred) * min(asked.fps, asked.source_fps)
    return max(1, min(MAX_STREAMS, int(0.85 * cores * 1000 / each))) if each > 0 else 1


def _watched(request: BenchRequest) -> ClipSpec:
    asked = request.settings
    return ClipSpec(asked.codec, asked.size, round(asked.source_fps))


def _specs(request: BenchRequest) -> list[ClipSpec]:
    watched = _watched(request)
    specs = [ClipSpec(codec, size, watched.fps) for codec in request.effort.codecs for size in request.effort.sizes]
    return list(dict.fromkeys([watched, *specs]))
