"""Search for the minimum number of layers in FP32 so that the loss of an INT8 graph is within the budget.

Layers are ranked by the effect of each alone on the model's results. A binary search then finds how many of the most sensitive
layers to keep. Each number is evaluated on the search frames against all limits: the points lost, by the upper end of their
interval, and the changes at the model's threshold, with a margin. The result is evaluated again on other frames. If the scores
of a graph have drifted, a correction is fitted on the search frames, and the graph with it is evaluated as well.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import ModelError
from vision_infer.engine.engine import Engine
from vision_infer.engine.store.passport import MAX_COUNT, MAX_SCORE, MIN_DETAILS, MIN_FOUND, MIN_IOU
from vision_infer.precision.quantization.int8 import Int8Recipe, quantizable, quantize
from vision_infer.precision.quantization.ranges import METHODS, Activations, Method, find_ranges
from vision_infer.precision.quantization.recalibrate import Recalibration, apply
from vision_infer.precision.quantization.sensitivity import FRAMES, LayerError, rank_layers
from vision_infer.precision.verification.agreement import Agreement, Judge

MAX_KEPT = 0.75
"""The maximum share of layers in FP32; with more, the graph would not be faster."""
MAX_SENSITIVE = 0.1
"""The share of layers in FP32 for the second comparison of calibration methods."""
STEADY = 0.5
"""The maximum change of the number of detections, in per cent, without a correction of the scores."""
STEADY_SCORES = 0.015
"""The maximum mean absolute change of scores; with more, detections near the threshold change at random, so that an equal number
of detections on the search frames does not hold for other frames."""
COUNT_MARGIN = 0.75
"""The share of the limit for the number of detections that a graph may use on the search frames, because the number changes
differently on other frames."""
_SMALLEST_BUDGET = 1e-6
OpenGraph = Callable[[Path], Engine]


@dataclass(frozen=True, slots=True)
class _Attempt:
    model: onnx.ModelProto
    agreement: Agreement
    correction: Recalibration | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The graph that the search found."""

    model: onnx.ModelProto
    recipe: Int8Recipe
    method: Method
    agreement: Agreement
    """The agreement with FP32 on the search frames."""
    within: bool
    """Whether the loss on them is within the budget."""
    layers: tuple[LayerError, ...]
    """The layers, the most sensitive first; empty if none had to be kept."""
    count: int
    """The number of layers that could be quantized."""
    finished: bool
    """Whether the search ended before the time limit."""
    correction: Recalibration | None = None
    """The correction of the scores in the graph; None: there is none."""


class LayerSearch:
    """Searches for a graph within the budget.

    Args:
        model: The simplified graph.
        activations: The activations on the calibration frames.
        judge: The results of FP32 on the search frames.
        open_graph: Opens a graph as an engine.
        where: The name of the model, for errors.
        on_message: Receives the progress.
        clock: The clock for the time limit.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        activations: Mapping[str, Activations],
        judge: Judge,
        open_graph: OpenGraph,
        where: str,
        on_message: Callable[[str], None] = lambda _: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._model, self._activations, self._judge = model, activations, judge
        self._open, self._where, self._on_message, self._clock = open_graph, where, on_message, clock
        self._tried: dict[int, _Attempt] = {}

    def run(self, recipe: Int8Recipe, budget: float, time_limit_s: float) -> SearchResult:
        """Run the search.

        Args:
            recipe: The form; the search sets ``kept``.
            budget: The budget in points.
            time_limit_s: The time after which no step begins.

        Raises:
            ModelError: There is nothing to quantize, or every graph gives values that are not finite.
        """
        end_ns = self._clock.monotonic_ns() + round(time_limit_s * 1e9)
        layers: tuple[LayerError, ...] = ()
        count, finished, method = 0, True, self._best_method(recipe, budget)
        if limit_use(self._tried[0].agreement, budget) > 1:

            def report(done: int, total: int) -> bool:
                if done % 10 == 0 or done == total:
                    self._on_message(f"sensitivity: {done} of {total} layers")
                return self._clock.monotonic_ns() < end_ns

            pixels = self._judge.frames.first(FRAMES).pixels
            layers = rank_layers(self._model, find_ranges(self._activations, method), recipe, pixels, report)
            finished = self._clock.monotonic_ns() < end_ns
        if layers and finished:
            # The noise of the most sensitive layers hid the differences between the methods.
            some = max(1, round(len(layers) * MAX_SENSITIVE))
            self._tried.clear()
            method = self._best_method(replace(recipe, kept=frozenset(layer.name for layer in layers[:some])), budget, some)
            ranges = find_ranges(self._activations, method)

            def use(count: int) -> float:
                if count not in self._tried:
                    kept = frozenset(one.name for one in layers[:count])
                    self._tried[count] = self._try(ranges, replace(recipe, kept=kept), budget)
                    self._on_message(f"{count} of {len(layers)} layers in FP32: {_summary(self._tried[count])}")
                return limit_use(self._tried[count].agreement, budget)

            maximum = int(len(layers) * MAX_KEPT)
            count, finished = fewest_layers(some, maximum, use, lambda: self._clock.monotonic_ns() < end_ns)
        tried, total = self._tried[count], len(quantizable(self._model))
        recipe = replace(recipe, kept=frozenset(layer.name for layer in layers[:count]))
        within = limit_use(tried.agreement, budget) <= 1
        return SearchResult(tried.model, recipe, method, tried.agreement, within, layers, total, finished, tried.correction)

    def _best_method(self, recipe: Int8Recipe, budget: float, count: int = 0) -> Method:
        """Return the calibration method that is nearest to the limits or within them, with ``count`` layers in FP32."""
        best: tuple[float, Method] | None = None
        for method in METHODS:
            try:
                tried = self._try(find_ranges(self._activations, method), recipe, budget)
            except ModelError as error:
                self._on_message(f"calibration {method}: {error.message}")
                last = error
                continue
            kept = f", {count} layers in FP32" if count else ""
            self._on_message(f"calibration {method}{kept}: {_summary(tried)}")
            use = limit_use(tried.agreement, budget)
            if best is None or use < best[0]:
                best = (use, method)
                self._tried[count] = tried
        if best is None:
            raise last
        return best[1]

    def _try(self, ranges: Mapping[str, tuple[float, float]], recipe: Int8Recipe, budget: float) -> _Attempt:
        model = quantize(self._model, ranges, recipe, self._where)
        with self._opened(model) as engine:
            tried = _Attempt(model, self._judge.compare(engine))
            drift = tried.agreement.drift
            if drift is None or (abs(drift.count) <= STEADY and not drift.shortfall()):
                return tried
            correction = self._judge.fit_scores(engine)
        if correction is None:
            return tried
        corrected = apply(model, correction, self._where)
        with self._opened(corrected) as engine:
            other = _Attempt(corrected, self._judge.compare(engine), correction)
        return min(tried, other, key=lambda one: limit_use(one.agreement, budget))

    @contextmanager
    def _opened(self, model: onnx.ModelProto) -> Iterator[Engine]:
        with tempfile.TemporaryDirectory(prefix="vision-infer-") as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(model, path)
            with self._open(path) as engine:
                yield engine


def limit_use(agreement: Agreement, budget: float) -> float:
    """Return the largest share of a limit that a graph uses on the search frames, of the budget in points and of each drift.

    At most 1 is good enough for the evaluation frames; infinite if a figure is not finite.
    """
    drift = agreement.drift
    shares = [agreement.lost.high / max(budget, _SMALLEST_BUDGET)]
    if drift is not None:
        shares += [
            abs(drift.count) / (COUNT_MARGIN * MAX_COUNT),
            drift.score_difference / STEADY_SCORES,
            abs(drift.score) / MAX_SCORE,
            (100 - drift.found) / (100 - MIN_FOUND),
            (1 - drift.iou) / (1 - MIN_IOU),
            0.0 if drift.details is None else (1 - drift.details) / (1 - MIN_DETAILS),
        ]
    return max(shares) if all(map(math.isfinite, shares)) else math.inf


def fewest_layers(first: int, maximum: int, use: Callable[[int], float], in_time: Callable[[], bool]) -> tuple[int, bool]:
    """Return the number of layers to keep in FP32, and whether the search ended in time.

    The number doubles its steps until a graph is within the limits, then a binary search finds the fewest layers. If none is
    within them, the number that exceeds them least is returned.

    Args:
        first: The number to begin with.
        maximum: The maximum number.
        use: Returns the largest share of a limit that the graph with a number of layers uses; at most 1 is within the limits.
        in_time: Whether another graph may be tried.
    """
    uses = {first: use(first)}
    good = first if uses[first] <= 1 else None
    failed, step = (0 if good is not None else first), first
    while good is None or good - failed > 1:
        count = min(failed + step, maximum) if good is None else (failed + good) // 2
        if count == failed:  # the maximum is not enough
            return min(uses, key=lambda one: uses[one]), True
        if not in_time():
            return good or min(uses, key=lambda one: uses[one]), False
        uses[count] = use(count)
        if uses[count] <= 1:
            good = count
        else:
            failed, step = count, step * 2
    return good, True


def _summary(tried: _Attempt) -> str:
    drift = tried.agreement.drift
    scores = "" if drift is None else f", scores ±{drift.score_difference:.3f}"
    return tried.agreement.summary() + scores + ("" if tried.correction is None else f" (scores corrected: {tried.correction})")
