"""Correction of the scores of a quantized detector to those of FP32.

Rounding shifts all scores slightly. Their order hardly changes, so the average precision stays the same, but the number of
detections above the user's threshold changes. An increasing function of the scores, a line between their logits (Platt, 1999),
is fitted so that the k-th highest score of the quantized graph becomes FP32's k-th highest, and is added to the end of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from vision_infer.core.detections import Detections
from vision_infer.model.graph import PREFIX, finish, read_card

MIN_SCORES = 30
"""The minimum number of scores for a fit."""
_SMALLEST = 1e-6
"""The minimum distance of scores to 0 and 1, where logits are not finite."""
_WIDTH = 0.5
"""The width of the Gaussian weights around the threshold, in logits, where changes of scores change the number of detections."""
_STEEPEST = 2.0
"""The maximum slope; its inverse is the minimum."""


@dataclass(frozen=True, slots=True)
class Recalibration:
    """The correction: logit of the new score = slope × logit of the old score + offset."""

    slope: float
    """The slope, above 0, so that the order does not change."""
    offset: float

    def __str__(self) -> str:
        return f"logit × {self.slope:.3f} {self.offset:+.3f}"


def fit(ours: Sequence[Detections], theirs: Sequence[Detections], threshold: float) -> Recalibration | None:
    """Fit the correction.

    Args:
        ours: FP32's detections of each frame, down to a low score.
        theirs: The quantized graph's detections on the same frames, down to a lower score.
        threshold: The model's confidence threshold.

    Returns:
        The correction; None if there are too few scores, or the slope is out of range.
    """
    wanted, given = (_greatest_first(side) for side in (ours, theirs))
    count = min(len(wanted), len(given))
    if count < MIN_SCORES:
        return None
    x, y = given[:count], wanted[:count]
    weights = np.exp(-0.5 * np.square((y - _logits(np.array(threshold))) / _WIDTH))
    mean_x, mean_y = np.average(x, weights=weights), np.average(y, weights=weights)
    spread = float(np.average(np.square(x - mean_x), weights=weights))
    slope = float(np.average((x - mean_x) * (y - mean_y), weights=weights)) / spread if spread > 0 else 0.0
    if not 1 / _STEEPEST <= slope <= _STEEPEST:
        return None
    return Recalibration(round(slope, 6), round(float(mean_y - slope * mean_x), 6))


def apply(model: onnx.ModelProto, correction: Recalibration, where: str) -> onnx.ModelProto:
    """Return a copy of a graph with corrected scores.

    Args:
        model: The deployment graph of a detector.
        correction: The correction of :func:`fit`.
        where: The name of the model, for errors.

    Raises:
        ModelError: The result is not a deployment graph.
    """
    card = read_card(model, where)
    assert card is not None
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph, own = copy.graph, f"{PREFIX}recalibrate"
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == "scores":
                    names[place] = f"{own}/scores"
    numbers = {"least": _SMALLEST, "most": 1 - _SMALLEST, "one": 1.0, "slope": correction.slope, "offset": correction.offset}
    graph.initializer.extend(numpy_helper.from_array(np.array(one, np.float32), f"{own}/{name}") for name, one in numbers.items())
    steps = (
        ("Clip", ("scores", "least", "most"), "clipped"),
        ("Sub", ("one", "clipped"), "rest"),
        ("Div", ("clipped", "rest"), "odds"),
        ("Log", ("odds",), "logits"),
        ("Mul", ("logits", "slope"), "scaled"),
        ("Add", ("scaled", "offset"), "shifted"),
    )
    for op, inputs, output in steps:
        name = f"{own}/{output}"
        graph.node.append(helper.make_node(op, [f"{own}/{one}" for one in inputs], [name], name=name))
    graph.node.append(helper.make_node("Sigmoid", [f"{own}/shifted"], ["scores"], name=f"{own}/sigmoid"))
    return finish(copy, card, where)


def _greatest_first(frames: Sequence[Detections]) -> NDArray[np.float64]:
    """Return the logits of all scores, the highest first."""
    scores = np.concatenate([one.scores for one in frames]) if frames else np.zeros(0)
    return np.sort(_logits(scores))[::-1]


def _logits(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    inside = np.clip(scores.astype(np.float64), _SMALLEST, 1 - _SMALLEST)
    made: NDArray[np.float64] = np.log(inside / (1 - inside))
    return made
