"""Verification of a converted graph in each runtime of this machine, on CPU and GPU, against FP32: accuracy, speed, passport."""

from __future__ import annotations

import datetime
import importlib.metadata
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import EngineError, ModelError
from vision_infer.engine.device import available_cpus
from vision_infer.engine.engine import Engine
from vision_infer.engine.measure import Faster, SpeedRounds, estimate, faster, measure_opening, measure_speed
from vision_infer.engine.open import EngineRequest, auto_device, open_engine
from vision_infer.engine.registry import auto_runtimes, runtime_version
from vision_infer.engine.selection.candidates import candidates, this_device
from vision_infer.engine.store.engine_key import graph_sha256
from vision_infer.engine.store.passport import MeasuredSpeed, Passport, Sources, summarize
from vision_infer.engine.tensorrt.api import installed_versions
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
class EngineVerification:
    """The accuracy and speed of a graph in one runtime."""

    engine: str
    """The engine, as runtime-device-precision."""
    agreement: Agreement
    """The loss of accuracy against FP32."""
    times_faster: Faster
    """The speed relative to FP32 in ONNX Runtime, measured alternately."""
    rounds: SpeedRounds
    workers: int
    opening_s: float
    memory_bytes: int | None
    device: str = "cpu"
    """``cpu``, or ``cuda:N``."""

    def refusal(self, budget: float) -> str:
        """Return why the graph exceeds the budget, in points; empty if it does not."""
        agreement = self.agreement
        short = agreement.shortfall(budget)
        if not short and not agreement.conclusive:
            lost = agreement.lost
            text = f"{lost} points lost on {agreement.frames} frames"
            return f"{text} with {agreement.objects} objects, which are too few for a result"
        return short


def open_reference(path: Path) -> Engine:
    """Open a graph as FP32 in ONNX Runtime on the CPU, for one frame at a time."""
    return open_engine(path, EngineRequest("onnxruntime", "cpu", workers=1, threads=available_cpus()))


def verify_engines(
    graph: Path, fp32: Path, compare: Compare, on_message: Callable[[str], None] = lambda _: None
) -> list[EngineVerification]:
    """Compare and time a graph in each installed runtime: on the CPU and, if this machine has one, on its first GPU.

    Args:
        graph: The converted deployment graph.
        fp32: The original graph.
        compare: Compares an engine with FP32, on frames that were not used for the conversion.
        on_message: Receives the progress, and why a runtime is skipped.

    Raises:
        ModelError: No runtime can run the graph, or all of them give values that are not finite.
    """
    found: dict[tuple[str, str], tuple[Agreement, float, int | None]] = {}
    problem: Exception | None = None
    for name, device in _engines(graph):
        try:
            request = EngineRequest(name, device, workers=1, threads=available_cpus(), compute="f32")
            engine, seconds, _ = measure_opening(lambda request=request: open_engine(graph, request))  # type: ignore[misc]
            with engine:
                agreement = compare(engine)
        except (EngineError, ModelError) as error:
            on_message(f"{name}: {error.message}")
            problem = error
            continue
        on_message(f"{engine.name}: {agreement.summary()} on {agreement.frames} frames")
        found[name, device] = (agreement, seconds, fresh_memory(graph, name) if device == "cpu" else None)
    if not found:
        assert problem is not None
        raise problem
    on_message(f"timing {' and '.join(name for name, _ in found)}, alternating with FP32")
    return _timed(graph, fp32, found)


def _engines(graph: Path) -> list[tuple[str, str]]:
    """Return the names and devices of the engines of a graph: by the runtime on the CPU, by the full name on a GPU."""
    on_cpu = [(runtime.name, "cpu") for runtime in auto_runtimes()]
    device = auto_device(EngineRequest())
    return on_cpu if device in (None, "cpu") else [*on_cpu, *((one.engine, device) for one in candidates(graph, device))]


def fresh_memory(graph: Path, runtime: str) -> int | None:
    """Return the memory growth of a new process with the engine, in bytes; None if it cannot be measured."""
    command = [sys.executable, "-c", _MEASURE, str(graph), runtime]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=True)
        return int(done.stdout.split()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _timed(
    graph: Path, fp32: Path, found: Mapping[tuple[str, str], tuple[Agreement, float, int | None]]
) -> list[EngineVerification]:
    with ExitStack() as stack:
        reference = stack.enter_context(open_engine(fp32, EngineRequest("onnxruntime", "cpu")))
        engines = {
            name: stack.enter_context(open_engine(graph, EngineRequest(name, device, compute="f32"))) for name, device in found
        }
        rounds = measure_speed({"": reference, **engines})
        verified = []
        for (name, device), (agreement, seconds, memory) in found.items():
            times, engine = faster(rounds[name], rounds[""], by_wall=device != "cpu"), engines[name]
            verified.append(
                EngineVerification(engine.name, agreement, times, rounds[name], engine.in_flight, seconds, memory, device)
            )
        return verified


@dataclass(frozen=True, slots=True)
class Origin:
    """The sources of a graph, for its passport."""

    fp32_sha256: str
    calibration_sha256: str
    evaluation_sha256: str
    data: str
    """The evaluation data, in words."""
    layers: Mapping[str, str]
    """The precision by group of layers."""


def make_passport(
    graph: Path, verified: EngineVerification, origin: Origin, clock: Clock = SYSTEM_CLOCK, *, accepted: bool = False
) -> Passport:
    """Return the passport of a graph in one runtime; ``accepted``: the user accepted its loss."""
    from vision_infer.engine.graph_facts import read_graph_facts

    card = read_graph_facts(graph).card
    runtime = verified.engine.rsplit("-", 2)[0]
    tools = {}
    for name in TOOLS:
        with suppress(importlib.metadata.PackageNotFoundError):
            tools[name] = importlib.metadata.version(name)
    return Passport(
        engine=verified.engine,
        card=summarize(card),
        sources=Sources(graph=graph_sha256(graph), source=card.weights.sha256, calibration=origin.calibration_sha256),
        runtime=runtime,
        runtime_version=installed_versions().get(runtime) or runtime_version(runtime),
        tools=tools | {"fp32": origin.fp32_sha256},
        device=this_device(verified.device),
        precision=dict(origin.layers),
        accuracy=(verified.agreement.measured(origin.data, origin.evaluation_sha256),),
        speed=(measured_speed(verified.rounds, verified.workers, verified.times_faster),),
        memory_bytes=verified.memory_bytes,
        build_seconds=round(verified.opening_s, 3),
        accepted=accepted,
        date=datetime.datetime.fromtimestamp(clock.wall_ns() // NS_PER_S, datetime.UTC),
    )


def measured_speed(rounds: SpeedRounds, workers: int, times: Faster) -> MeasuredSpeed:
    """Return the figures for a passport from rounds with one image per batch and ``workers`` batches in flight."""
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
