"""YOLOv8 and its successors (v9, v10's one-to-many branch, 11, …): decoded boxes, classes without objectness, without NMS.

One output [B, 4 + C, N], or [B, N, 4 + C]: center and size in input pixels, then the class scores after a sigmoid.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vision_infer.core.card import ModelCard
from vision_infer.model.decode import (
    as_float,
    check_labels,
    columns,
    corners,
    find_strides,
    gather_rows,
    top_pairs,
    top_pairs_channels_first,
)
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import HeadOutputs, detections
from vision_infer.model.heads._yolo import STRIDES, USUAL, look_inside, only_output
from vision_infer.model.network import RawNetwork, Tensor
from vision_infer.model.reference import RawOutputs, ReferenceBoxes, cells_of, corners_of, only_array

DEFAULTS = replace(USUAL, iou=0.7)


def _find_layout(network: RawNetwork) -> tuple[Tensor, int, int, bool] | None:
    """Return the output, its numbers of anchors and of columns, and whether the anchors come first; None for other outputs."""
    tensor = only_output(network)
    if tensor is None:
        return None
    _, rows, columns_ = tensor.shape
    if rows is None or columns_ is None:
        return None
    if rows >= 5 and find_strides(network.size, columns_, STRIDES):
        return tensor, columns_, rows, False
    if columns_ >= 5 and find_strides(network.size, rows, STRIDES):
        return tensor, rows, columns_, True
    return None


def recognize(network: RawNetwork) -> str | None:
    """Return why a raw model is a YOLOv8; None if it is not."""
    layout = _find_layout(network)
    if layout is None:
        return None
    tensor, anchors, width, anchors_first = layout
    inside = look_inside(network, tensor, width)
    if inside.boxes == "raw" or inside.objectness or not inside.scores_only:
        return None
    shape = f"{anchors} x (4 + {width - 4})" if anchors_first else f"(4 + {width - 4}) x {anchors}"
    seen = ", decoded boxes, and scores after a Sigmoid without objectness" if inside.boxes else ""
    return f"one output {shape}, an anchor for each cell of its strides{seen}"


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:
    """Add the remaining decoding of YOLOv8; see :class:`vision_infer.model.head.Head`."""
    layout = _find_layout(network)
    if layout is None:
        raise network.refuse("yolov8", "it needs one output [1, 4 + classes, N] with the N cells of its strides")
    tensor, anchors, width, anchors_first = layout
    inside = look_inside(network, tensor, width)
    if inside.boxes == "raw":
        raise network.refuse("yolov8", "its boxes come straight from convolutions and are not decoded")
    if not inside.scores_only:
        raise network.refuse("yolov8", "it has other values than class scores after its boxes")
    check_labels(network, card, width - 4)
    output = as_float(builder, tensor)
    if anchors_first:
        scores = columns(builder, output, 4, width, "scores_all")
        top = top_pairs(builder, scores, anchors, width - 4, candidates)
        rows = gather_rows(builder, columns(builder, output, 0, 4, "xywh_all"), top.anchors, "xywh_top")
    else:
        top, best = top_pairs_channels_first(builder, output, 4, width - 4, anchors, candidates)
        rows = gather_rows(builder, columns(builder, best, 0, 4, "xywh_all"), top.anchors, "xywh_top")
    box = corners(builder, columns(builder, rows, 0, 2, "xy"), columns(builder, rows, 2, 4, "wh"))
    return detections(box, top.scores, top.class_ids)


def reference(raw: RawOutputs) -> ReferenceBoxes:
    """Decode the outputs in NumPy; see :class:`vision_infer.model.head.Head`."""
    output = only_array(raw).astype(np.float64)
    try:  # the anchors are the last axis if it has a cell for each; with very small inputs the classes may outnumber them
        cells_of(output.shape[2], raw.size)
        output = output.transpose(0, 2, 1)
    except ValueError:
        pass
    return ReferenceBoxes(corners_of(output[..., :4]), output[..., 4:])
