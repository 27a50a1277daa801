"""``auto``: the fastest engine of this machine whose loss of accuracy is within the budget, and the reason in one line.

Passports decide where they are; else a short trial does: every engine that needs no calibration is opened, compared with FP32 on
the pictures that are there, and timed in turns with it. What a trial found is remembered (``choices.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import EngineError, ModelError
from vision_infer.engine.engine import Engine
from vision_infer.engine.measure import Faster, Frames, faster, measure_speed
from vision_infer.engine.selection.candidates import Candidate, this_device
from vision_infer.engine.selection.choices import Choice
from vision_infer.engine.selection.failures import Failures
from vision_infer.engine.store.passport import DeviceFacts, MeasuredAccuracy, MeasuredSpeed, Passport

REFERENCE = "onnxruntime-cpu-fp32"
"""to which the ratios of passports refer, installed or not"""
BUDGET_POINTS = 1.0
"""loss of accuracy that is accepted unless another is given, points"""
TRIAL_S = 2.0
ROUNDS = 5
CLEARLY_FASTER = 1.05
"""what the lower end of the ratio has to exceed before another engine than FP32 on the first runtime is worth it"""
GARBAGE = 0.05
"""scores of float32 in two runtimes differ by less than this; where they do not, one of the two is wrong"""

Agree = Callable[[Engine, Engine], MeasuredAccuracy]
"""measures how much of the first engine's accuracy the second loses"""


@dataclass(frozen=True, slots=True)
class Known:
    """A candidate with the passport that counts for it here."""

    candidate: Candidate
    passport: Passport
    speed: MeasuredSpeed
    """the one with the greatest ratio to FP32"""


def with_passports(
    choices: Sequence[Candidate], passports: Sequence[Passport], device: DeviceFacts, here: bool = True
) -> list[Known]:
    """The candidates for which a passport counts.

    Args:
        choices: the engines that are possible.
        passports: all that there are, from the cache and from beside the graphs.
        device: this machine's.
        here: only what was measured on this very device with this version of the runtime; False: on any that computes alike. Its
            accuracy counts as well there, its speed is a guess.
    """
    found = []
    for candidate in choices:
        for passport in _of(candidate, passports, device):
            if here and not passport.measured_here(device, candidate.key().runtime_version):
                continue
            speed = max((one for one in passport.speed if one.fp32_ratio), key=lambda one: one.fp32_ratio or 0, default=None)
            if speed is not None:
                found.append(Known(candidate, passport, speed))
                break
    return found


def proven_loss(candidate: Candidate, passports: Sequence[Passport], device: DeviceFacts) -> MeasuredAccuracy | None:
    """What passports prove of a candidate's accuracy on a device that computes like this one; None where they prove nothing."""
    losses = (passport.loss() for passport in _of(candidate, passports, device))
    return next((loss for loss in losses if loss is not None), None)


def _of(candidate: Candidate, passports: Sequence[Passport], device: DeviceFacts) -> list[Passport]:
    wanted = (candidate.engine, candidate.compute)
    sha = candidate.key().graph_sha256
    return [one for one in passports if (one.engine, one.compute) == wanted and one.holds_for(sha, device)]


def choose_by_passports(
    reference: Candidate, known: Sequence[Known], budget: float = BUDGET_POINTS, latency_ms: float | None = None
) -> Choice | None:
    """The fastest within the budget; None where no passport says anything of a speed.

    Args:
        reference: FP32, which is taken where nothing is better.
        known: as :func:`with_passports` gives them.
        budget: of accuracy, points; the upper end of the loss's interval has to be within it.
        latency_ms: a batch must not take longer (95th percentile).
    """
    if not known:
        return None
    good = [one for one in known if _within(one, budget) and (latency_ms is None or one.speed.p95_ms <= latency_ms)]
    best = max(good, key=lambda one: one.speed.fp32_ratio or 0, default=None)
    if best is None or best.candidate == reference or (best.speed.fp32_ratio or 0) < CLEARLY_FASTER:
        others = [
            f"{one.candidate.engine} {one.speed.fp32_ratio:.1f}×{_over(one, budget)}"
            for one in known
            if one.candidate != reference
        ]
        quicker = any((one.speed.fp32_ratio or 0) >= CLEARLY_FASTER for one in known if one.candidate != reference)
        why = "nothing faster is within the budget" if quicker else "FP32 is fastest here"
        if latency_ms is not None and quicker:
            why += f" and the {latency_ms:g} ms"
        return Choice(reference, f"{reference.engine}: {why} ({', '.join(others) or 'nothing else'}, by passports)")
    loss = best.passport.loss()
    told = "" if loss is None else f", {points(loss)} points on {loss.frames} frames of {loss.data}"
    passport = best.passport
    if not passport.measured_here(this_device(), best.candidate.key().runtime_version):
        told += f" (as on {passport.device.name}, {passport.runtime} {passport.runtime_version})"
    return Choice(best.candidate, f"{best.candidate.engine}: {best.speed.fp32_ratio:.1f}× faster than {REFERENCE}{told}")


def points(loss: MeasuredAccuracy) -> str:
    """What a loss does to the accuracy: ``−0.4``."""
    return f"{0 - loss.value:+.1f}".replace("-", "−")


def choose_by_trial(
    choices: Sequence[Candidate],
    open_it: Callable[[Candidate], Engine],
    *,
    frames: Frames = (),
    agree: Agree | None = None,
    proven: Callable[[Candidate], MeasuredAccuracy | None] = lambda _: None,
    budget: float = BUDGET_POINTS,
    seconds: float = TRIAL_S,
    threads: int = 1,
    on_message: Callable[[str], None] = lambda _: None,
    failures: Failures | None = None,
    clock: Clock = SYSTEM_CLOCK,
    cpu_ns: Callable[[], int] = time.process_time_ns,
) -> Choice:
    """Open the engines, compare with the first those whose accuracy is not proven, time them in turns.

    Args:
        choices: the engines that are possible, the reference first.
        open_it: opens one, as it will be used: workers, threads, batch.
        frames: pictures as they stand in a slot.
        agree: measures the loss of accuracy; without it only engines that compute in float32 are tried, and only garbage is
            noticed.
        proven: what passports prove of an engine's accuracy; it is tried if that is within the budget, whatever its precision.
        budget: of accuracy, points.
        seconds: how long they are timed, all together; opening and comparing them comes on top.
        threads: of each batch, as ``open_it`` opens them.
        say: told what is tried, and why an engine is left out.
        failures: of earlier trials, which are not repeated; those of this one are noted there.
        clock: of the times.
        cpu_ns: processor time of this process so far.

    Raises:
        EngineError: the reference fails.
        ModelError: the reference cannot be loaded.
    """
    reference, *others = choices
    engines: dict[str, Engine] = {}
    by_name: dict[str, Candidate] = {}
    with ExitStack() as open_engines:
        engines["reference"] = first = open_engines.enter_context(open_it(reference))
        first.warm_up()
        for candidate in others:
            if why_not := _why_untried(candidate, proven(candidate), budget, agree, failures):
                on_message(f"{candidate.engine} is left out: {why_not}")
                continue
            on_message(f"trying {candidate.engine}")
            if failures is not None:
                failures.begin(candidate)
            try:
                engine = open_engines.enter_context(open_it(candidate))
                engine.warm_up()
                why_not = "" if proven(candidate) else _compare(first, engine, candidate, frames, agree, budget)
            except (EngineError, ModelError) as error:
                why_not = error.message
            if failures is not None:
                failures.end(candidate, why_not)
            if why_not:
                on_message(f"{candidate.engine} is left out: {why_not}")
            else:
                name = f"{candidate.engine} {candidate.graph.name}"
                engines[name], by_name[name] = engine, candidate
        if not by_name:
            return Choice(reference, f"{reference.engine}: no other engine is within the budget here (trial)")
        round_s = seconds / ROUNDS / len(engines)
        try:
            found = measure_speed(engines, frames, threads=threads, rounds=ROUNDS, round_s=round_s, clock=clock, cpu_ns=cpu_ns)
        except EngineError as error:  # remembered as well, so that not every run tries it
            return Choice(reference, f"{reference.engine}: the trial failed: {error.message}")
    ratios = [(candidate, faster(found[name], found["reference"])) for name, candidate in by_name.items()]
    return _by_ratios(reference, ratios, seconds)


def _why_untried(
    one: Candidate, loss: MeasuredAccuracy | None, budget: float, agree: Agree | None, failures: Failures | None
) -> str:
    """Why an engine need not be tried; empty if it is to be."""
    earlier = "" if failures is None else failures.reason(one)
    if earlier:
        return f"{earlier} (an earlier trial)"
    if loss is not None:
        return loss.shortfall(budget)
    if one.lossless or agree is not None:
        return ""
    return "what it loses has to be measured on this processor: give frames with --data"


def _by_ratios(reference: Candidate, ratios: Sequence[tuple[Candidate, Faster]], seconds: float) -> Choice:
    busy = any(one.by_cpu for _, one in ratios)
    trial = f"trial of {seconds:.1f} s{', by processor time: the machine is busy' if busy else ''}"
    best, its = max(ratios, key=lambda one: one[1].times.median)
    if its.times.low < CLEARLY_FASTER:
        others = ", ".join(f"{one.engine} {other.times.median:.1f}×" for one, other in ratios)
        return Choice(reference, f"{reference.engine}: FP32 is fastest here ({others}; {trial})")
    return Choice(best, f"{best.engine}: {its.times.median:.1f}× faster than {reference.engine} here ({trial})")


def _within(one: Known, budget: float) -> bool:
    """Whether a loss is proven to be within the budget; float32 in another runtime needs no proof, and is refused by its own."""
    loss = one.passport.loss()
    return one.candidate.lossless if loss is None else not one.passport.shortfall(budget)


def _over(one: Known, budget: float) -> str:
    loss = one.passport.loss()
    if _within(one, budget):
        return ""
    if loss is None:
        return " but its accuracy is not proven"
    return f" but up to {loss.high:.1f} points lost" if loss.high > budget else f" but {one.passport.shortfall(budget)}"


def _compare(first: Engine, engine: Engine, candidate: Candidate, frames: Frames, agree: Agree | None, budget: float) -> str:
    """Why a candidate may not be taken; empty if it may."""
    if candidate.lossless:
        for frame in frames[:4]:
            if _scores_differ(first, engine, frame):
                return "its scores are others than those of FP32"
    if agree is None:
        return ""
    loss = agree(first, engine)
    if loss.judged == "not proven" and not candidate.lossless:
        return f"{loss.frames} frames are too few to tell what it loses"
    if candidate.lossless:
        return f"{loss.value:.1f} points lost ({loss.metric}, {loss.frames} frames)" if loss.value > budget else ""
    return loss.shortfall(budget)


def _scores_differ(first: Engine, second: Engine, frame: NDArray[np.uint8]) -> bool:
    given = [np.sort(_best_scores(engine, frame)) for engine in (first, second)]
    return not bool(np.all(np.abs(given[0] - given[1]) <= GARBAGE))  # also for NaN


def _best_scores(engine: Engine, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    loan = engine.lend(engine.batch_sizes[0])
    for slot in loan.slots:
        slot.pixels[:] = frame
        slot.layout = None
    outputs = engine.collect(engine.submit(loan)).outputs
    values: NDArray[np.float32] = outputs["scores" if "scores" in outputs else "embedding"][0]
    return values
