"""What a converted graph is worth in each runtime of this machine, beside FP32: accuracy, speed, passport."""

from __future__ import annotations

import datetime
import importlib.metadata
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import EngineError, ModelError
from vision_infer.engine.device import available_cpus
from vision_infer.engine.engine import Engine
from vision_infer.engine.measure import Faster, SpeedRounds, estimate, faster, measure_opening, measure_speed
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.registry import auto_runtimes, runtime_version
from vision_infer.engine.selection.candidates import this_device
from vision_infer.engine.store.engine_key import graph_sha256
from vision_infer.engine.store.passport import MeasuredSpeed, Passport, Sources, summarise
from vision_infer.precision.verification.agreement import Agreement

NS_PER_S = 1_000_000_000
_MEASURE = """
import sys
from pathlib import Path
from vision_infer.engine.measure import measure_opening
from vision_infer.engine.open import EngineRequest, open_engine
request = EngineRequest(sys.argv[2], "cpu", compute="f32")
engine, _, grown = measure_opening(lambda: open_engine(Path(sys.argv[1]), request))
with engine:
    print(grown)
"""
TOOLS = ("vision-infer", "numpy", "onnx", "onnxruntime")
Compare = Callable[[Engine], Agreement]


@dataclass(frozen=True, slots=True)
class Proof:
    """A graph in one runtime."""

    engine: str
    """runtime-device-precision"""
    agreement: Agreement
    times_faster: Faster
    """than FP32 in ONNX Runtime, measured in turns"""
    rounds: SpeedRounds
    workers: int
    opening_s: float
    memory_bytes: int | None

    def refusal(self, budget: float) -> str:
        """Why it is not good enough; empty if it is."""
        agreement = self.agreement
        short = agreement.shortfall(budget)
        if not short and not agreement.proven:
            lost = agreement.lost
            told = f"{lost.value:.1f} points lost ({lost.low:.1f} to {lost.high:.1f}) on {agreement.frames} frames"
            return f"{told} with {agreement.objects} objects prove nothing"
        return short


def open_reference(path: Path) -> Engine:
    """FP32 in ONNX Runtime on this machine's processor, for one frame at a time."""
    return open_engine(path, EngineRequest("onnxruntime", "cpu", workers=1, threads=available_cpus()))


def prove(graph: Path, fp32: Path, compare: Compare, on_message: Callable[[str], None] = lambda _: None) -> list[Proof]:
    """Compare and time a graph in every runtime that is here.

    Args:
        graph: the converted deployment graph.
        fp32: the graph that it was made of.
        compare: against FP32, on frames that took no part in making it.
        say: is told each step, and why a runtime is left out.

    Raises:
        ModelError: no runtime runs it, or it gives values that are not finite in all of them.
    """
    found: dict[str, tuple[Agreement, float, int | None]] = {}
    problem: Exception | None = None
    for runtime in (runtime.name for runtime in auto_runtimes()):
        try:
            request = EngineRequest(runtime, "cpu", workers=1, threads=available_cpus(), compute="f32")
            engine, seconds, _ = measure_opening(lambda request=request: open_engine(graph, request))  # type: ignore[misc]
            with engine:
                agreement = compare(engine)
        except (EngineError, ModelError) as error:
            on_message(f"{runtime}: {error.message}")
            problem = error
            continue
        on_message(f"{engine.name}: {agreement.told()} on {agreement.frames} frames")
        found[runtime] = (agreement, seconds, fresh_memory(graph, runtime))
    if not found:
        assert problem is not None
        raise problem
    on_message(f"timing {' and '.join(found)}, in turns with FP32")
    return _timed(graph, fp32, found)


def fresh_memory(graph: Path, runtime: str) -> int | None:
    """By how much a process of its own grows with the engine, bytes; this one has used much already. None: it cannot be told."""
    words = [sys.executable, "-c", _MEASURE, str(graph), runtime]
    try:
        told = subprocess.run(words, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=True)
        return int(told.stdout.split()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _timed(graph: Path, fp32: Path, found: Mapping[str, tuple[Agreement, float, int | None]]) -> list[Proof]:
    with ExitStack() as stack:
        reference = stack.enter_context(open_engine(fp32, EngineRequest("onnxruntime", "cpu")))
        engines = {one: stack.enter_context(open_engine(graph, EngineRequest(one, "cpu", compute="f32"))) for one in found}
        rounds = measure_speed({"": reference, **engines})
        return [
            Proof(
                engines[one].name,
                agreement,
                faster(rounds[one], rounds[""]),
                rounds[one],
                engines[one].in_flight,
                seconds,
                memory,
            )
            for one, (agreement, seconds, memory) in found.items()
        ]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a graph was made from, for its passport."""

    fp32_sha256: str
    calibration_sha256: str
    evaluation_sha256: str
    data: str
    """what it was judged on, in words"""
    layers: Mapping[str, str]
    """precision by group of layers"""


def make_passport(graph: Path, proof: Proof, origin: Origin, clock: Clock = SYSTEM_CLOCK) -> Passport:
    """The passport of a graph in one runtime."""
    from vision_infer.engine.graph_facts import read_graph_facts

    card = read_graph_facts(graph).card
    runtime = proof.engine.partition("-")[0]
    return Passport(
        engine=proof.engine,
        card=summarise(card),
        sources=Sources(graph=graph_sha256(graph), source=card.weights.sha256, calibration=origin.calibration_sha256),
        runtime=runtime,
        runtime_version=runtime_version(runtime),
        tools={name: importlib.metadata.version(name) for name in TOOLS if _installed(name)} | {"fp32": origin.fp32_sha256},
        device=this_device(),
        precision=dict(origin.layers),
        accuracy=(proof.agreement.measured(origin.data, origin.evaluation_sha256),),
        speed=(measured_speed(proof.rounds, proof.workers, proof.times_faster),),
        memory_bytes=proof.memory_bytes,
        build_seconds=round(proof.opening_s, 3),
        date=datetime.datetime.fromtimestamp(clock.wall_ns() // NS_PER_S, datetime.UTC),
    )


def measured_speed(rounds: SpeedRounds, workers: int, times: Faster) -> MeasuredSpeed:
    """What a passport keeps of rounds with one picture at a time, ``workers`` of them in flight."""
    fps = estimate(rounds.fps)
    return MeasuredSpeed(
        batch=1,
        workers=workers,
        threads=1,
        p50_ms=round(rounds.percentile_ms(0.5), 3),
        p95_ms=round(rounds.percentile_ms(0.95), 3),
        fps=round(fps.median, 2),
        fps_low=round(fps.low, 2),
        fps_high=round(fps.high, 2),
        cpu_ms=round(estimate(rounds.cpu_ms).median, 3),
        fp32_ratio=round(times.times.median, 3),
    )


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
