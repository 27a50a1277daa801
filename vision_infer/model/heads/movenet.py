"""MoveNet for one person: the keypoints of the person in the middle of the image.

One output [B, 1, P, 3] of y, x and score, where y and x are fractions of the input. Such a model is a secondary one, as those of
the head ``simcc``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import Size
from vision_infer.model.decode import as_float
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import HeadDefaults, HeadOutputs
from vision_infer.model.network import RawNetwork, Tensor
from vision_infer.model.reference import RawOutputs, only_array
from vision_infer.model.yolo import COCO_17

DEFAULTS = HeadDefaults(
    color="rgb",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    fit="center",
    fill=(0, 0, 0),
    confidence=0.0,
    iou=None,
    input_size=Size(192, 192),
    task="keypoints",
    keypoints=COCO_17,
)


def _find_output(network: RawNetwork) -> Tensor | None:
    """Return the output; None for other models."""
    if network.other_inputs or len(network.outputs) != 1:
        return None
    (tensor,) = network.outputs
    fits = len(tensor.shape) == 4 and tensor.shape[1] == 1 and tensor.shape[3] == 3 and (tensor.shape[2] or 0) > 1
    return tensor if fits else None


def recognize(network: RawNetwork) -> str | None:
    """Return why a raw model is of this kind; None if it is not."""
    tensor = _find_output(network)
    return None if tensor is None else f"one output {tensor} of {tensor.shape[2]} keypoints"


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:  # noqa: ARG001
    """Turn fractions into pixels; see :class:`vision_infer.model.head.Head`. ``candidates`` is not used."""
    tensor = _find_output(network)
    if tensor is None:
        raise network.refuse("movenet", "it needs one output [1, 1, P, 3] of y, x and score")
    names = 0 if card.keypoints is None else len(card.keypoints.names)
    if names != tensor.shape[2]:
        raise network.refuse("movenet", f"it has {tensor.shape[2]} keypoints, but the card has {names} (see --keypoints)")
    order = builder.ints("x_y_score", 1, 0, 2)
    values = builder.add("Gather", as_float(builder, tensor), order, name="keypoints_fractions", axis=3)
    sides = builder.constant("input_sides", np.array([network.size.width, network.size.height, 1], np.float32))
    return HeadOutputs({"keypoints": builder.add("Mul", values, sides, name="keypoints_pixels")})


def reference(raw: RawOutputs) -> NDArray[np.float64]:
    """Return the keypoints, [P, 1, points, 3]; see :class:`vision_infer.model.head.Head`."""
    y, x, score = np.moveaxis(only_array(raw).astype(np.float64), -1, 0)
    return np.stack([x * raw.size.width, y * raw.size.height, score], axis=-1)
