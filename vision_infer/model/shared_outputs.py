"""Outputs that several heads share: a vector for each image, and the raw scores and boxes of torchvision's detectors."""

from __future__ import annotations

from vision_infer.model.column_origins import ColumnOrigins
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.network import RawNetwork, Tensor


def only_vector(network: RawNetwork) -> tuple[Tensor, int] | None:
    """Return the output [1, D], or [1, D, 1, 1], and D; None for other models."""
    if network.other_inputs or len(network.outputs) != 1:
        return None
    tensor = network.outputs[0]
    if len(tensor.shape) < 2 or tensor.shape[1] is None or any(side != 1 for side in tensor.shape[2:]):
        return None
    return tensor, tensor.shape[1]


def flat(builder: GraphBuilder, tensor: Tensor, values: str, width: int) -> str:
    """Return the vector as [B, D]."""
    if len(tensor.shape) == 2:
        return values
    return builder.add("Reshape", values, builder.ints("vector_shape", 0, width), name="vector")


def named(tensor: Tensor, *words: str) -> str:
    """Return the first of some words that is in the output's name, or an empty string."""
    return next((word for word in words if word in tensor.name.lower()), "")


def raw_outputs(network: RawNetwork, extra: int = 0) -> tuple[Tensor, ...] | None:
    """Return the class scores, the boxes and the additional outputs; None if the model has other outputs.

    Args:
        network: The raw model.
        extra: The number of additional outputs [B, N, 1].
    """
    outputs = network.outputs
    if network.other_inputs or len(outputs) != 2 + extra or len({tensor.shape[1:2] for tensor in outputs}) != 1:
        return None
    if (
        any(len(tensor.shape) != 3 or None in tensor.shape for tensor in outputs)
        or len({tensor.shape[1] for tensor in outputs}) != 1
    ):
        return None
    narrow = [tensor for tensor in outputs if tensor.shape[2] == 1]
    wide = [tensor for tensor in outputs if tensor.shape[2] != 1]
    if len(wide) == 1 and len(narrow) == extra + 1:  # one class: the scores are as narrow as the additional outputs
        named = _named(narrow, "cls", "class", "logit")
        wide, narrow = [*named, *wide], [tensor for tensor in narrow if tensor not in named]
    boxes = [tensor for tensor in wide if tensor.shape[2] == 4]
    if len(boxes) == 2:  # four classes: only the names differ
        boxes = _named(boxes, "box", "reg")
    scores = [tensor for tensor in wide if tensor not in boxes]
    if (len(scores), len(boxes), len(narrow)) != (1, 1, extra):
        return None
    # A DETR has outputs of these shapes too, but its boxes end in a Sigmoid.
    if "Sigmoid" in ColumnOrigins(network, boxes[0], 4).ops(0, 4):
        return None
    return (scores[0], boxes[0], *narrow)


def _named(tensors: list[Tensor], *words: str) -> list[Tensor]:
    return [tensor for tensor in tensors if any(word in tensor.name for word in words)]
