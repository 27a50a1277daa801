"""The fewest layers that have to stay in FP32 so that an INT8 graph loses no more than the budget.

Layers are ranked by what each alone does to the network's results; then the number that is kept, the most sensitive first, is
searched by halving. Each number is judged on the search frames by the upper end of its interval: what is chosen there is
judged once more, on frames that took no part. Where a graph's scores have drifted, a correction of them is fitted on the search
frames, which are spread evenly as those that judge, and the graph with it is judged as well.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import ModelError
from vision_infer.engine.engine import Engine
from vision_infer.engine.store.passport import MAX_SCORE
from vision_infer.precision.quantization.int8 import Int8Recipe, quantizable, quantize
from vision_infer.precision.quantization.ranges import METHODS, Activations, Method, find_ranges
from vision_infer.precision.quantization.recalibrate import Recalibration, apply
from vision_infer.precision.quantization.sensitivity import FRAMES, LayerError, rank_layers
from vision_infer.precision.verification.agreement import Agreement, Judge

MAX_KEPT = 0.75
"""of all layers: where more would have to stay in FP32, nothing is left to gain"""
MAX_SENSITIVE = 0.1
"""of all layers: so many are left out where methods of calibration are compared once more"""
STEADY = 0.5
"""per cent by which the number of detections may change before a correction is tried: other frames show changes of their own"""
STEADY_SCORES = 0.02
"""by which a score may change in the mean, either way: with more, what lies at the threshold comes and goes by chance, and that
the number of detections is right on the search frames says nothing of others"""
OpenGraph = Callable[[Path], Engine]


@dataclass(frozen=True, slots=True)
class _Tried:
    model: onnx.ModelProto
    agreement: Agreement
    correction: Recalibration | None = None

    def distance(self, budget: float) -> float:
        """How far it is from FP32, in points, what scores change by counted as a part of the budget.

        The number of detections does not count: on few frames it tells how many objects lie at the threshold, and a correction
        makes it right on these frames in any case.
        """
        drift = self.agreement.drift
        return self.agreement.lost.high + (0 if drift is None else budget * drift.score_difference / MAX_SCORE)


@dataclass(frozen=True, slots=True)
class Found:
    """The graph that the search ended with."""

    model: onnx.ModelProto
    recipe: Int8Recipe
    method: Method
    agreement: Agreement
    """on the search frames"""
    within: bool
    """whether that is good enough there"""
    layers: tuple[LayerError, ...]
    """the most sensitive first; empty where nothing had to be kept"""
    count: int
    """of all layers that could be quantized"""
    finished: bool
    """whether the time was enough"""
    correction: Recalibration | None = None
    """of the scores, which is in the graph; None: they are as they come"""


class Search:
    """Looks for a graph within the budget.

    Args:
        model: as :func:`vision_infer.precision.quantization.int8.simplify` gives it.
        activations: on the calibration frames.
        judge: FP32 on the search frames.
        open_graph: opens a graph as an engine.
        where: names the model in errors.
        say: is told each step.
        clock: of the time limit.
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
        self._open, self._where, self._say, self._clock = open_graph, where, on_message, clock
        self._tried: dict[int, _Tried] = {}

    def run(self, recipe: Int8Recipe, budget: float, time_limit_s: float) -> Found:
        """Search.

        Args:
            recipe: the form; ``kept`` is found here.
            budget: points.
            time_limit_s: no new step is begun after it.

        Raises:
            ModelError: there is nothing to quantize, or every graph gives values that are not finite.
        """
        end_ns = self._clock.monotonic_ns() + round(time_limit_s * 1e9)
        names = quantizable(self._model)
        method = self._best_method(recipe, budget)
        if _is_good(self._tried[0], budget):
            return self._found(0, recipe, method, budget, (), len(names), True)

        def told(done: int, count: int) -> bool:
            if done % 10 == 0 or done == count:
                self._say(f"sensitivity: {done} of {count} layers")
            return self._clock.monotonic_ns() < end_ns

        pixels = self._judge.frames.first(FRAMES).pixels
        layers = rank_layers(self._model, find_ranges(self._activations, method), recipe, pixels, told)
        some = max(1, round(len(layers) * MAX_SENSITIVE))
        if self._clock.monotonic_ns() >= end_ns:
            return self._found(0, recipe, method, budget, layers, len(names), False)
        # The noise of a few layers drowned what the methods make of the others.
        self._tried.clear()
        method = self._best_method(replace(recipe, kept=frozenset(one.name for one in layers[:some])), budget, some)
        best, finished = self._fewest(layers, find_ranges(self._activations, method), recipe, budget, end_ns, some)
        return self._found(best, recipe, method, budget, layers, len(names), finished)

    def _best_method(self, recipe: Int8Recipe, budget: float, count: int = 0) -> Method:
        """The method of calibration that keeps nearest to FP32, with so many layers in FP32."""
        best: tuple[float, Method] | None = None
        for method in METHODS:
            try:
                tried = self._try(find_ranges(self._activations, method), recipe, budget)
            except ModelError as error:
                self._say(f"calibration {method}: {error.message}")
                last = error
                continue
            kept = f", {count} layers in FP32" if count else ""
            self._say(f"calibration {method}{kept}: {_told(tried)}")
            if best is None or tried.distance(budget) < best[0]:
                best = (tried.distance(budget), method)
                self._tried[count] = tried
        if best is None:
            raise last
        return best[1]

    def _fewest(
        self,
        layers: Sequence[LayerError],
        ranges: Mapping[str, tuple[float, float]],
        recipe: Int8Recipe,
        budget: float,
        end_ns: int,
        tried: int,
    ) -> tuple[int, bool]:
        """How many of the first layers have to be kept, and whether the time was enough to know; one number was tried already."""
        most = int(len(layers) * MAX_KEPT)
        good = tried if _is_good(self._tried[tried], budget) else None
        failed, step = (0 if good is not None else tried), tried
        while good is None or good - failed > 1:
            if self._clock.monotonic_ns() >= end_ns:
                return self._best_tried(budget), False
            count = min(failed + step, most) if good is None else (failed + good) // 2
            if count == failed:  # the most is not enough
                return self._best_tried(budget), True
            kept = frozenset(one.name for one in layers[:count])
            self._tried[count] = self._try(ranges, replace(recipe, kept=kept), budget)
            self._say(f"{count} of {len(layers)} layers in FP32: {_told(self._tried[count])}")
            if _is_good(self._tried[count], budget):
                good = count
            else:
                failed, step = count, step * 2
        return good, True

    def _best_tried(self, budget: float) -> int:
        within = [count for count, tried in self._tried.items() if _is_good(tried, budget)]
        return min(within) if within else min(self._tried, key=lambda count: self._tried[count].distance(budget))

    def _try(self, ranges: Mapping[str, tuple[float, float]], recipe: Int8Recipe, budget: float) -> _Tried:
        model = quantize(self._model, ranges, recipe, self._where)
        with self._opened(model) as engine:
            tried = _Tried(model, self._judge.compare(engine))
            drift = tried.agreement.drift
            if drift is None or (abs(drift.count) <= STEADY and not drift.shortfall()):
                return tried
            correction = self._judge.fit_scores(engine)
        if correction is None:
            return tried
        corrected = apply(model, correction, self._where)
        with self._opened(corrected) as engine:
            other = _Tried(corrected, self._judge.compare(engine), correction)
        return min(tried, other, key=lambda one: (bool(one.agreement.shortfall(budget)), _count_change(one)))

    @contextmanager
    def _opened(self, model: onnx.ModelProto) -> Iterator[Engine]:
        with tempfile.TemporaryDirectory(prefix="vision-infer-") as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(model, path)
            with self._open(path) as engine:
                yield engine

    def _found(
        self,
        count: int,
        recipe: Int8Recipe,
        method: Method,
        budget: float,
        layers: tuple[LayerError, ...],
        total: int,
        finished: bool,
    ) -> Found:
        tried = self._tried[count]
        kept = frozenset(one.name for one in layers[:count])
        within = _is_good(tried, budget)
        whole = replace(recipe, kept=kept)
        return Found(tried.model, whole, method, tried.agreement, within, layers, total, finished, tried.correction)


def _is_good(tried: _Tried, budget: float) -> bool:
    """Whether it may go before the frames that judge.

    Of the number of detections the interval's end that is nearest to 0 counts: what few frames do not prove is theirs to decide.
    """
    drift = tried.agreement.drift
    if drift is None:
        return not tried.agreement.shortfall(budget)
    nearest = sorted((drift.count_low, 0.0, drift.count_high))[1]
    likely = replace(tried.agreement, drift=drift.model_copy(update={"count": nearest}))
    return not likely.shortfall(budget) and drift.score_difference <= STEADY_SCORES


def _count_change(tried: _Tried) -> float:
    return 0.0 if tried.agreement.drift is None else abs(tried.agreement.drift.count)


def _told(tried: _Tried) -> str:
    drift = tried.agreement.drift
    scores = "" if drift is None else f", scores ±{drift.score_difference:.3f}"
    return tried.agreement.told() + scores + ("" if tried.correction is None else f" (scores corrected: {tried.correction})")
