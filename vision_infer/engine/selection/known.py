"""What is known of a model's engines on this machine: passports, of the cache and from beside the graphs, and earlier trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from vision_infer.core.errors import EngineError
from vision_infer.engine.device import missing_runtime
from vision_infer.engine.engine import Engine
from vision_infer.engine.measure import Frames
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.selection.auto import (
    BUDGET_POINTS,
    TRIAL_S,
    Agree,
    choose_by_passports,
    choose_by_trial,
    proven_loss,
    with_passports,
)
from vision_infer.engine.selection.candidates import Candidate, candidates, this_device
from vision_infer.engine.selection.choices import Choice, recall, remember
from vision_infer.engine.selection.failures import Failures
from vision_infer.engine.store.cache import EngineCache
from vision_infer.engine.store.passport import Passport, parse_passport, passports_beside


def known_choice(path: Path, engine_dir: Path, budget: float = BUDGET_POINTS, latency_ms: float | None = None) -> Choice | None:
    """What ``auto`` takes without trying anything; None where neither a passport nor an earlier trial says.

    Args:
        path: the model's deployment graph.
        engine_dir: the folder of the engine cache, which need not exist.
        budget: of accuracy, points.
        latency_ms: a batch must not take longer.

    Raises:
        ModelError: the file is no deployment graph.
    """
    possible = candidates(path)
    if len(possible) < 2:
        return None
    found, device = passports(possible, engine_dir), this_device()
    here = with_passports(possible, found, device)
    tried = None if latency_ms is not None else recall(engine_dir, possible, budget)
    # What was found last counts: a trial that was asked for after the passports were written, or passports after a trial.
    if tried is not None and not any(one.passport.date.timestamp() > tried.made_s for one in here):
        return tried
    measured = choose_by_passports(possible[0], here, budget, latency_ms) or tried
    if measured is not None:
        return measured
    guess = choose_by_passports(possible[0], with_passports(possible, found, device, here=False), budget, latency_ms)
    return None if guess is None else replace(guess, guessed=True)


def try_here(
    path: Path,
    request: EngineRequest,
    *,
    frames: Frames = (),
    agree: Agree | None = None,
    budget: float = BUDGET_POINTS,
    seconds: float = TRIAL_S,
    on_message: Callable[[str], None] = lambda _: None,
    again: bool = False,
) -> Choice:
    """Try the engines of a model on this machine, and remember the outcome where ``request.engine_dir`` is given.

    Args:
        path: the model's deployment graph.
        request: how the engine will be used; workers, threads, batch and engine_dir count.
        frames: pictures as they stand in a slot.
        agree: measures the loss of accuracy against FP32, as for :func:`vision_infer.engine.selection.auto.choose_by_trial`.
        budget: of accuracy, points.
        seconds: how long the engines are timed.
        say: told what is tried, and why an engine is left out.
        again: try also what an earlier trial left out.

    Raises:
        EngineError: no runtime is installed, or FP32 fails.
        ModelError: the file is no deployment graph.
    """
    possible = candidates(path)
    if not possible:
        raise missing_runtime()
    known = [] if request.engine_dir is None else passports(possible, request.engine_dir)
    device = this_device()

    def open_it(candidate: Candidate) -> Engine:
        wanted = replace(request, engine=candidate.engine, compute="auto", device="cpu")
        return open_engine(candidate.graph, wanted, on_message)

    failures = None if request.engine_dir is None else Failures(request.engine_dir, budget)
    if failures is not None and again:
        for candidate in possible:
            failures.end(candidate)
    choice = choose_by_trial(
        possible,
        open_it,
        frames=frames,
        agree=agree,
        proven=lambda candidate: proven_loss(candidate, known, device),
        budget=budget,
        seconds=seconds,
        threads=request.threads or 1,
        on_message=on_message,
        failures=failures,
    )
    if request.engine_dir is not None:
        try:
            remember(request.engine_dir, possible, budget, choice)
        except EngineError as error:
            on_message(str(error))
    return choice


def passports(possible: Sequence[Candidate], engine_dir: Path) -> list[Passport]:
    """All passports of some engines, those of this machine's cache first; what cannot be read or trusted is left out."""
    found: list[Passport] = []
    if engine_dir.is_dir():
        try:
            cache = EngineCache(engine_dir)
        except EngineError:
            cache = None
        found += [] if cache is None else [one for candidate in possible if (one := kept_passport(cache, candidate)) is not None]
    for graph in dict.fromkeys(candidate.graph for candidate in possible):
        found += passports_beside(graph)
    return found


def kept_passport(cache: EngineCache, candidate: Candidate) -> Passport | None:
    """The passport that the cache keeps for an engine; None where there is none that can be read."""
    text = cache.passport(candidate.key())
    try:
        return None if text is None else parse_passport(text, str(cache.folder))
    except EngineError:
        return None
