"""Models that select their boxes themselves (YOLOv10, YOLO26, exported NMS): one output [B, K, 6] of xyxy, score, class."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from vision_infer.core.card import ModelCard
from vision_infer.model.decode import as_float, columns, gather_rows
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import HeadOutputs, detections
from vision_infer.model.heads._yolo import USUAL, only_output
from vision_infer.model.network import RawNetwork
from vision_infer.model.reference import RawOutputs, ReferenceBoxes, only_array

DEFAULTS = USUAL
_CHOICE = ("TopK", "NonMaxSuppression")


def recognize(network: RawNetwork) -> str | None:
    """Return why a raw model is of this kind; None if it is not."""
    tensor = only_output(network)
    chosen = [op for op in _CHOICE if network.has_op(op)]
    if tensor is None or tensor.shape[2] != 6 or tensor.shape[1] is None or not chosen:
        return None
    return f"one output of {tensor.shape[1]} boxes, selected inside ({', '.join(chosen)}), with corners, score and class each"


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:  # noqa: ARG001
    """Split the output; see :class:`vision_infer.model.head.Head`. ``card`` is not used."""
    tensor = only_output(network)
    if tensor is None or tensor.shape[2] != 6 or tensor.shape[1] is None:
        raise network.refuse("end2end", "it needs one output [1, K, 6] of corners, score and class")
    boxes, count = tensor.shape[1], min(candidates, tensor.shape[1])
    rows = as_float(builder, tensor)
    if count < boxes:
        score = builder.add(
            "Reshape", columns(builder, rows, 4, 5, "score_column"), builder.ints("flat", 0, boxes), name="scores_all"
        )
        _, top = builder.add_many("TopK", score, builder.ints("top_count", count), name="scores_top", outputs=2, axis=1)
        rows = gather_rows(builder, rows, top, "rows_top")
    flat = builder.ints("flat_shape", 0, count)
    score = builder.add("Reshape", columns(builder, rows, 4, 5, "score"), flat, name="scores")
    label = builder.add("Reshape", columns(builder, rows, 5, 6, "class"), flat, name="classes")
    return detections(columns(builder, rows, 0, 4, "box"), score, builder.cast(label, TensorProto.INT32, "classes_int32"))


def reference(raw: RawOutputs) -> ReferenceBoxes:
    """Decode the outputs in NumPy; see :class:`vision_infer.model.head.Head`."""
    output = only_array(raw).astype(np.float64)
    return ReferenceBoxes(output[..., :4], output[..., 4], output[..., 5].astype(np.int64))
