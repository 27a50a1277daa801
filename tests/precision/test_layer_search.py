"""The search for the layers that stay in FP32, with the figures of graphs given: all limits count, with a margin."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from vision_infer.engine.store.passport import MeasuredDrift
from vision_infer.precision.quantization import search as module
from vision_infer.precision.quantization.int8 import Int8Recipe
from vision_infer.precision.quantization.search import LayerSearch, SearchResult
from vision_infer.precision.quantization.sensitivity import LayerError
from vision_infer.precision.verification.agreement import Agreement
from vision_infer.precision.verification.drift import BootstrapInterval

LAYERS = tuple(LayerError(f"layer {number}", 31.0 - number) for number in range(31))


def figures(high: float, count: float, scores: float = 0.01) -> Agreement:
    """Return the agreement on the search frames: few objects, so the interval of the count is 8 % wide."""
    drift = MeasuredDrift(
        threshold=0.35, objects=159, count=count, count_low=count - 8, count_high=count + 8,
        score=0.0, score_difference=scores, found=99.5, iou=0.97,
    )  # fmt: skip
    return Agreement(BootstrapInterval(high - 0.5, high - 1, high), "points", 100, 159, True, {}, drift=drift)


MEASURED = {
    0: figures(1.36, 0.6, 0.023),
    3: figures(0.61, 8.2, 0.031),
    6: figures(0.75, 8.2, 0.027),
    12: figures(0.24, 8.8, 0.024),
    14: figures(0.25, 10.1, 0.018),
    15: figures(0.40, 7.5, 0.018),
    17: figures(0.33, 2.5, 0.017),
    20: figures(0.33, 2.0, 0.012),
    21: figures(0.40, 1.4, 0.010),
    22: figures(0.50, 1.3, 0.009),
    23: figures(0.56, 1.3, 0.008),
}
"""The figures of NanoDet on two clips, by the number of layers in FP32; AVX-512 VNNI."""


def found(monkeypatch: pytest.MonkeyPatch, by_count: dict[int, Agreement], time_limit_s: float = 300.0) -> SearchResult:
    """Run the search with one calibration method, and graphs whose figures are given."""
    monkeypatch.setattr(module, "METHODS", ("percentile",))
    monkeypatch.setattr(module, "find_ranges", lambda *_: {})
    monkeypatch.setattr(module, "rank_layers", lambda *_: LAYERS)
    monkeypatch.setattr(module, "quantizable", lambda _: [layer.name for layer in LAYERS])
    tried: list[int] = []
    clock = SimpleNamespace(monotonic_ns=lambda: len(tried) * 1_000_000_000)

    def attempt(_self: LayerSearch, _ranges: object, recipe: Int8Recipe, _budget: float) -> Any:
        tried.append(len(recipe.kept))
        near = max(count for count in by_count if count <= len(recipe.kept))
        return module._Attempt(onnx.ModelProto(), by_count[near])

    monkeypatch.setattr(LayerSearch, "_try", attempt)
    judge: Any = SimpleNamespace(frames=SimpleNamespace(first=lambda _: SimpleNamespace(pixels=[])))
    opened: Any = None
    return LayerSearch(onnx.ModelProto(), {}, judge, opened, "mine", clock=clock).run(Int8Recipe(), 1.0, time_limit_s)


def test_a_graph_within_all_limits_is_preferred_to_one_with_fewer_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    result = found(monkeypatch, MEASURED)
    assert (len(result.recipe.kept), result.within) == (21, True)  # 20 changes the count by 2.0 %: within, but without a margin
    assert result.agreement.drift is not None
    assert result.agreement.drift.count == 1.4


def test_without_a_graph_within_the_limits_the_nearest_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    over = {count: replace(one, drift=figures(0.5, 4.0).drift) for count, one in MEASURED.items()} | {12: figures(0.5, 2.1)}
    del over[14], over[15], over[17], over[20], over[21], over[22]
    result = found(monkeypatch, over)
    assert (len(result.recipe.kept), result.within) == (12, False)


def test_the_points_and_the_scores_are_limits_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    by_count = {0: figures(1.1, 0.0), 3: figures(0.5, 0.0, 0.025), 6: figures(1.05, 0.0), 12: figures(0.9, 0.0)}
    assert len(found(monkeypatch, by_count).recipe.kept) == 12
    assert len(found(monkeypatch, {0: figures(0.9, -1.4)}).recipe.kept) == 0
    nan = figures(float("nan"), 0.0)
    assert not found(monkeypatch, {0: nan}).within


def test_out_of_time_the_best_graph_so_far_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    result = found(monkeypatch, MEASURED, time_limit_s=5.0)  # 0, 3, 6, 12, 23: each takes a second
    assert (len(result.recipe.kept), result.within, result.finished) == (23, True, False)
