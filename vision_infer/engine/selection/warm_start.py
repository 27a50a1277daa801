"""The warm start: a run begins with the engine that loads fastest while a child process makes a better one.

On a GPU that is ONNX Runtime, until plans of TensorRT are built and compared with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vision_infer.core.errors import EngineError
from vision_infer.engine.open import EngineRequest, auto_device, largest_batch
from vision_infer.engine.selection.by_passport import choose_by_passports, find_passports, with_passports
from vision_infer.engine.selection.candidates import EngineCandidate, candidates, this_device
from vision_infer.engine.selection.lookup import find_choice
from vision_infer.engine.selection.tuning_store import EngineChoice
from vision_infer.engine.store.cache import EngineCache
from vision_infer.engine.store.passport import Passport

MAX_BUILD_S = 0.5
"""The maximum build time, by the passport, of an engine that a run begins with, seconds."""


@dataclass(frozen=True, slots=True)
class WarmStart:
    """The engine that a run begins with, and the one that replaces it."""

    first: EngineCandidate
    """The engine that loads at once."""
    better: EngineChoice | None
    """The engine to compile; None: nothing was measured for this model here, and autotuning would decide."""
    samples: BinaryIO | None = None
    """On a GPU: the frames on which autotuning measures the accuracy, see :class:`SampledEngine`."""

    @property
    def device(self) -> str:
        """The device of the better engine: ``cpu``, or ``cuda:N``."""
        return self.first.device


def find_warm_start(path: Path, request: EngineRequest) -> WarmStart | None:
    """Return what to begin with if the best engine is not available at once.

    Returns:
        None if nothing is gained: the request names an engine, the best engine is cached or opens at once, there is only one
        engine, or a compiled engine could not be cached.

    Raises:
        EngineError: No runtime is installed, or the device is not available.
        ModelError: The file is not a deployment graph.
        UsageError: The name of the device is wrong.
    """
    device = None if request.engine_dir is None else auto_device(request)
    if device is None or request.engine_dir is None:
        return None
    possible = candidates(path, device)
    if len(possible) < 2 or possible[0].runtime.slow_start:
        return None
    better = find_choice(path, request.engine_dir, device, largest_batch(path, request))
    if device != "cpu":
        return WarmStart(possible[0], None) if better is None else None
    if better is None or better.estimated:
        return WarmStart(possible[0] if better is None else _fastest_to_load(possible, request.engine_dir), None)
    if not better.candidate.runtime.slow_start or not _is_missing(better.candidate, request):
        return None
    return WarmStart(_fastest_to_load(possible, request.engine_dir), better)


def _is_missing(candidate: EngineCandidate, request: EngineRequest) -> bool:
    """Return whether it is not cached, but could be."""
    assert request.engine_dir is not None
    try:
        return EngineCache(request.engine_dir).load(candidate.key(request.batch or 1)) is None
    except EngineError:  # opening the engine reports the reason
        return False


def _build_s(passport: Passport) -> float:
    return math.inf if passport.build_seconds is None else passport.build_seconds


def _fastest_to_load(possible: Sequence[EngineCandidate], engine_dir: Path) -> EngineCandidate:
    """Return the fastest engine within the budget, by passports, among those that load at once; else FP32."""
    known = with_passports(possible, find_passports(possible, engine_dir), this_device(), here=False)
    quick = [one for one in known if not one[0].runtime.slow_start and _build_s(one[1]) <= MAX_BUILD_S]
    choice = choose_by_passports(possible[0], quick)
    return possible[0] if choice is None else choice.candidate
