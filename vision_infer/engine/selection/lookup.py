"""What earlier measurements say of a model's engines on this machine: passports, and the results of autotuning."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from vision_infer.core.errors import EngineError
from vision_infer.engine.selection.by_passport import BUDGET_POINTS, choose_by_passports, with_passports
from vision_infer.engine.selection.candidates import EngineCandidate, candidates, this_device
from vision_infer.engine.selection.kept_plans import find_kept
from vision_infer.engine.selection.tuning_store import EngineChoice, TuningStore
from vision_infer.engine.store.cache import EngineCache
from vision_infer.engine.store.passport import Passport, passports_beside


def find_choice(
    path: Path,
    engine_dir: Path,
    budget: float = BUDGET_POINTS,
    latency_ms: float | None = None,
    device: str = "cpu",
    batch: int = 1,
) -> EngineChoice | None:
    """Return what ``auto`` takes without trying an engine; None if neither a passport nor autotuning decided.

    Args:
        budget: The accepted loss of accuracy, points.
        latency_ms: The maximum duration of a batch on the CPU, milliseconds.
        device: ``cpu``, or ``cuda:N``, where only plans in the cache count.
        batch: The largest batch size on a GPU.

    Raises:
        ModelError: The file is not a deployment graph.
    """
    if device != "cpu":
        return next(iter(find_kept(path, engine_dir, device, batch, budget)), None)
    possible = candidates(path)
    if len(possible) < 2:
        return None
    passports, facts = find_passports(possible, engine_dir), this_device()
    here = with_passports(possible, passports, facts)
    tuned = None if latency_ms is not None else TuningStore(engine_dir, budget).choice(possible)
    # The latest measurement counts: autotuning after the passports were written, or passports after autotuning.
    if tuned is not None and not any(entry.passport.date.timestamp() > tuned.made_s for entry in here):
        return tuned
    measured = choose_by_passports(possible[0], here, budget, latency_ms) or tuned
    if measured is not None:
        return measured
    estimate = choose_by_passports(possible[0], with_passports(possible, passports, facts, here=False), budget, latency_ms)
    return None if estimate is None else replace(estimate, estimated=True)


def find_passports(possible: Sequence[EngineCandidate], engine_dir: Path) -> list[Passport]:
    """Return all passports of some engines, those of the cache first; skips those that cannot be read or are not trusted."""
    found: list[Passport] = []
    if engine_dir.is_dir():
        with suppress(EngineError):  # other users could have written there
            cache = EngineCache(engine_dir)
            cached = (cache.passport(candidate.key()) for candidate in possible)
            found += [passport for passport in cached if passport is not None]
    for graph in dict.fromkeys(candidate.graph for candidate in possible):
        found += passports_beside(graph)
    return found
