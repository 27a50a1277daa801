"""DBNet: regions of text, as in PP-OCR. The graph returns a map of probabilities, and rotated boxes are made of it outside.

One output [B, 1, h, w] of probabilities, the end of two transposed convolutions and a sigmoid (Liao et al., 2019,
arXiv 1911.08947). Regions of the map are smaller than the text, and grow by the card's ``unclip``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from vision_infer.core.card import ModelCard
from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Size
from vision_infer.model.decode import as_float
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import IMAGENET_MEAN, IMAGENET_STD, HeadDefaults, HeadOutputs
from vision_infer.model.network import RawNetwork, Tensor
from vision_infer.model.reference import RawOutputs, only_array

DEFAULTS = HeadDefaults(
    color="bgr",
    mean=IMAGENET_MEAN,  # PP-OCR applies them to blue, green and red in this order
    std=IMAGENET_STD,
    fit="center",
    fill=(114, 114, 114),
    confidence=0.7,
    iou=0.5,
    input_size=Size(736, 736),
    detail="rotated_boxes",
    unclip=1.5,
    labels=("text",),
)
_STRIDES = (1, 2, 4)
"""The numbers of input pixels for each element of the map, along a side."""


def _find_map(network: RawNetwork) -> Tensor | None:
    """Return the output; None for other models."""
    if network.other_inputs or len(network.outputs) != 1:
        return None
    (tensor,) = network.outputs
    size = network.size
    shapes = [(1, 1, size.height // stride, size.width // stride) for stride in _STRIDES]
    return tensor if tensor.shape in shapes else None


def recognize(network: RawNetwork) -> str | None:
    """Return why a raw model is a DBNet; None if it is not."""
    tensor = _find_map(network)
    if tensor is None:
        return None
    last = network.producer(tensor, ("Identity", "Cast"))
    if last is None or last.op_type != "Sigmoid" or sum(node.op_type == "ConvTranspose" for node in network.model.graph.node) < 2:
        return None
    return f"one output {tensor} of the probability of text for each pixel of a map"


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:  # noqa: ARG001
    """Add the conversion of the map to bytes; see :class:`vision_infer.model.head.Head`. ``candidates`` is not used."""
    tensor = _find_map(network)
    if tensor is None:
        raise network.refuse("dbnet", "it needs one output [1, 1, h, w] of probabilities, at least a quarter of the input")
    if card.fit == "stretch":
        message = f"{network.where}: rotated boxes are not rectangles in a stretched image"
        raise ModelError(message, "Use --fit center or top_left.")
    plane = builder.add("Squeeze", as_float(builder, tensor), builder.ints("class_axis", 1), name="probability")
    scaled = builder.add("Mul", plane, builder.constant("byte_range", np.array(255, np.float32)), name="probability_255")
    limits = builder.constant("byte_low", np.array(0, np.float32)), builder.constant("byte_high", np.array(255, np.float32))
    rounded = builder.add("Clip", builder.add("Round", scaled, name="probability_round"), *limits, name="probability_clip")
    return HeadOutputs({"probabilities": builder.cast(rounded, TensorProto.UINT8, "probability_byte")})


def reference(raw: RawOutputs) -> NDArray[np.uint8]:
    """Return the map in steps of 1/255, [P, h, w]; see :class:`vision_infer.model.head.Head`."""
    plane = only_array(raw)[:, 0].astype(np.float64)
    return np.asarray(np.clip(np.rint(plane * 255), 0, 255), np.uint8)
