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
"""The required frames; none for calibration or search."""
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
    """Autotune the engines of a model, and save the best one if ``request.engine_dir`` is set.

    Args:
        path: The model's deployment graph.
        request: The use of the engine: workers, threads, batch.
        data: Videos, images or a configuration of streams for the accuracy. Without any, only engines in float32 are tried, and
            those with a passport within the budget.
        budget: The maximum loss of accuracy, in points.
        seconds: The duration of the timing.
        on_message: Receives which engine is tried, and why one is skipped.
        again: Whether to retry engines that failed before.

    Raises:
        EngineError: No runtime is installed, or FP32 fails.
        ModelError: The file is not a deployment graph.
        StreamError: The data cannot be read, or there are too few.
        UsageError: The data have no sources.
        OutputError: There is no space for the frames.
    """
    if not data:
        return autotune_model(path, request, AutotuneOptions(budget=budget, seconds=seconds, retry_failed=again), on_message)
    with Frames(data, read_graph_facts(path).card, NEEDS, on_message=on_message) as frames:
        judged = _AccuracyJudge(frames.evaluation, ", ".join(Path(redact(source)).name for source in data))
        timed = list(frames.evaluation.first(TIMED_FRAMES).pixels)
        return autotune_model(path, request, AutotuneOptions(timed, judged, budget, seconds, again), on_message)


class _AccuracyJudge:
    """Measures engines against FP32, which runs the frames once."""

    def __init__(self, frames: FrameSet, data: str) -> None:
        self._frames = frames
        self._data = data
        self._judge: Judge | None = None

    def __call__(self, first: Engine, second: Engine) -> MeasuredAccuracy:
        if self._judge is None:
            self._judge = Judge(first, self._frames)
        return self._judge.compare(second).measured(self._data)


if __name__ == "__main__":  # the child process of a run or of the service, see pipeline/lanes/upgrade.py
    run_main(lambda words: autotune(words, choose_engine))
