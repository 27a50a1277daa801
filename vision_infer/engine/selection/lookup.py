"""What ``auto`` takes without trying an engine: by passports and autotuning, and on a GPU only plans that are in the cache."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vision_infer.core.errors import EngineError
from vision_infer.engine.device import parse_device
from vision_infer.engine.selection.by_passport import (
    BUDGET_POINTS,
    choose_by_passports,
    find_passports,
    with_passports,
    within_budget,
)
from vision_infer.engine.selection.candidates import EngineCandidate, candidates, this_device
from vision_infer.engine.selection.tuning_store import EngineChoice, TuningStore
from vision_infer.engine.store.cache import EngineCache, OnMessage
from vision_infer.engine.store.engine_key import graph_sha256
from vision_infer.engine.store.passport import MeasuredAccuracy, Passport, passports_beside

if TYPE_CHECKING:
    from vision_infer.engine.tensorrt.cached_plans import CachedPlan

ASSUMED_BUILD_S = 60.0
"""The assumed duration of a build that was never measured, seconds."""


def find_choices(
    path: Path,
    engine_dir: Path,
    device: str = "cpu",
    batch: int = 1,
    budget: float = BUDGET_POINTS,
    on_message: OnMessage = lambda _: None,
) -> list[EngineChoice]:
    """Return what ``auto`` takes, the best first; empty if neither passports nor autotuning decided.

    On the CPU it is one engine. On a GPU it is the one that autotuning chose, and the other cached plans: FP16, INT8, FP32. A
    plan in FP16 or INT8 counts only if its passport shows a loss within the budget.

    Args:
        device: ``cpu``, or ``cuda:N``.
        batch: The largest batch size that a plan has to run.
        budget: The accepted loss of accuracy, points.
        on_message: Receives why the most recently used plan is not taken, if none is.

    Raises:
        ModelError: The file is not a deployment graph.
    """
    possible = candidates(path, device)
    if len(possible) < 2:
        return []
    tuned = TuningStore(engine_dir, budget).choice(possible)
    if device == "cpu":
        choice = _choice_on_cpu(possible, engine_dir, budget, tuned)
        return [] if choice is None else [choice]
    found = [tuned] if tuned is not None and tuned.candidate == possible[0] else []
    reasons = []
    for candidate in possible[1:]:
        for plan in _plans_of(candidate, engine_dir):
            passport = _passport(candidate, plan)
            why_not = _why_not(candidate, plan, passport, batch, budget)
            if not why_not:
                found.append(tuned if tuned and tuned.candidate == candidate else _choice(candidate, passport))
                break
            reasons.append((plan.entry.used_ns, f"the cached plan {candidate.engine} is not used: {why_not}"))
    if not found and reasons:
        on_message(max(reasons)[1])
    return sorted(found, key=lambda choice: choice is not tuned)


def find_choice(
    path: Path, engine_dir: Path, device: str = "cpu", batch: int = 1, budget: float = BUDGET_POINTS
) -> EngineChoice | None:
    """Return the first of :func:`find_choices`; None if there is none."""
    return next(iter(find_choices(path, engine_dir, device, batch, budget)), None)


def _choice_on_cpu(
    possible: list[EngineCandidate], engine_dir: Path, budget: float, tuned: EngineChoice | None
) -> EngineChoice | None:
    passports, facts = find_passports(possible, engine_dir), this_device()
    here = with_passports(possible, passports, facts)
    # The latest measurement counts: autotuning after the passports were written, or passports after autotuning.
    if tuned is not None and not any(passport.date.timestamp() > tuned.made_s for _, passport in here):
        return tuned
    measured = choose_by_passports(possible[0], here, budget) or tuned
    if measured is not None:
        return measured
    estimate = choose_by_passports(possible[0], with_passports(possible, passports, facts, here=False), budget)
    return None if estimate is None else replace(estimate, estimated=True)


def store_accuracy(candidate: EngineCandidate, accuracy: MeasuredAccuracy, engine_dir: Path) -> None:
    """Write the measured accuracy of a plan into its passport; a passport that cannot be written is left out."""
    for plan in _plans_of(candidate, engine_dir):
        if not plan.not_here and plan.passport is not None:
            passport = plan.passport.model_copy(update={"accuracy": (accuracy,)})
            with suppress(EngineError):
                EngineCache(engine_dir).store_passport(plan.entry.key, passport.to_json())
            return


def expected_build_s(path: Path, engine_dir: Path, device: str) -> float:
    """Return how long all plans of a model are expected to take, seconds: as long as the last builds, else 60 s for each."""
    total = 0.0
    for candidate in candidates(path, device)[1:]:
        passports = [plan.passport for plan in _plans_of(candidate, engine_dir)]
        known = [passport.build_seconds for passport in passports if passport is not None and passport.build_seconds]
        total += known[0] if known else ASSUMED_BUILD_S
    return total


def _plans_of(candidate: EngineCandidate, engine_dir: Path) -> list[CachedPlan]:
    """Return the cached plans of an engine, the most recently used first; empty if the cache is not trusted."""
    if not engine_dir.is_dir():
        return []
    from vision_infer.engine.tensorrt.cached_plans import list_cached_plans  # a machine without a GPU does not need it

    try:
        plans = list_cached_plans(EngineCache(engine_dir), candidate.graph, parse_device(candidate.device)[1])
    except EngineError:  # opening an engine reports the reason
        return []
    wanted = (candidate.engine, graph_sha256(candidate.graph))
    return [plan for plan in plans if (plan.entry.key.engine, plan.entry.key.graph_sha256) == wanted]


def _passport(candidate: EngineCandidate, plan: CachedPlan) -> Passport | None:
    """Return the passport of a plan; without a verified accuracy, that of its graph if it was measured on this GPU."""
    if plan.passport is not None and (plan.passport.accepted or plan.passport.loss() is not None):
        return plan.passport
    key, device = plan.entry.key, this_device(candidate.device)
    for passport in passports_beside(candidate.graph):
        same = (passport.engine, passport.sources.graph) == (key.engine, key.graph_sha256)
        if same and passport.measured_here(device, key.runtime_version):
            return passport
    return plan.passport


def _why_not(candidate: EngineCandidate, plan: CachedPlan, passport: Passport | None, batch: int, budget: float) -> str:
    """Return why a plan is not taken; empty if it may be."""
    if plan.not_here:
        return plan.not_here
    if plan.entry.key.batch < batch:
        return f"it runs batches of up to {plan.entry.key.batch}, not {batch}"
    if within_budget(candidate, passport, budget):
        return ""
    shortfall = "" if passport is None else passport.shortfall(budget)
    return shortfall or "its loss of accuracy was not measured on this GPU"


def _choice(candidate: EngineCandidate, passport: Passport | None) -> EngineChoice:
    loss = None if passport is None else passport.loss()
    details = "" if loss is None else f", {loss.value:.2f} points lost on {loss.frames} frames"
    return EngineChoice(candidate, f"{candidate.engine}: a cached plan{details}")
