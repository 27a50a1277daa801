"""Autotuning: tries the engines of a model on a device of this machine, and chooses the fastest within the budget.

Every engine is opened, compared with FP32 on the given frames, and timed in turns with it; on a GPU, plans are built for that.
Passports decide instead where they exist (``by_passport.py``). The result is saved (``tuning_store.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import EngineError, ModelError
from vision_infer.engine.engine import Engine
from vision_infer.engine.measure import Faster, Frames, faster, measure_speed
from vision_infer.engine.open import EngineRequest, auto_device, open_candidate, open_engine
from vision_infer.engine.registry import no_runtime
from vision_infer.engine.selection.by_passport import BUDGET_POINTS, CLEARLY_FASTER, find_passports, verified_passport
from vision_infer.engine.selection.candidates import EngineCandidate, candidates, this_device
from vision_infer.engine.selection.lookup import store_accuracy
from vision_infer.engine.selection.tuning_store import EngineChoice, TuningStore
from vision_infer.engine.store.cache import OnMessage
from vision_infer.engine.store.passport import MeasuredAccuracy, Passport

AUTOTUNE_S = 2.0
ROUNDS = 5
MAX_SCORE_DIFFERENCE = 0.05
"""The maximum difference of float32 scores between two runtimes; a larger one means that one of them is wrong."""
SAME_SHARE = 0.999
"""The share of the values of which this holds."""

CompareEngines = Callable[[Engine, Engine], MeasuredAccuracy]
"""Measures how much of the first engine's accuracy the second loses."""


@dataclass(frozen=True, slots=True)
class AutotuneOptions:
    """How engines are tried."""

    frames: Frames = ()
    """The images that the engines run: uint8 [H, W, 3], letterboxed; without any, noise."""
    compare: CompareEngines | None = None
    """Measures the loss of accuracy. Without it only engines that compute in float32 are tried, and only wrong results count."""
    budget: float = BUDGET_POINTS
    """The accepted loss of accuracy, points."""
    seconds: float = AUTOTUNE_S
    """The duration of timing, all engines together; opening and comparing them comes on top."""
    retry_failed: bool = False
    """Whether engines that failed earlier are tried again."""


@dataclass(frozen=True, slots=True)
class AutotuneRequest:
    """Which engines are tried, and how."""

    candidates: Sequence[EngineCandidate]
    """The possible engines, the reference first."""
    open_engine: Callable[[EngineCandidate], Engine]
    """Opens an engine as it will be used: workers, threads, batch."""
    options: AutotuneOptions = AutotuneOptions()
    verified: Callable[[EngineCandidate], Passport | None] = lambda _: None
    """Returns the passport that verifies an engine's accuracy; within the budget, an engine of any precision is tried."""
    threads: int = 1
    """The number of threads for each batch, as ``open_engine`` opens the engines."""
    on_message: OnMessage = lambda _: None
    """Receives which engine is tried, and why one is left out."""
    store: TuningStore | None = None
    """Has the failures of earlier tries, which are not repeated, and receives those of this one."""
    clock: Clock = SYSTEM_CLOCK
    cpu_ns: Callable[[], int] = time.process_time_ns
    """Returns the CPU time of this process so far, ns."""


def autotune_model(
    path: Path, request: EngineRequest, options: AutotuneOptions, on_message: OnMessage = lambda _: None
) -> EngineChoice:
    """Try the engines of a model on a device of this machine, and save the choice if ``request.engine_dir`` is given.

    Args:
        request: How the engine will be used; all but the engine's name and the type of arithmetic count.

    Raises:
        EngineError: No runtime is installed, or FP32 fails.
        ModelError: The file is not a deployment graph.
    """
    device = auto_device(replace(request, engine="auto", compute="auto"))
    assert device is not None
    possible = candidates(path, device)
    if not possible:
        raise no_runtime()
    store = None if request.engine_dir is None else TuningStore(request.engine_dir, options.budget)
    passports = [] if store is None or device != "cpu" else find_passports(possible, store.engine_dir)
    facts = this_device(device)
    if store is not None and options.retry_failed:
        for candidate in possible:
            store.end(candidate)

    def open_it(candidate: EngineCandidate) -> Engine:
        if device != "cpu" and candidate == possible[0]:  # what a run starts with, which is the CPU if the GPU lacks CUDA
            return open_engine(path, replace(request, engine="auto", compute="auto", device=device, engine_dir=None), on_message)
        return open_candidate(candidate, request, on_message, may_build=True)

    choice = autotune(
        AutotuneRequest(
            possible,
            open_it,
            options,
            lambda candidate: verified_passport(candidate, passports, facts),
            request.threads or 1,
            on_message,
            store,
        )
    )
    if store is not None:
        try:
            store.save_choice(possible, choice)
        except EngineError as error:
            on_message(str(error))
    return choice


def autotune(request: AutotuneRequest) -> EngineChoice:
    """Open the engines, compare those whose accuracy is not verified with the reference, and time them in turns.

    Raises:
        EngineError: The reference fails.
        ModelError: The reference cannot be loaded.
    """
    reference, *others = request.candidates
    engines: dict[str, Engine] = {}
    by_name: dict[str, EngineCandidate] = {}
    why_not = ""
    with ExitStack() as open_engines:
        engines["reference"] = first = open_engines.enter_context(request.open_engine(reference))
        first.warm_up()
        for candidate in others:
            why_not = _why_untried(request, candidate)
            if not why_not:
                request.on_message(f"trying {candidate.engine}")
                engine, why_not = _try(request, candidate, first, open_engines)
            if why_not:
                request.on_message(f"{candidate.engine} is left out: {why_not}")
            else:
                name = f"{candidate.engine} {candidate.graph.name}"
                engines[name], by_name[name] = engine, candidate
        if not by_name:
            if reference.device != "cpu" and others:  # another time the GPU may have more free memory, or the disk more space
                hint = f"See: vision-infer engine choose MODEL --device {reference.device}"
                raise EngineError(f"no plan can be used: {why_not}", hint)
            return EngineChoice(reference, f"{reference.engine}: no other engine is within the budget here (autotuned)")
        seconds = request.options.seconds
        try:
            found = measure_speed(
                engines,
                request.options.frames,
                batch=max(set.intersection(*(set(engine.batch_sizes) for engine in engines.values())), default=1),
                threads=request.threads,
                rounds=ROUNDS,
                round_s=seconds / ROUNDS / len(engines),
                clock=request.clock,
                cpu_ns=request.cpu_ns,
            )
        except EngineError as error:  # saved as well, so that not every run tries it
            return EngineChoice(reference, f"{reference.engine}: autotuning failed: {error.message}")
    ratios = [
        (candidate, faster(found[name], found["reference"], by_wall=candidate.device != "cpu"))
        for name, candidate in by_name.items()
    ]
    # On a GPU without CUDA for ONNX Runtime, the reference runs on the CPU.
    choice = _choose_by_ratios(reference, reference.engine if reference.device == "cpu" else first.name, ratios, seconds)
    passport = request.verified(choice.candidate)
    accepted = passport is not None and passport.accepted
    return replace(choice, reason=f"{choice.reason}, loss accepted") if accepted else choice


def _try(request: AutotuneRequest, candidate: EngineCandidate, first: Engine, open_engines: ExitStack) -> tuple[Engine, str]:
    """Open and compare an engine; returns it with the reason for which it is left out, which is empty if it is not."""
    store, engine, why_not, failed = request.store, first, "", False
    if store is not None:
        store.begin(candidate)
    try:
        engine = open_engines.enter_context(request.open_engine(candidate))
        engine.warm_up()
        why_not = "" if request.verified(candidate) else _compare(first, engine, candidate, request)
    except (EngineError, ModelError) as error:
        why_not, failed = error.message, True
    if store is not None:
        store.end(candidate, "" if failed and candidate.is_plan else why_not)
    return engine, why_not


def _why_untried(request: AutotuneRequest, candidate: EngineCandidate) -> str:
    """Return why an engine need not be tried; empty if it is to be."""
    earlier = "" if request.store is None else request.store.failure(candidate)
    if earlier:
        return f"{earlier} (found by an earlier autotune)"
    passport = request.verified(candidate)
    if passport is not None:
        return passport.shortfall(request.options.budget)
    if candidate.lossless or request.options.compare is not None:
        return ""
    kind = "CPU" if candidate.device == "cpu" else "GPU"
    return f"its loss of accuracy has to be measured on this {kind}: give frames with --data"


def _choose_by_ratios(
    reference: EngineCandidate, name: str, ratios: Sequence[tuple[EngineCandidate, Faster]], seconds: float
) -> EngineChoice:
    busy = any(ratio.by_cpu for _, ratio in ratios)
    how = f"autotuned in {seconds:.1f} s{', by CPU time: the machine is busy' if busy else ''}"
    best, ratio = max(ratios, key=lambda pair: pair[1].times.median)
    if ratio.times.low < CLEARLY_FASTER:
        others = ", ".join(f"{candidate.engine} {other.times.median:.1f}×" for candidate, other in ratios)
        return EngineChoice(reference, f"{name}: FP32 is fastest here ({others}; {how})")
    return EngineChoice(best, f"{best.engine}: {ratio.times.median:.1f}× as fast as {name} here ({how})")


def _compare(first: Engine, engine: Engine, candidate: EngineCandidate, request: AutotuneRequest) -> str:
    """Return why a candidate may not be used; empty if it may."""
    options = request.options
    if candidate.lossless:
        for frame in options.frames[:4]:
            if _scores_differ(first, engine, frame):
                return "its scores differ from those of FP32"
    if options.compare is None:
        return ""
    loss = options.compare(first, engine)
    if candidate.is_plan and request.store is not None:
        store_accuracy(candidate, loss, request.store.engine_dir)
    if loss.judged == "not proven" and not candidate.lossless:
        return f"{loss.frames} frames are too few to measure its loss of accuracy"
    if candidate.lossless:
        return f"{loss.value:.1f} points lost ({loss.metric}, {loss.frames} frames)" if loss.value > options.budget else ""
    return loss.shortfall(options.budget)


def _scores_differ(first: Engine, second: Engine, frame: NDArray[np.uint8]) -> bool:
    scores = [np.sort(_best_scores(engine, frame)) for engine in (first, second)]
    # A map or keypoints may differ in a few places, where two values are nearly equal. The comparison is also false for NaN.
    return not bool(np.quantile(np.abs(scores[0] - scores[1]), SAME_SHARE) <= MAX_SCORE_DIFFERENCE)


def _best_scores(engine: Engine, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    loan = engine.lend(engine.batch_sizes[0])
    for slot in loan.slots:
        slot.pixels[:] = frame
        slot.layout = None
    outputs = engine.collect(engine.submit(loan)).outputs
    values = outputs["scores"] if "scores" in outputs else next(iter(outputs.values()))
    unit = np.float32(255 if "probabilities" in outputs else 1)
    found: NDArray[np.float32] = values[0].astype(np.float32).ravel() / unit
    return found
