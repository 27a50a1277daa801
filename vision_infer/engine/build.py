"""Builds an engine: compiles and caches it, times it in turns with FP32, and writes its passport."""

from __future__ import annotations

import datetime
from contextlib import ExitStack
from dataclasses import dataclass

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import EngineError
from vision_infer.engine.engine import Engine
from vision_infer.engine.measure import NS_PER_S, Frames, SpeedRounds, estimate, faster, measure_opening, measure_speed
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.runtime import package_version
from vision_infer.engine.selection.by_passport import BUDGET_POINTS
from vision_infer.engine.selection.candidates import EngineCandidate, this_device
from vision_infer.engine.store.cache import EngineCache, OnMessage
from vision_infer.engine.store.passport import MeasuredSpeed, Passport, Sources, passports_beside, summarize

TOOLS = ("vision-infer", "numpy", "onnx")


@dataclass(frozen=True, slots=True)
class Profile:
    """How an engine will be used, and is therefore built and timed."""

    batch: int = 1
    """The largest batch size."""
    workers: int | None = None
    """The number of batches in flight; None: as many as the CPUs allow."""
    threads: int = 1
    """The number of threads for each batch."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How an engine is timed in turns with FP32."""

    rounds: int = 7
    """The number of rounds of each engine."""
    round_s: float = 0.5
    """The duration of a round, seconds."""
    frames: Frames = ()
    """The images in the slots: uint8 [H, W, 3], letterboxed."""


def build_engine(
    candidate: EngineCandidate,
    reference: EngineCandidate,
    profile: Profile,
    cache: EngineCache,
    on_message: OnMessage,
    timing: Timing | None = None,
    *,
    budget: float = BUDGET_POINTS,
    accept_loss: bool = False,
    clock: Clock = SYSTEM_CLOCK,
) -> Passport:
    """Compile, cache and time an engine, and write its passport next to it.

    The accuracy of an earlier passport is kept: it is valid for the same graph, runtime and instruction set.

    Args:
        reference: FP32, with which it is timed in turns.
        budget: The accepted loss of accuracy, points.
        accept_loss: Whether an engine that loses more is built nevertheless; its passport records it, so ``auto`` may take it.

    Raises:
        EngineError: It cannot be built or cached, or is known to lose more accuracy than the budget.
        ModelError: The graph cannot be loaded.
    """
    timing = timing or Timing()
    key = candidate.key()
    earlier = cache.passport(key)
    known = _passport_with_accuracy(candidate, earlier)
    refusal = "" if known is None else known.shortfall(budget)
    if refusal and not accept_loss:
        what = f"{candidate.engine} of {candidate.facts.card.name}"
        raise EngineError(f"{what} is rejected: {refusal}", "Give a greater --budget, or --accept-loss.")
    engine, seconds, grown = measure_opening(lambda: _open(candidate, profile, cache, on_message), clock)
    with engine:
        on_message(f"{candidate.engine}: ready in {seconds:.2f} s; timing it in turns with {reference.engine}")
        speed = _time(
            engine, profile, timing, None if candidate == reference else _open(reference, profile, cache, on_message), clock
        )
    passport = Passport(
        engine=candidate.engine,
        card=summarize(candidate.facts.card),
        sources=Sources(graph=key.graph_sha256, source=candidate.facts.card.weights.sha256),
        runtime=candidate.runtime.name,
        runtime_version=key.runtime_version,
        compute=candidate.compute,
        tools={name: version for name in TOOLS if (version := package_version(name))},
        device=this_device(),
        precision={"graph": candidate.facts.precision, "arithmetic": candidate.compute},
        accuracy=() if known is None else known.accuracy,
        accepted=bool(refusal) or (known is not None and known.accepted),
        speed=(speed,),
        memory_bytes=grown,
        # A second build only loads the cached engine; the longer time is that of the build.
        build_seconds=round(max(seconds, (earlier and earlier.build_seconds) or 0.0), 3),
        date=datetime.datetime.fromtimestamp(clock.wall_ns() // NS_PER_S, datetime.UTC),
    )
    cache.store_passport(key, passport.to_json())
    return passport


def _open(candidate: EngineCandidate, profile: Profile, cache: EngineCache, on_message: OnMessage) -> Engine:
    request = EngineRequest(
        candidate.engine, "cpu", profile.workers, profile.threads, profile.batch, candidate.compute, engine_dir=cache.folder
    )
    return open_engine(candidate.graph, request, on_message)


def _time(engine: Engine, profile: Profile, timing: Timing, fp32: Engine | None, clock: Clock) -> MeasuredSpeed:
    """Time an engine in turns with FP32, which is closed afterwards; None: the engine is FP32 itself."""
    with ExitStack() as stack:
        engines = {"built": engine}
        if fp32 is not None:
            engines["fp32"] = stack.enter_context(fp32)
        found = measure_speed(
            engines,
            timing.frames,
            batch=profile.batch,
            threads=profile.threads,
            rounds=timing.rounds,
            round_s=timing.round_s,
            clock=clock,
        )
    return _speed(engine, profile, found["built"], 1.0 if fp32 is None else faster(found["built"], found["fp32"]).times.median)


def _speed(engine: Engine, profile: Profile, rounds: SpeedRounds, fp32_ratio: float) -> MeasuredSpeed:
    fps = estimate(rounds.fps)
    return MeasuredSpeed(
        batch=profile.batch,
        workers=engine.in_flight,
        threads=profile.threads,
        p50_ms=round(rounds.percentile_ms(0.5), 3),
        p95_ms=round(rounds.percentile_ms(0.95), 3),
        fps=round(fps.median, 2),
        fps_low=round(fps.low, 2),
        fps_high=round(fps.high, 2),
        cpu_ms=round(estimate(rounds.cpu_ms).median, 3),
        fp32_ratio=round(fp32_ratio, 3),
    )


def _passport_with_accuracy(candidate: EngineCandidate, earlier: Passport | None) -> Passport | None:
    """Return the passport whose accuracy is valid for an engine here; None if there is none."""
    device, key = this_device(), candidate.key()
    for passport in [*([] if earlier is None else [earlier]), *passports_beside(candidate.graph)]:
        same = (passport.engine, passport.compute) == (candidate.engine, candidate.compute)
        if passport.accuracy and same and passport.holds_for(key.graph_sha256, device):
            return passport
    return None
