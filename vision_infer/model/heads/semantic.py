"""Semantic segmentation (SegFormer, DeepLab, LR-ASPP): scores of classes for each pixel; the graph returns the best class.

One output [B, C, h, w] or [B, h, w, C] of C scores for each element of a map that is at most as large as the input, and at least
an eighth of it. A second one whose name contains "aux", for training, is ignored. Or one output [B, h, w] of integers: the model
has chosen the classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import Size
from vision_infer.model.decode import as_float, check_labels
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import IMAGENET_MEAN, IMAGENET_STD, HeadDefaults, HeadOutputs
from vision_infer.model.network import RawNetwork, Tensor
from vision_infer.model.reference import RawOutputs

DEFAULTS = HeadDefaults(
    color="rgb",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    fit="stretch",
    fill=(124, 116, 104),
    confidence=0.0,
    iou=None,
    input_size=Size(512, 512),
    task="segment",
)
_MAX_STRIDE = 8
"""The maximum number of input pixels for each element of the map, along a side."""
_SAME_STRIDE = 1.1
"""The maximum ratio of these numbers for the two sides, which rounding makes different."""
_MAX_CLASSES = 256
"""The number of values of a byte."""


def _find_map(network: RawNetwork) -> tuple[Tensor, int] | None:
    """Return the output, and the axis of the scores of classes, 0 for numbers of classes; None for other models."""
    outputs = [tensor for tensor in network.outputs if "aux" not in tensor.name]
    if network.other_inputs or len(outputs) != 1 or None in outputs[0].shape:
        return None
    if len(outputs[0].shape) == 3 and outputs[0].dtype in (TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8):
        _, height, width = outputs[0].shape
        return (outputs[0], 0) if _is_map(height or 0, width or 0, network.size) else None
    if any(len(tensor.shape) != 4 for tensor in network.outputs):
        return None
    for axis in (1, 3):
        height, width = (side or 0 for at, side in enumerate(outputs[0].shape) if at not in (0, axis))
        if _is_map(height, width, network.size) and 2 <= (outputs[0].shape[axis] or 0) <= _MAX_CLASSES:
            return outputs[0], axis
    return None


def _is_map(height: int, width: int, size: Size) -> bool:
    """Return whether sides are those of the input, or of a coarser map of it."""
    steps = size.height / max(1, height), size.width / max(1, width)
    return min(steps) >= 1 and max(steps) <= _MAX_STRIDE and max(steps) <= _SAME_STRIDE * min(steps)


def recognize(network: RawNetwork) -> str | None:
    """Return why a raw model is one for semantic segmentation; None if it is not."""
    found = _find_map(network)
    if found is None:
        return None
    tensor, axis = found
    if axis == 0:
        return f"one output {tensor} of a class number for each pixel of a map"
    return f"one output {tensor} of {tensor.shape[axis]} class scores for each pixel of a map"


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:  # noqa: ARG001
    """Add the choice of the best class; see :class:`vision_infer.model.head.Head`. ``candidates`` is not used."""
    found = _find_map(network)
    if found is None:
        raise network.refuse("semantic", f"it needs one output [1, classes, h, w] with 2 to {_MAX_CLASSES} classes")
    tensor, axis = found
    if axis == 0:
        return HeadOutputs({"classes": builder.cast(as_float(builder, tensor), TensorProto.UINT8, "class_byte")})
    check_labels(network, card, tensor.shape[axis] or 0)
    best = builder.add("ArgMax", as_float(builder, tensor), name="best_class", axis=axis, keepdims=0)
    # By way of float32, because TensorRT converts only floating-point numbers to uint8.
    best = builder.cast(best, TensorProto.FLOAT, "class_float")
    return HeadOutputs({"classes": builder.cast(best, TensorProto.UINT8, "class_byte")})


def reference(raw: RawOutputs) -> NDArray[np.uint8]:
    """Return the best class of each element of the map, [P, h, w]; see :class:`vision_infer.model.head.Head`."""
    (scores,) = (array for name, array in raw.outputs.items() if "aux" not in name)
    if scores.ndim == 3:
        return np.asarray(scores, np.uint8)
    # The other axes have the aspect ratio of the input.
    wanted = raw.size.width / raw.size.height
    off = [abs(np.log(wide / high / wanted)) for high, wide in (scores.shape[2:], scores.shape[1:3])]
    return np.asarray(scores.argmax(axis=1 if off[0] <= off[1] else 3), np.uint8)
