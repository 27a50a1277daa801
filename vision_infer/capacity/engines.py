"""Measure all engines of a model on this machine by batch size, alternating between engines."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from vision_infer.capacity.report import BenchInterval, EngineRow
from vision_infer.core.errors import VisionInferError
from vision_infer.engine.engine import Engine
from vision_infer.engine.measure import SpeedRounds, estimate, measure_opening, measure_speed
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.selection.by_passport import find_passports, verified_passport
from vision_infer.engine.selection.candidates import EngineCandidate, candidates, this_device
from vision_infer.engine.store.passport import DeviceFacts, Passport

BATCHES = (1, 2, 4, 8, 16, 32)
SLOWEST_BATCH_MS = 1000.0
"""The maximum latency of a batch; larger batches are useless for live video."""
SPREAD_POINTS = 21
ON_GPU = ("onnxruntime-cuda-fp32", "tensorrt-cuda-fp16", "tensorrt-rtx-cuda-fp16")

Stop = Callable[[], bool]
OnMessage = Callable[[str], None]


@dataclass(slots=True)
class _EngineTrial:
    """One engine over increasing batch sizes."""

    name: str
    open: Callable[[int], Engine]
    graph: str
    loss: float | None
    best: BenchInterval | None = None
    no_better: int = 0
    """The number of consecutive batch sizes without higher throughput."""


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """What to measure."""

    graph: Path
    engine_dir: Path | None
    batches: Sequence[int] = BATCHES
    rounds: int = 7
    round_s: float = 0.5
    gpus: int = 0
    only: str = "auto"
    """The name of one engine, or ``auto`` for all."""
    notes: list[str] = field(default_factory=list)
    """Receives the engines that could not be measured, and why."""


def measure_engines(
    plan: EnginePlan, on_message: OnMessage, stop: Stop = lambda: False, late: Stop = lambda: False
) -> list[EngineRow]:
    """Measure each engine at increasing batch sizes.

    An engine is dropped when a batch takes too long, or when two consecutive sizes did not increase the throughput. Failures are
    added to the notes.

    Args:
        stop: Checked before each measurement; the measurements so far are returned.
        late: Checked from the second batch size on: whether the time limit is reached.

    Raises:
        ModelError: The graph is invalid.
    """
    trying = _engines(plan)
    rows: list[EngineRow] = []
    for batch in plan.batches:
        if not trying or stop() or (rows and late()):
            break
        on_message(f"engines at batch {batch}: {', '.join(engine.name for engine in trying)}")
        found = _at_batch(trying, batch, plan, stop, late if rows else stop)
        rows += found
        trying = [engine for engine in trying if any(row.engine == engine.name and _worth_more(engine, row) for row in found)]
    return rows


def _engines(plan: EnginePlan) -> list[_EngineTrial]:
    possible = candidates(plan.graph)
    known = [] if plan.engine_dir is None else find_passports(possible, plan.engine_dir)
    device = this_device()
    found = []
    for candidate in possible:
        if plan.only in ("auto", candidate.engine):
            opener = _opener(candidate.graph, candidate.engine, "cpu", candidate.compute, plan)
            found.append(_EngineTrial(candidate.engine, opener, candidate.graph.name, _loss(candidate, known, device)))
    on_gpu = [name for name in ON_GPU if plan.gpus and plan.only in ("auto", name)]
    for name in on_gpu:
        lossless = 0.0 if name.endswith("-fp32") else None
        found.append(_EngineTrial(name, _opener(plan.graph, name, "cuda:0", "auto", plan), plan.graph.name, lossless))
    return found


def _loss(candidate: EngineCandidate, known: Sequence[Passport], device: DeviceFacts) -> float | None:
    if candidate.lossless:
        return 0.0
    passport = verified_passport(candidate, known, device)
    proven = None if passport is None else passport.loss()
    return None if proven is None else round(proven.high, 2)


def _opener(graph: Path, engine: str, device: str, compute: str, plan: EnginePlan) -> Callable[[int], Engine]:
    def open_it(batch: int) -> Engine:
        request = EngineRequest(engine, device, batch=batch, compute=compute, engine_dir=plan.engine_dir)
        return open_engine(graph, request, lambda _: None)

    return open_it


def _at_batch(trying: Sequence[_EngineTrial], batch: int, plan: EnginePlan, stop: Stop, late: Stop) -> list[EngineRow]:
    with ExitStack() as stack:
        opened: dict[str, Engine] = {}
        memory: dict[str, int | None] = {}
        for trial in trying:
            if stop() or late():  # opening an engine may take longer than measuring it
                return []
            try:
                engine, _, grown = measure_opening(lambda trial=trial: trial.open(batch))  # type: ignore[misc]
            except VisionInferError as error:
                plan.notes.append(f"{trial.name} is skipped from batch {batch} on: {error}")
                continue
            stack.enter_context(engine)
            if batch in engine.batch_sizes:  # a model with a fixed batch runs one image at a time
                opened[trial.name], memory[trial.name] = engine, grown
        rounds = _measured(opened, batch, plan, stop)
        able = [trial for trial in trying if trial.name in rounds and rounds[trial.name].fps]
        return [_row(trial, opened[trial.name], rounds[trial.name], memory[trial.name]) for trial in able]


def _measured(opened: dict[str, Engine], batch: int, plan: EnginePlan, stop: Stop) -> dict[str, SpeedRounds]:
    """Measure all engines in alternation; if one fails, measure them separately."""
    try:
        return measure_speed(opened, batch=batch, rounds=plan.rounds, round_s=plan.round_s, stop=stop)
    except VisionInferError:
        found: dict[str, SpeedRounds] = {}
        for name, engine in opened.items():
            try:
                found |= measure_speed({name: engine}, batch=batch, rounds=plan.rounds, round_s=plan.round_s, stop=stop)
            except VisionInferError as error:
                plan.notes.append(f"{name} failed at batch {batch}: {error}")
        return found


def _row(trial: _EngineTrial, engine: Engine, rounds: SpeedRounds, memory: int | None) -> EngineRow:
    size = engine.input_size
    median = statistics.median(rounds.latencies_ms)
    spread = [rounds.percentile_ms(number / (SPREAD_POINTS - 1)) / median for number in range(SPREAD_POINTS)]
    return EngineRow(
        engine=trial.name,
        graph=trial.graph,
        model=engine.card.name,
        input_width=size.width,
        input_height=size.height,
        batch=rounds.batch,
        in_flight=engine.in_flight,
        p50_ms=round(median, 4),
        p99_ms=round(rounds.percentile_ms(0.99), 4),
        fps=BenchInterval.of(estimate(rounds.fps)),
        cpu_ms=BenchInterval.of(estimate(rounds.cpu_ms)),
        utilization=round(statistics.median(rounds.shares), 4),
        spread=tuple(round(value, 4) for value in spread),
        memory_bytes=memory,
        buffer_bytes=engine.buffer_bytes,
        loss_points=trial.loss,
    )


def _worth_more(trial: _EngineTrial, row: EngineRow) -> bool:
    """Return whether a larger batch is worth measuring."""
    if trial.best is None or row.fps.low > trial.best.high:
        trial.best, trial.no_better = row.fps, 0
    else:
        trial.no_better += 1
    return trial.no_better < 2 and row.p50_ms < SLOWEST_BATCH_MS
