"""What classifiers and embedders share: one output with a vector for each picture."""

from __future__ import annotations

from vision_infer.model.graph import GraphBuilder
from vision_infer.model.network import RawNetwork, Tensor


def only_vector(network: RawNetwork) -> tuple[Tensor, int] | None:
    """The output [1, D], or [1, D, 1, 1], and D; None for other networks."""
    if network.other_inputs or len(network.outputs) != 1:
        return None
    tensor = network.outputs[0]
    if len(tensor.shape) < 2 or tensor.shape[1] is None or any(side != 1 for side in tensor.shape[2:]):
        return None
    return tensor, tensor.shape[1]


def flat(builder: GraphBuilder, tensor: Tensor, values: str, width: int) -> str:
    """The vector as [B, D]."""
    return (
        values
        if len(tensor.shape) == 2
        else builder.add("Reshape", values, builder.ints("vector_shape", 0, width), name="vector")
    )


def named(tensor: Tensor, *words: str) -> str:
    """The first of some words that an output's name holds; empty if it holds none."""
    return next((word for word in words if word in tensor.name.lower()), "")
