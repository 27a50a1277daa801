"""Classifiers: one output [B, C] of logits or probabilities, converted to probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import Size
from vision_infer.model.column_origins import ColumnOrigins, find_score_kind
from vision_infer.model.decode import as_float, as_probabilities, check_labels
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import IMAGENET_MEAN, IMAGENET_STD, HeadDefaults, HeadOutputs
from vision_infer.model.network import RawNetwork
from vision_infer.model.reference import RawOutputs, class_scores, only_array
from vision_infer.model.shared_outputs import flat, named, only_vector

DEFAULTS = HeadDefaults(
    color="rgb",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    fit="stretch",
    fill=(124, 116, 104),
    confidence=0.0,
    iou=None,
    input_size=Size(224, 224),
    task="classify",
)
EMBEDDING_WORDS = ("embed", "feature", "descriptor")
CLASS_WORDS = ("logit", "prob", "class", "score", "softmax", "cls")


def recognize(network: RawNetwork) -> str | None:
    """Return why a raw model is a classifier; None if it is not."""
    found = only_vector(network)
    if found is None:
        return None
    tensor, width = found
    ops = ColumnOrigins(network, tensor, width).ops(0, width)
    if ops <= {"Softmax", "LogSoftmax", "Sigmoid"}:
        return f"one output of {width} values, which end in {next(iter(ops))}"
    if named(tensor, *EMBEDDING_WORDS) or "Div" in ops or "LpNormalization" in ops:
        return None
    word = named(tensor, *CLASS_WORDS)
    return f"one output of {width} class scores" + (f", whose name contains '{word}'" if word else "")


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:  # noqa: ARG001
    """Add the conversion to probabilities; see :class:`vision_infer.model.head.Head`. ``candidates`` is not used."""
    found = only_vector(network)
    if found is None:
        raise network.refuse("classify", "it needs one output [1, classes]")
    tensor, width = found
    check_labels(network, card, width)
    kind, note = find_score_kind(network, tensor, width, "softmax")
    scores = as_probabilities(builder, flat(builder, tensor, as_float(builder, tensor), width), kind)
    return HeadOutputs({"scores": builder.add("Identity", scores, name="probabilities")}, (note,))


def reference(raw: RawOutputs) -> NDArray[np.float64]:
    """Return the probabilities, [P, C]; see :class:`vision_infer.model.head.Head`."""
    output = only_array(raw)
    return class_scores(output.reshape(output.shape[:2]), raw, "softmax")
