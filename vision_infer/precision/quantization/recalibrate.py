"""Scores of a quantized detector, brought back to where FP32's are.

Rounding makes a network a little less sure, or surer, of all that it finds. The order of scores hardly changes, so that average
precision sees nothing; what changes is how many of them pass the user's threshold. One increasing function for all scores,
a straight line between their logits (Platt, 1999), is fitted so that the k-th greatest score of the quantized graph becomes
FP32's k-th greatest, and put at the end of the graph. It costs a few operations on the K candidates.
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
"""with fewer there is nothing to fit"""
_SMALLEST = 1e-6
"""scores nearer to 0 or 1 count as this near: their logits would not be finite"""
_WIDTH = 1.0
"""of the weights' bell around the threshold, in logits: that is where a change of score changes a count"""
_STEEPEST = 2.0
"""slopes beyond this, or its inverse, are no correction any more"""


@dataclass(frozen=True, slots=True)
class Recalibration:
    """logit of the new score = slope × logit of the old one + offset."""

    slope: float
    """above 0, so that the order stays"""
    offset: float

    def __str__(self) -> str:
        return f"logit × {self.slope:.3f} {self.offset:+.3f}"


def fit(ours: Sequence[Detections], theirs: Sequence[Detections], threshold: float) -> Recalibration | None:
    """Fit the correction to frames, whose detections need not be told apart.

    Args:
        ours: FP32's detections of each frame, down to a low score.
        theirs: the quantized graph's, on the same frames, down to a lower one.
        threshold: the model's own score threshold.

    Returns:
        None where there is too little to fit, or what fits would not be a correction.
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
    """The graph with corrected scores; the one that is given is left as it is.

    Args:
        model: a deployment graph of a detector.
        correction: as :func:`fit` gives it.
        where: names the model in an error.

    Raises:
        ModelError: what comes of it is no deployment graph.
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
    """Logits of all scores."""
    scores = np.concatenate([one.scores for one in frames]) if frames else np.zeros(0)
    return np.sort(_logits(scores))[::-1]


def _logits(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    inside = np.clip(scores.astype(np.float64), _SMALLEST, 1 - _SMALLEST)
    made: NDArray[np.float64] = np.log(inside / (1 - inside))
    return made
