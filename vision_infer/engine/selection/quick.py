"""What loads fastest, to begin with while a better engine is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vision_infer.core.errors import EngineError
from vision_infer.engine.open import EngineRequest, left_open, open_engine
from vision_infer.engine.selection.auto import BUDGET_POINTS, choose_by_passports, with_passports
from vision_infer.engine.selection.candidates import Candidate, candidates, this_device
from vision_infer.engine.selection.choices import Choice
from vision_infer.engine.selection.known import known_choice, passports
from vision_infer.engine.store.cache import EngineCache

SOON_S = 0.5
"""what takes longer to build, as its passport says, is not begun with"""


@dataclass(frozen=True, slots=True)
class QuickStart:
    """An engine to begin with, and the one to go on with."""

    first: Candidate
    """loads at once"""
    better: Choice | None
    """to be compiled; None: nothing was measured of this model here, a trial would tell"""


def quick_start(path: Path, request: EngineRequest) -> QuickStart | None:
    """What to begin with where the best engine is not there at once.

    Args:
        path: the model's deployment graph.
        request: which engine is wanted.

    Returns:
        None where nothing is to be gained: an engine is asked for by name, the device is no processor, the best one is kept
        already or made at once, there is no choice, or what is made could not be kept.

    Raises:
        EngineError: no runtime is installed, or the device is not there.
        ModelError: the file is no deployment graph.
        UsageError: the device is not well named.
    """
    if request.engine_dir is None or not left_open(request):
        return None
    possible = candidates(path)
    if len(possible) < 2 or possible[0].runtime != "onnxruntime":
        return None
    better = known_choice(path, request.engine_dir)
    if better is None or better.guessed:
        return QuickStart(possible[0] if better is None else _soonest(possible, request.engine_dir), None)
    if better.candidate.runtime != "openvino" or not _is_missing(better.candidate, request):
        return None
    return QuickStart(_soonest(possible, request.engine_dir), better)


def compile_engine(graph: str, engine: str, folder: str, batch: str, workers: str, threads: str) -> None:
    """Compile an engine into the cache, and nothing else: what a child process does. The words are those of a command line.

    Raises:
        EngineError: it cannot be compiled.
        ModelError: the graph cannot be loaded.
    """
    profile = (int(workers) or None, int(threads) or None, int(batch) or None)
    with open_engine(Path(graph), EngineRequest(engine, "cpu", *profile, engine_dir=Path(folder))):
        pass


def _is_missing(candidate: Candidate, request: EngineRequest) -> bool:
    """Whether it is not kept, but could be."""
    assert request.engine_dir is not None
    try:
        return EngineCache(request.engine_dir).load(candidate.key(request.batch or 1)) is None
    except EngineError:  # opening it tells why
        return False


def _soonest(possible: Sequence[Candidate], engine_dir: Path) -> Candidate:
    """ONNX Runtime's fastest within the budget, by passports, as far as it loads at once; else FP32."""
    known = [
        one
        for one in with_passports(possible, passports(possible, engine_dir), this_device(), here=False)
        if one.candidate.runtime == "onnxruntime"
        and one.passport.build_seconds is not None
        and one.passport.build_seconds <= SOON_S
    ]
    choice = choose_by_passports(possible[0], known, BUDGET_POINTS)
    return possible[0] if choice is None else choice.candidate
