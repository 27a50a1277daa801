"""Autotuning with the user's own frames, which measure the accuracy: of videos, or the first frames of a running lane."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Letterbox, Size
from vision_infer.engine.engine import Engine
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.open import EngineRequest
from vision_infer.engine.selection.auto import AUTOTUNE_S, AutotuneOptions, autotune_model
from vision_infer.engine.selection.by_passport import BUDGET_POINTS
from vision_infer.engine.selection.tuning_store import EngineChoice
from vision_infer.engine.store.passport import MeasuredAccuracy
from vision_infer.pipeline.lanes.engine_child import parse_words, run_main
from vision_infer.pipeline.lanes.samples import MAX_SAMPLES, count_samples, read_samples
from vision_infer.precision.frames import FrameNeeds, Frames, FrameSet
from vision_infer.precision.verification.agreement import MIN_FRAMES_TO_JUDGE, Judge
from vision_infer.stream.redact import redact

NEEDS = FrameNeeds(calibration=1, search=1, evaluation=100)
"""The required frames; none for calibration or search."""
TIMED_FRAMES = 8
SAMPLES_WAIT_S = 60.0
"""The maximum wait for the frames of a running lane, seconds."""


def choose_engine(
    path: Path,
    request: EngineRequest,
    data: Sequence[str] = (),
    *,
    budget: float = BUDGET_POINTS,
    seconds: float = AUTOTUNE_S,
    on_message: Callable[[str], None] = lambda _: None,
    again: bool = False,
    samples: BinaryIO | None = None,
) -> EngineChoice:
    """Autotune the engines of a model, and save the best one if ``request.engine_dir`` is set.

    Args:
        path: The model's deployment graph.
        request: The use of the engine: device, workers, threads, batch.
        data: Videos, images or a configuration of streams for the accuracy. Without any, only engines in float32 are tried, and
            those with a passport within the budget.
        budget: The maximum loss of accuracy, in points.
        seconds: The duration of the timing.
        on_message: Receives which engine is tried, and why one is skipped.
        again: Whether to retry engines that failed before.
        samples: Instead of ``data``: frames of a running lane, see :func:`vision_infer.pipeline.lanes.samples.read_samples`.

    Raises:
        EngineError: No runtime is installed, or FP32 fails.
        ModelError: The file is not a deployment graph.
        StreamError: The data cannot be read, or there are too few.
        UsageError: The data have no sources.
        OutputError: There is no space for the frames.
    """
    if samples is not None:
        pixels, layouts = _wait_for_samples(samples, read_graph_facts(path).card.input_size)
        found = FrameSet(pixels, layouts, tuple(f"frame {number}" for number in range(len(pixels))))
        judge = _AccuracyJudge(found, "the first frames of the streams") if len(pixels) >= MIN_FRAMES_TO_JUDGE else None
        return autotune_model(path, request, AutotuneOptions(pixels[:TIMED_FRAMES], judge, budget, seconds, again), on_message)
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
            try:
                self._judge = Judge(first, self._frames)
            except ModelError as error:  # FP32 finds nothing on these frames: only engines in FP32 can be used
                figures = {"value": 0, "low": 0, "high": 0, "frames": len(self._frames), "judged": "not proven"}
                return MeasuredAccuracy.model_validate({"metric": error.message, "data": self._data, **figures})
        return self._judge.compare(second).measured(self._data)


def _wait_for_samples(file: BinaryIO, size: Size) -> tuple[Sequence[NDArray[np.uint8]], tuple[Letterbox, ...]]:
    """Return the frames of a running lane, once there are enough; fewer after a minute."""
    until = time.monotonic() + SAMPLES_WAIT_S
    while count_samples(file, size) < MAX_SAMPLES and time.monotonic() < until:
        time.sleep(0.5)
    return read_samples(file, size)


def autotune(words: Sequence[str]) -> None:
    """Do the work of the child process of a lane: on a GPU, its frames come from standard input, and the progress is printed.

    Raises:
        VisionInferError: The work failed.
    """
    path, request, data = parse_words(words)
    if request.device == "cpu":
        choose_engine(path, request, data)
    else:
        choose_engine(path, request, samples=sys.stdin.buffer, on_message=partial(print, flush=True))


if __name__ == "__main__":
    run_main(autotune)
