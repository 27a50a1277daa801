"""RTMPose and other models of the keypoints of one object, as two scores for each position along x and y (SimCC).

Two outputs [B, P, s·W] and [B, P, s·H], for P keypoints and the same number s of positions for each pixel of the input. Such a
model is a secondary one: its input is the crop of a detection.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import Size
from vision_infer.model.decode import as_float
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import IMAGENET_MEAN, IMAGENET_STD, HeadDefaults, HeadOutputs
from vision_infer.model.network import RawNetwork, Tensor
from vision_infer.model.reference import RawOutputs
from vision_infer.model.yolo import COCO_17

DEFAULTS = HeadDefaults(
    color="rgb",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    fit="center",
    fill=(0, 0, 0),
    confidence=0.0,
    iou=None,
    input_size=Size(192, 256),
    task="keypoints",
    keypoints=COCO_17,
)
_MAX_STEPS = 4
"""The maximum number of positions for each pixel."""


def _find_outputs(network: RawNetwork) -> tuple[Tensor, Tensor, int] | None:
    """Return the outputs for x and y, and the number of positions for each pixel; None for other models."""
    outputs = [tensor for tensor in network.outputs if len(tensor.shape) == 3 and None not in tensor.shape]
    if len(network.outputs) != 2 or len(outputs) != 2 or network.other_inputs:
        return None
    if "x" in outputs[1].name and "x" not in outputs[0].name:
        outputs.reverse()
    (points, columns), (others, rows) = ((tensor.shape[1] or 0, tensor.shape[2] or 0) for tensor in outputs)
    size, steps = network.size, max(1, columns // network.size.width)
    if points != others or steps > _MAX_STEPS or (columns, rows) != (steps * size.width, steps * size.height):
        return None
    return outputs[0], outputs[1], steps


def recognize(network: RawNetwork) -> str | None:
    """Return why a raw model is of this kind; None if it is not."""
    found = _find_outputs(network)
    if found is None:
        return None
    x, y, steps = found
    return f"outputs {x} and {y} with {steps} scores for each column and row of pixels, of {x.shape[1]} keypoints"


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:  # noqa: ARG001
    """Add the choice of the best positions; see :class:`vision_infer.model.head.Head`. ``candidates`` is not used."""
    found = _find_outputs(network)
    if found is None:
        raise network.refuse("simcc", "it needs two outputs [1, P, s x width] and [1, P, s x height]")
    *outputs, steps = found
    points = outputs[0].shape[1]
    if card.keypoints is None or len(card.keypoints.names) != points:
        count = 0 if card.keypoints is None else len(card.keypoints.names)
        raise network.refuse("simcc", f"it has {points} keypoints, but the card has {count} (see --keypoints)")
    axis, step = builder.ints("value_axis", 2), builder.constant("pixels_of_step", np.array(1 / steps, np.float32))
    values, best = [], []
    for output, name in zip(outputs, "xy", strict=True):
        scores = as_float(builder, output)
        place = builder.cast(builder.add("ArgMax", scores, name=f"best_{name}", axis=2, keepdims=0), TensorProto.FLOAT, name)
        place = builder.add("Mul", place, step, name=f"{name}_pixels")
        values.append(builder.add("Unsqueeze", place, axis, name=f"{name}_column"))
        best.append(builder.reduce_max(scores, 2, f"score_{name}"))
    bounds = builder.constant("score_low", np.array(0, np.float32)), builder.constant("score_high", np.array(1, np.float32))
    score = builder.add("Clip", builder.add("Min", *best, name="score_least"), *bounds, name="score")
    values.append(builder.add("Unsqueeze", score, axis, name="score_column"))
    points_xys = builder.add("Concat", *values, name="keypoints_xys", axis=2)
    return HeadOutputs({"keypoints": builder.add("Unsqueeze", points_xys, builder.ints("object_axis", 1), name="keypoints_one")})


def reference(raw: RawOutputs) -> NDArray[np.float64]:
    """Return the keypoints, [P, 1, points, 3]; see :class:`vision_infer.model.head.Head`."""
    first, second = (array.astype(np.float64) for array in raw.outputs.values())
    names = list(raw.outputs)
    x, y = (second, first) if "x" in names[1] and "x" not in names[0] else (first, second)
    score = np.clip(np.minimum(x.max(axis=2), y.max(axis=2)), 0, 1)
    places = x.argmax(axis=2) * (raw.size.width / x.shape[2]), y.argmax(axis=2) * (raw.size.height / y.shape[2])
    return np.stack([*places, score], axis=-1)[:, None]
