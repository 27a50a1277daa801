"""Autotuning with the user's own frames, which measure the accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from vision_infer.engine.engine import Engine
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.open import EngineRequest
from vision_infer.engine.selection.auto import AUTOTUNE_S, AutotuneOptions, autotune_model
from vision_infer.engine.selection.by_passport import BUDGET_POINTS
from vision_infer.engine.selection.tuning_store import EngineChoice
from vision_infer.engine.store.passport import MeasuredAccuracy
from vision_infer.pipeline.lanes.engine_child import autotune, run_main
from vision_infer.precision.frames import FrameNeeds, Frames, FrameSet
from vision_infer.precision.verification.agreement import Judge
from vision_infer.stream.redact import redact

NEEDS = FrameNeeds(calibration=1, search=1, evaluation=100)
"""nothing is calibrated or searched for"""
TIMED_FRAMES = 8


def choose_engine(
    path: Path,
    request: EngineRequest,
    data: Sequence[str] = (),
    *,
    budget: float = BUDGET_POINTS,
    seconds: float = AUTOTUNE_S,
    on_message: Callable[[str], None] = lambda _: None,
    again: bool = False,
) -> EngineChoice:
    """Try the engines that a model can have here, and save the best one if ``request.engine_dir`` is given.

    Args:
        path: the model's deployment graph.
        request: how the engine will be used: workers, threads, batch.
        data: videos, pictures or a configuration of streams to judge accuracy by. Without any, only engines that compute in
            float32 are tried, and those whose accuracy a passport proves.
        budget: of accuracy, points.
        seconds: how long the engines are timed.
        on_message: Receives which engine is tried, and why one is left out.
        again: Whether engines that failed earlier are tried again.

    Raises:
        EngineError: no runtime is installed, or FP32 fails.
        ModelError: the file is no deployment graph.
        StreamError: the data cannot be read, or are too few.
        UsageError: the data hold nothing to open.
        OutputError: there is no space for the frames.
    """
    if not data:
        return autotune_model(path, request, AutotuneOptions(budget=budget, seconds=seconds, retry_failed=again), on_message)
    with Frames(data, read_graph_facts(path).card, NEEDS, on_message=on_message) as frames:
        judged = _Judged(frames.evaluation, ", ".join(Path(redact(source)).name for source in data))
        timed = list(frames.evaluation.first(TIMED_FRAMES).pixels)
        return autotune_model(path, request, AutotuneOptions(timed, judged, budget, seconds, again), on_message)


class _Judged:
    """FP32 runs the frames once, whatever is compared with it."""

    def __init__(self, frames: FrameSet, told: str) -> None:
        self._frames = frames
        self._told = told
        self._judge: Judge | None = None

    def __call__(self, first: Engine, second: Engine) -> MeasuredAccuracy:
        if self._judge is None:
            self._judge = Judge(first, self._frames)
        return self._judge.compare(second).measured(self._told)


if __name__ == "__main__":  # the child process of a run or of the service, see pipeline/lanes/upgrade.py
    run_main(lambda words: autotune(words, choose_engine))
