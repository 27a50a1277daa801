"""YOLOv8 and its successors (v9, v10's one-to-many branch, 11, …): decoded boxes, classes without objectness, without NMS.

One output [B, 4 + C, N], or [B, N, 4 + C]: center and size in input pixels, then the class scores after a sigmoid.
"""

from __future__ import annotations

from dataclasses import replace

from vision_infer.core.card import ModelCard
from vision_infer.model.decode import check_labels, columns, corners
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import HeadOutputs, detections
from vision_infer.model.network import RawNetwork
from vision_infer.model.reference import RawOutputs, ReferenceBoxes, anchors_first, corners_of, only_array
from vision_infer.model.yolo import USUAL, best_rows, columns_after_scores, find_layout, look_inside, only_output

DEFAULTS = replace(USUAL, iou=0.7)
_WITH_DETAILS = {"pose": "yolov8_pose", "segment": "yolov8_seg", "obb": "yolov8_obb"}
"""The head for each task in an exporter's metadata whose boxes have details."""


def recognize(network: RawNetwork) -> str | None:
    """Return why a raw model is a YOLOv8; None if it is not."""
    layout = find_layout(network, only_output(network))
    if layout is None or network.metadata.get("task") in _WITH_DETAILS:
        return None
    inside = look_inside(network, layout.tensor, layout.width)
    if inside.boxes == "raw" or inside.objectness or not inside.scores_only:
        return None
    seen = ", decoded boxes, and scores after a Sigmoid without objectness" if inside.boxes else ""
    return f"one output {layout.shape(4, layout.width - 4)}, an anchor for each cell of its strides{seen}"


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:
    """Add the remaining decoding of YOLOv8; see :class:`vision_infer.model.head.Head`."""
    layout = find_layout(network, only_output(network))
    if layout is None:
        raise network.refuse("yolov8", "it needs one output [1, 4 + classes, N] with the N cells of its strides")
    after = columns_after_scores(network, layout)
    if after:
        count = sum(part.width for part in after)
        raise network.refuse(
            "yolov8", f"{count} values follow its class scores, which need head {' or '.join(_WITH_DETAILS.values())}"
        )
    inside = look_inside(network, layout.tensor, layout.width)
    if inside.boxes == "raw":
        raise network.refuse("yolov8", "its boxes come straight from convolutions and are not decoded")
    if not inside.scores_only:
        raise network.refuse("yolov8", "it has other values than class scores after its boxes")
    classes = layout.width - 4
    check_labels(network, card, classes)
    top, (rows,) = best_rows(builder, layout, classes, candidates, [(0, 4, "xywh")])
    box = corners(builder, columns(builder, rows, 0, 2, "xy"), columns(builder, rows, 2, 4, "wh"))
    return detections(box, top.scores, top.class_ids)


def reference(raw: RawOutputs) -> ReferenceBoxes:
    """Decode the outputs in NumPy; see :class:`vision_infer.model.head.Head`."""
    output = anchors_first(only_array(raw), raw)
    return ReferenceBoxes(corners_of(output[..., :4]), output[..., 4:])
