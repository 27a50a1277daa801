"""Embedders: one output [B, D], scaled to length 1, so that the product of two vectors is the cosine between them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.card import ModelCard
from vision_infer.model.column_origins import ColumnOrigins
from vision_infer.model.decode import as_float
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import HeadOutputs
from vision_infer.model.heads import classify
from vision_infer.model.heads.classify import CLASS_WORDS, EMBEDDING_WORDS
from vision_infer.model.network import RawNetwork
from vision_infer.model.reference import RawOutputs, only_array
from vision_infer.model.shared_outputs import flat, named, only_vector

DEFAULTS = replace(classify.DEFAULTS, task="embed")
SMALLEST_LENGTH = 1e-12
"""The minimum divisor; a shorter vector keeps its direction and stays shorter than 1."""


def recognize(network: RawNetwork) -> str | None:
    """Return why a raw model is an embedder; None if it is not."""
    found = only_vector(network)
    if found is None:
        return None
    tensor, width = found
    ops = ColumnOrigins(network, tensor, width).ops(0, width)
    if ops <= {"Softmax", "LogSoftmax", "Sigmoid"} or named(tensor, *CLASS_WORDS):
        return None
    if "Div" in ops or "LpNormalization" in ops:
        return f"one output of {width} values, which end in a division by their length ({', '.join(sorted(ops))})"
    word = named(tensor, *EMBEDDING_WORDS)
    return f"one output of {width} features" + (f", whose name contains '{word}'" if word else "")


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:  # noqa: ARG001
    """Add the scaling; see :class:`vision_infer.model.head.Head`. ``card`` and ``candidates`` are not used."""
    found = only_vector(network)
    if found is None:
        raise network.refuse("embed", "it needs one output [1, D]")
    tensor, width = found
    values = flat(builder, tensor, as_float(builder, tensor), width)
    # Scaled before squaring, so that the sum cannot overflow.
    most = builder.reduce_max(builder.add("Abs", values, name="sizes"), 1, "largest")
    most = builder.add("Unsqueeze", most, builder.ints("largest_axis", 1), name="largest_column")
    least = builder.constant("smallest", np.array(SMALLEST_LENGTH, np.float32))
    scaled = builder.add("Div", values, builder.add("Max", most, least, name="largest_safe"), name="scaled")
    squares = builder.add("Mul", scaled, scaled, name="squares")
    total = builder.add("ReduceSum", squares, builder.ints("squares_axis", 1), name="squares_sum", keepdims=1)
    length = builder.add("Max", builder.add("Sqrt", total, name="length"), least, name="length_safe")
    return HeadOutputs({"embedding": builder.add("Div", scaled, length, name="unit")})


def reference(raw: RawOutputs) -> NDArray[np.float64]:
    """Return the vectors of length 1, [P, D]; see :class:`vision_infer.model.head.Head`."""
    output = only_array(raw).astype(np.float64)
    output = output.reshape(output.shape[:2])
    return np.asarray(output / np.maximum(np.linalg.norm(output, axis=1, keepdims=True), SMALLEST_LENGTH))
