"""What classifiers and embedders share: one output with a vector for each image."""

from __future__ import annotations

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
