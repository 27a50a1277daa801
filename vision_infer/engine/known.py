"""What is known of a model's engines on this machine: passports, of the cache and from beside the graphs, and earlier trials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vision_infer.core.errors import EngineError
from vision_infer.engine.auto import BUDGET_POINTS, choose_by_passports, with_passports
from vision_infer.engine.cache import EngineCache
from vision_infer.engine.candidates import Candidate, candidates, this_device
from vision_infer.engine.choices import Choice, recall
from vision_infer.engine.engine_key import runtime_version
from vision_infer.engine.passport import Passport, parse_passport, passports_beside


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
    versions = {one.runtime: runtime_version(one.runtime) for one in possible}
    known = with_passports(possible, passports(possible, engine_dir), this_device(), versions)
    return choose_by_passports(possible[0], known, budget, latency_ms) or recall(engine_dir, possible, budget)


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
