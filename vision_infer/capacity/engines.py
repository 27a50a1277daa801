"""Every engine that a model has here, by batch size, in turns."""

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
from vision_infer.engine.selection.by_passport import verified_loss
from vision_infer.engine.selection.candidates import EngineCandidate, candidates, this_device
from vision_infer.engine.selection.lookup import find_passports
from vision_infer.engine.store.passport import DeviceFacts, Passport

BATCHES = (1, 2, 4, 8, 16, 32)
SLOWEST_BATCH_MS = 1000.0
"""larger batches are of no use to live video"""
SPREAD_POINTS = 21
ON_GPU = ("onnxruntime-cuda-fp32", "tensorrt-cuda-fp16", "tensorrt-rtx-cuda-fp16")

Stop = Callable[[], bool]
OnMessage = Callable[[str], None]


@dataclass(slots=True)
class _EngineTrial:
    """One engine, from batch to batch."""

    name: str
    open: Callable[[int], Engine]
    graph: str
    loss: float | None
    best: BenchInterval | None = None
    no_better: int = 0
    """batch sizes in a row that gave no more pictures a second"""


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """What is measured."""

    graph: Path
    engine_dir: Path | None
    batches: Sequence[int] = BATCHES
    rounds: int = 7
    round_s: float = 0.5
    gpus: int = 0
    only: str = "auto"
    """the name of one engine, or ``auto``: all"""
    notes: list[str] = field(default_factory=list)
    """takes what could not be measured, and why"""


def measure_engines(
    plan: EnginePlan, on_message: OnMessage, stop: Stop = lambda: False, late: Stop = lambda: False
) -> list[EngineRow]:
    """Measure each engine at each batch size, as far as larger ones make sense.

    An engine is left out from the size on at which a batch takes too long, or two sizes in a row gave no more pictures a second.
    One that fails is told in the notes.

    Args:
        plan: what is measured.
        say: told what is being measured.
        stop: asked before each turn; what was measured until then is returned.
        late: asked from the second batch size on: whether the time is up.

    Raises:
        ModelError: the graph is none.
    """
    trying = _engines(plan)
    rows: list[EngineRow] = []
    for batch in plan.batches:
        if not trying or stop() or (rows and late()):
            break
        on_message(f"engines at batch {batch}: {', '.join(one.name for one in trying)}")
        found = _at_batch(trying, batch, plan, stop, late if rows else stop)
        rows += found
        trying = [one for one in trying if any(row.engine == one.name and _worth_more(one, row) for row in found)]
    return rows


def _engines(plan: EnginePlan) -> list[_EngineTrial]:
    possible = candidates(plan.graph)
    known = [] if plan.engine_dir is None else find_passports(possible, plan.engine_dir)
    device = this_device()
    found = [_of_candidate(one, plan, _loss(one, known, device)) for one in possible if plan.only in ("auto", one.engine)]
    on_gpu = [name for name in ON_GPU if plan.gpus and plan.only in ("auto", name)]
    for name in on_gpu:
        lossless = 0.0 if name.endswith("-fp32") else None
        found.append(_EngineTrial(name, _opener(plan.graph, name, "cuda:0", "auto", plan), plan.graph.name, lossless))
    return found


def _loss(candidate: EngineCandidate, known: Sequence[Passport], device: DeviceFacts) -> float | None:
    if candidate.lossless:
        return 0.0
    proven = verified_loss(candidate, known, device)
    return None if proven is None else round(proven.high, 2)


def _of_candidate(candidate: EngineCandidate, plan: EnginePlan, loss: float | None) -> _EngineTrial:
    opened = _opener(candidate.graph, candidate.engine, "cpu", candidate.compute, plan)
    return _EngineTrial(candidate.engine, opened, candidate.graph.name, loss)


def _opener(graph: Path, engine: str, device: str, compute: str, plan: EnginePlan) -> Callable[[int], Engine]:
    def open_it(batch: int) -> Engine:
        request = EngineRequest(engine, device, batch=batch, compute=compute, engine_dir=plan.engine_dir)
        return open_engine(graph, request, lambda _: None)

    return open_it


def _at_batch(trying: Sequence[_EngineTrial], batch: int, plan: EnginePlan, stop: Stop, late: Stop) -> list[EngineRow]:
    with ExitStack() as stack:
        opened: dict[str, Engine] = {}
        memory: dict[str, int | None] = {}
        for one in trying:
            if stop() or late():  # to open an engine may take longer than to measure it
                return []
            try:
                engine, _, grown = measure_opening(lambda one=one: one.open(batch))  # type: ignore[misc]
            except VisionInferError as error:
                plan.notes.append(f"{one.name} is left out from batch {batch} on: {error}")
                continue
            opened[one.name], memory[one.name] = stack.enter_context(engine), grown
        rounds = _measured(opened, batch, plan, stop)
        able = [one for one in trying if one.name in rounds and rounds[one.name].fps]
        return [_row(one, opened[one.name], rounds[one.name], memory[one.name]) for one in able]


def _measured(opened: dict[str, Engine], batch: int, plan: EnginePlan, stop: Stop) -> dict[str, SpeedRounds]:
    """All in turns; where one fails, those that do not."""
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


def _row(one: _EngineTrial, engine: Engine, rounds: SpeedRounds, memory: int | None) -> EngineRow:
    size = engine.input_size
    median = statistics.median(rounds.latencies_ms)
    spread = [rounds.percentile_ms(number / (SPREAD_POINTS - 1)) / median for number in range(SPREAD_POINTS)]
    return EngineRow(
        engine=one.name,
        graph=one.graph,
        model=engine.card.name,
        input_width=size.width,
        input_height=size.height,
        batch=rounds.batch,
        in_flight=engine.in_flight,
        p50_ms=round(median, 4),
        p99_ms=round(rounds.percentile_ms(0.99), 4),
        fps=BenchInterval.of(estimate(rounds.fps)),
        cpu_ms=BenchInterval.of(estimate(rounds.cpu_ms)),
        utilisation=round(statistics.median(rounds.shares), 4),
        spread=tuple(round(value, 4) for value in spread),
        memory_bytes=memory,
        buffer_bytes=engine.buffer_bytes,
        loss_points=one.loss,
    )


def _worth_more(one: _EngineTrial, row: EngineRow) -> bool:
    """Whether a larger batch is worth a try."""
    if one.best is None or row.fps.low > one.best.high:
        one.best, one.no_better = row.fps, 0
    else:
        one.no_better += 1
    return one.no_better < 2 and row.p50_ms < SLOWEST_BATCH_MS
