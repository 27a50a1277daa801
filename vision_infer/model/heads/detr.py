"""DETR and its successors (RT-DETR, D-FINE, DEIM): a fixed number of boxes without NMS, with or without post-processing.

With post-processing the model has a second input ``orig_target_sizes`` (width, height) and gives labels, boxes in pixels of that
size, and scores. The head sets it to the input size, so that boxes are in input pixels as those of other heads. Without it, the
model gives class scores [B, Q, C] and boxes [B, Q, 4] of center and size, as fractions of the input. Then it may also give the
logits of a mask for each query, [B, Q, h, w] (RF-DETR-Seg): these are the prototypes, each with one coefficient that is 1.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from vision_infer.core.card import DetailKind, ModelCard
from vision_infer.core.geometry import Size
from vision_infer.model.column_origins import LINEAR, ColumnOrigins, find_score_kind
from vision_infer.model.decode import (
    as_float,
    as_probabilities,
    check_labels,
    columns,
    corners,
    gather_rows,
    top_of_best,
    top_pairs,
)
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import HeadDefaults, HeadOutputs, detections
from vision_infer.model.network import RawNetwork, ScoreKind, Tensor
from vision_infer.model.reference import RawOutputs, ReferenceBoxes, boxes_and_scores, class_scores, corners_of

_INTEGERS = (TensorProto.INT64, TensorProto.INT32)


def _find_outputs(network: RawNetwork) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return labels, boxes and scores, identified by shape and type; None if one is missing."""
    if len(network.outputs) != 3 or len(network.other_inputs) != 1 or network.other_inputs[0].shape[1:] != (2,):
        return None
    labels = [tensor for tensor in network.outputs if len(tensor.shape) == 2 and tensor.dtype in _INTEGERS]
    boxes = [tensor for tensor in network.outputs if len(tensor.shape) == 3 and tensor.shape[2] == 4]
    scores = [tensor for tensor in network.outputs if len(tensor.shape) == 2 and tensor.dtype not in _INTEGERS]
    return (labels[0], boxes[0], scores[0]) if labels and boxes and scores else None


def _find_queries(network: RawNetwork) -> tuple[Tensor, Tensor] | None:
    """Return class scores and boxes of a model without post-processing; None if one is missing."""
    if len(network.other_inputs) > 1 or any(tensor.shape[1:] != (2,) for tensor in network.other_inputs):
        return None
    threes = [tensor for tensor in network.outputs if len(tensor.shape) == 3 and None not in tensor.shape]
    boxes = [tensor for tensor in threes if tensor.shape[2] == 4]
    if len(boxes) > 1:
        boxes = [tensor for tensor in boxes if "box" in tensor.name]
    if len(boxes) != 1:
        return None
    scores = [tensor for tensor in threes if tensor is not boxes[0] and tensor.shape[1] == boxes[0].shape[1]]
    if len(scores) > 1:  # some models also return their last hidden states
        scores = [tensor for tensor in scores if "logit" in tensor.name or "score" in tensor.name]
    if len(scores) != 1 or len(threes) + (_find_masks(network, boxes[0]) is not None) != len(network.outputs):
        return None
    # Regressions to anchors come straight from a convolution, or from a Relu.
    if ColumnOrigins(network, boxes[0], 4).ops(0, 4) & {*LINEAR, "Relu"}:
        return None
    return scores[0], boxes[0]


def _find_masks(network: RawNetwork, boxes: Tensor) -> Tensor | None:
    """Return the output with a mask for each box; None if there is none."""
    maps = [tensor for tensor in network.outputs if len(tensor.shape) == 4 and None not in tensor.shape]
    return maps[0] if len(maps) == 1 and maps[0].shape[1] == boxes.shape[1] else None


def find_detail(network: RawNetwork) -> DetailKind | None:
    """Return ``masks`` for a model with a mask for each query; None for others."""
    queries = _find_queries(network)
    return None if queries is None or _find_masks(network, queries[1]) is None else "masks"


DEFAULTS = HeadDefaults(
    color="rgb",
    mean=(0.0, 0.0, 0.0),
    std=(255.0, 255.0, 255.0),
    fit="stretch",
    fill=(114, 114, 114),
    confidence=0.4,
    iou=None,
    input_size=Size(640, 640),
    find_detail=find_detail,
)


def _count_of_top_k(network: RawNetwork, scores: Tensor) -> int | None:
    """Return the number of boxes, which shape inference may lose: the scores come from a TopK with a constant count."""
    node = network.producer(scores, ("Identity", "Cast"))
    count = network.constant(node.input[1]) if node is not None and node.op_type == "TopK" else None
    return int(count.reshape(-1)[0]) if count is not None else None


def recognize(network: RawNetwork) -> str | None:
    """Return why a raw model is of DETR's kind; None if it is not."""
    if _find_outputs(network) is not None:
        return f"labels, boxes and scores as outputs, and the image size as input '{network.other_inputs[0].name}'"
    queries = _find_queries(network)
    if queries is None:
        return None
    scores, boxes = queries
    # Other models have such outputs with boxes in pixels. Fractions come from a sigmoid, or have the name in transformers.
    if "Sigmoid" not in ColumnOrigins(network, boxes, 4).ops(0, 4) and "pred_box" not in boxes.name:
        return None
    masks = _find_masks(network, boxes)
    each = ("" if masks is None else f"and '{masks.name}' of a mask ") + f"for each of {scores.shape[1]} queries"
    return f"outputs '{scores.name}' of {scores.shape[2]} class scores and '{boxes.name}' of a box {each}"


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:
    """Add the remaining decoding; see :class:`vision_infer.model.head.Head`."""
    found, queries = _find_outputs(network), _find_queries(network)
    if found is None and queries is None:
        why = "it needs labels [N, K], boxes [N, K, 4], scores [N, K] and an input of sizes [N, 2]"
        raise network.refuse("detr", f"{why}; or class scores [N, Q, C] and boxes [N, Q, 4]")
    for sizes in network.other_inputs:
        size = np.array([[network.size.width, network.size.height]]).astype(helper.tensor_dtype_to_np_dtype(sizes.dtype))
        builder.rename(builder.constant("input_size", size), sizes.inside)
    if found is not None:
        return _use_boxes(builder, network, found, candidates)
    assert queries is not None
    return _choose(builder, network, card, queries, candidates)


def _choose(
    builder: GraphBuilder, network: RawNetwork, card: ModelCard, outputs: tuple[Tensor, Tensor], candidates: int
) -> HeadOutputs:
    """Select the best pairs of query and class, or each query's best class if classes are exclusive."""
    logits, boxes = outputs
    queries, width = logits.shape[1] or 0, logits.shape[2] or 0
    kind, exclusive, classes, note = _find_kind(network, logits, width, None if card.labels is None else len(card.labels))
    check_labels(network, card, classes)
    scores = as_probabilities(builder, as_float(builder, logits), kind)
    if classes < width:
        scores = columns(builder, scores, 0, classes, "scores_of_things")
    if exclusive:
        top = top_of_best(builder, scores, queries, candidates)
    else:
        top = top_pairs(builder, scores, queries, classes, candidates)
    rows = gather_rows(builder, as_float(builder, boxes), top.anchors, "boxes_top")
    sides = builder.constant("input_sides", np.array([network.size.width, network.size.height] * 2, np.float32))
    rows = builder.add("Mul", rows, sides, name="boxes_pixels")
    box = corners(builder, columns(builder, rows, 0, 2, "xy"), columns(builder, rows, 2, 4, "wh"))
    details: dict[str, str] = {}
    masks = _find_masks(network, boxes)
    if masks is not None:
        one = builder.constant("one_of_queries", np.eye(queries, dtype=np.float32))
        details["coefficients"] = builder.add("Gather", one, top.anchors, name="query_of_mask", axis=0)
        details["prototypes"] = builder.add("Identity", as_float(builder, masks), name="masks_of_queries")
    return detections(box, top.scores, top.class_ids, note, **details)


def _find_kind(network: RawNetwork, logits: Tensor, width: int, labels: int | None) -> tuple[ScoreKind, bool, int, str]:
    """Return the kind of the scores, whether classes are exclusive, their number, and a note.

    If classes are exclusive, the last column is "no object". For logits, the number of labels shows this.
    """
    logits_are: ScoreKind | None = None
    if labels in (width, width - 1):
        logits_are = "sigmoid" if labels == width else "softmax"
    kind, note = find_score_kind(network, logits, width, logits_are)
    inside = ColumnOrigins(network, logits, width).ops(0, width)
    exclusive = kind == "softmax" or (kind == "probabilities" and (inside == {"Softmax"} or labels == width - 1))
    if network.scores is None and kind != "probabilities":
        note += f" ({labels} labels for {width} columns)"
    if exclusive:
        note += "; the last column is 'no object'"
    return kind, exclusive, width - 1 if exclusive else width, note


def _use_boxes(builder: GraphBuilder, network: RawNetwork, found: tuple[Tensor, Tensor, Tensor], candidates: int) -> HeadOutputs:
    """Use the boxes that the model has selected, or the best of them."""
    labels, boxes, scores = found
    queries = scores.shape[1] or _count_of_top_k(network, scores)
    if queries is None:
        raise network.refuse("detr", "the number of its boxes is not static")
    # Explicit shapes, because shape inference may not see that they are static.
    count = min(candidates, queries)
    flat, rows = builder.ints("flat_shape", 0, queries), builder.ints("box_shape", 0, queries, 4)
    score = builder.add("Reshape", as_float(builder, scores), flat, name="scores_all")
    box = builder.add("Reshape", as_float(builder, boxes), rows, name="boxes_all")
    label = builder.cast(labels.inside, TensorProto.INT32, "labels_int32")
    label = builder.add("Reshape", label, flat, name="labels_all")
    if count < queries:
        top_count = builder.ints("top_count", count)
        score, top = builder.add_many("TopK", score, top_count, name="scores_top", outputs=2, axis=1)
        box = gather_rows(builder, box, top, "boxes_top")
        label = builder.add("GatherElements", label, top, name="labels_top", axis=1)
    return detections(box, score, label)


def reference(raw: RawOutputs) -> ReferenceBoxes:
    """Decode the outputs in NumPy; see :class:`vision_infer.model.head.Head`."""
    labels = [array for array in raw.outputs.values() if array.ndim == 2 and np.issubdtype(array.dtype, np.integer)]
    if labels:
        boxes = next(array for array in raw.outputs.values() if array.ndim == 3)
        scores = next(array for array in raw.outputs.values() if array.ndim == 2 and not np.issubdtype(array.dtype, np.integer))
        return ReferenceBoxes(boxes.astype(np.float64), scores.astype(np.float64), labels[0])
    masks = next((array for array in raw.outputs.values() if array.ndim == 4), None)
    boxes, logits = boxes_and_scores(replace(raw, outputs={name: one for name, one in raw.outputs.items() if one.ndim != 4}))
    details: dict[str, NDArray[np.float64]] = {}
    if masks is not None:
        details["coefficients"] = np.broadcast_to(np.eye(masks.shape[1]), (*boxes.shape[:2], masks.shape[1]))
    width = logits.shape[2]
    scores = class_scores(logits, raw, "softmax" if raw.labels == width - 1 else "sigmoid")
    pixels = corners_of(boxes.astype(np.float64) * ([raw.size.width, raw.size.height] * 2))
    has_no_object = raw.scores == "softmax" or raw.labels == width - 1
    if has_no_object or (raw.labels != width and np.allclose(scores.sum(axis=-1), 1, atol=1e-3)):
        objects = scores[..., :-1]
        return ReferenceBoxes(pixels, objects.max(axis=-1), objects.argmax(axis=-1), details=details, prototypes=masks)
    return ReferenceBoxes(pixels, scores, details=details, prototypes=masks)
