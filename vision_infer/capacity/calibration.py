"""Compare the simulation with the pipeline runs of a benchmark, and correct it by them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from vision_infer.capacity.costs import BenchEngine, Load, costs_of, engines_of, load_of
from vision_infer.capacity.need import Need, PlanTarget, Video
from vision_infer.capacity.pipeline_benchmark import DELIVERED
from vision_infer.capacity.report import OTHERS_DISTURB, BenchReport, PipelineRow
from vision_infer.capacity.simulate import SimulatedStreams, SimulationOutcome, StepCosts, simulate

SIM_S, SIM_SEEDS = 2.0, 5
"""The minimum duration of a simulation, in seconds, and the number of simulations with other start times."""
_RESULTS = 100
"""The minimum number of results of a simulation: enough for a 99th percentile."""
_LOWEST_FPS = 0.1
"""Lower rates are simulated like this one: decoding takes all of the time."""
_FACTORS = (0.6, 1.8)
"""The range of the correction."""
_STEPS = 6


def simulated(costs: StepCosts, need: Need, cameras: int, batch: int, cores: float, gated: float = 0.0) -> SimulationOutcome:
    """Simulate a number of cameras, long enough for a 99th percentile at any rate."""
    fps = max(_LOWEST_FPS, need.fps)
    seconds = SIM_S * math.ceil(_RESULTS / (cameras * fps * SIM_SEEDS) / SIM_S)
    streams = SimulatedStreams(cameras, need.video.fps, fps, batch, gated=gated)
    return simulate(costs, streams, cores, max(SIM_S, seconds), SIM_SEEDS)


def cores_of(report: BenchReport) -> float:
    """Return the number of cores that the process may use."""
    return min(report.machine.cpu_limit or report.machine.cores, report.machine.cores)


def measured_cameras(report: BenchReport, need: Need, engine: str) -> int | None:
    """Return the number of cameras that the benchmark ran within the target, which a forecast must not exceed.

    Returns:
        None if it ran none with this engine and video, or only with a stricter target or higher rates than required.
    """
    settings, video = report.settings, need.video
    ran = any(row.engine == engine for row in report.pipeline)
    same = need.tiles is None and (settings.codec, settings.width, settings.height) == (video.codec, video.width, video.height)
    harder = (
        video.fps >= settings.source_fps
        and need.fps >= min(settings.fps, settings.source_fps)
        and need.target.age_ms <= settings.target_ms
    )
    return report.carries if ran and same and harder else None


def measured_run(report: BenchReport, need: Need, engine: str, cameras: int) -> PipelineRow | None:
    """Return the benchmark's own run of exactly this load, if there is one."""
    need_of_bench = bench_need(report)
    if need.tiles is not None or (need.video.model_copy(update={"mbit_s": None}), need.fps) != (
        need_of_bench.video,
        need_of_bench.fps,
    ):
        return None
    return next((row for row in report.pipeline if row.streams == cameras and row.engine == engine), None)


def bench_need(report: BenchReport) -> Need:
    """Return the requirements that the pipeline runs of a benchmark had."""
    asked = report.settings
    codec = "hevc" if asked.codec == "hevc" else "h264"
    video = Video(codec=codec, width=asked.width, height=asked.height, fps=asked.source_fps)
    return Need(model=asked.model, video=video, target=PlanTarget(fps=asked.fps, age_ms=asked.target_ms), loss_points=100.0)


def engine_of_runs(report: BenchReport) -> BenchEngine | None:
    """Return the engine of the pipeline runs; None if there were none, or its separate measurement is missing."""
    if not report.pipeline:
        return None
    name = report.pipeline[0].engine
    free = bench_need(report).model_copy(update={"precision": name.rpartition("-")[2]})
    return next((engine for engine in engines_of(report, free) if engine.name == name), None)


def corrected_load(report: BenchReport) -> Load:
    """Return the additional costs of running streams, corrected so that the simulation supports as many as the benchmark.

    Runs that other programs disturbed do not count.
    """
    load = load_of(report)
    engine = engine_of_runs(report)
    quiet = [row for row in report.pipeline if row.other_cores <= OTHERS_DISTURB * report.machine.cores]
    if engine is None or not quiet:
        return load
    need = bench_need(report)
    broken = min((row.streams for row in quiet if not row.holds), default=None)
    held = max((row.streams for row in quiet if row.holds and (broken is None or row.streams < broken)), default=0)

    def holds(streams: int, factor: float) -> bool:
        costs = costs_of(report, need, engine, replace(load, correction=factor))
        if costs is None:
            return True
        found = simulated(costs, need, streams, 1, cores_of(report))
        return found.age_p99_ms <= need.target.age_ms and found.delivered >= DELIVERED

    low, high = _FACTORS
    if held and not holds(held, 1.0):
        return replace(load, correction=_bisected(lambda factor: holds(held, factor), low, 1.0)[0])
    if broken is not None and holds(broken, 1.0):
        return replace(load, correction=_bisected(lambda factor: holds(broken, factor), 1.0, high)[1])
    return load


def _bisected(good: Callable[[float], bool], low: float, high: float) -> tuple[float, float]:
    """Return the largest good and the smallest bad value that bisection finds between a good and a bad one."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low, high


def simulated_runs(report: BenchReport) -> list[tuple[PipelineRow, SimulationOutcome]]:
    """Return each pipeline run of a benchmark with its simulation."""
    engine, need = engine_of_runs(report), bench_need(report)
    costs = None if engine is None else costs_of(report, need, engine, corrected_load(report))
    if costs is None:
        return []
    return [(row, simulated(costs, need, row.streams, 1, cores_of(report))) for row in report.pipeline]
