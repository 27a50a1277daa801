"""YOLOv5 and similar models (v6, v7; YOLOX with decoded boxes): decoded boxes, objectness and classes, without NMS.

One output [B, N, 5 + C]: center and size in input pixels, objectness, classes; score = objectness·class. N is three anchors
for each cell of the strides, or one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vision_infer.core.card import ModelCard
from vision_infer.model.decode import as_float, check_labels, columns, corners, find_strides, gather_rows, top_pairs
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import HeadOutputs, detections
from vision_infer.model.network import RawNetwork, Tensor
from vision_infer.model.reference import RawOutputs, ReferenceBoxes, corners_of, only_array
from vision_infer.model.yolo import STRIDES, USUAL, look_inside, only_output

DEFAULTS = replace(USUAL, iou=0.45)


def _find_layout(network: RawNetwork) -> tuple[Tensor, int, int, int] | None:
    """Return the output and its numbers of anchors, of columns, and of anchors per cell; None for other outputs."""
    tensor = only_output(network)
    if tensor is None:
        return None
    _, anchors, width = tensor.shape
    if anchors is None or width is None or width < 6:
        return None
    each = next((each for each in (3, 1) if find_strides(network.size, anchors, STRIDES, each)), None)
    return None if each is None else (tensor, anchors, width, each)


def recognize(network: RawNetwork) -> str | None:
    """Return why a raw model is a YOLOv5; None if it is not."""
    layout = _find_layout(network)
    if layout is None:
        return None
    tensor, anchors, width, each = layout
    inside = look_inside(network, tensor, width)
    if inside.boxes == "raw" or not inside.scores_only:
        return None
    if each == 1 and inside.objectness is False and not network.has_op("Exp"):
        return None  # all scores in one piece and one anchor per cell: no objectness
    seen = ", and decoded boxes" if inside.boxes else ""
    return f"one output of {anchors} anchors, {each} for each cell of its strides, with 5 + {width - 5} values each{seen}"


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:
    """Add the remaining decoding of YOLOv5; see :class:`vision_infer.model.head.Head`."""
    layout = _find_layout(network)
    if layout is None:
        raise network.refuse(
            "yolov5", "it needs one output [1, N, 5 + classes] with one or three anchors for each cell of its strides"
        )
    tensor, anchors, width, _ = layout
    if look_inside(network, tensor, width).boxes == "raw":
        raise network.refuse("yolov5", "its boxes come straight from convolutions and are not decoded")
    check_labels(network, card, width - 5)
    output = as_float(builder, tensor)
    objectness, classes = columns(builder, output, 4, 5, "objectness"), columns(builder, output, 5, width, "class_scores")
    scores = builder.add("Mul", objectness, classes, name="scores_all")
    top = top_pairs(builder, scores, anchors, width - 5, candidates)
    rows = gather_rows(builder, columns(builder, output, 0, 4, "xywh_all"), top.anchors, "xywh_top")
    box = corners(builder, columns(builder, rows, 0, 2, "xy"), columns(builder, rows, 2, 4, "wh"))
    return detections(box, top.scores, top.class_ids)


def reference(raw: RawOutputs) -> ReferenceBoxes:
    """Decode the outputs in NumPy; see :class:`vision_infer.model.head.Head`."""
    output = only_array(raw).astype(np.float64)
    return ReferenceBoxes(corners_of(output[..., :4]), output[..., 4:5] * output[..., 5:])
