"""YOLOv8-obb and its successors: decoded rotated boxes and class scores, without NMS.

One output [B, 4 + C + 1, N], or [B, N, 4 + C + 1]: center and size in input pixels, the class scores after a sigmoid, and the
angle in radians, clockwise in the image, from the x axis to the side called width.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vision_infer.core.card import ModelCard
from vision_infer.model.column_origins import LINEAR
from vision_infer.model.decode import check_labels
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import HeadOutputs, detections
from vision_infer.model.network import RawNetwork
from vision_infer.model.reference import RawOutputs, ReferenceBoxes, anchors_first, only_array
from vision_infer.model.yolo import (
    USUAL,
    YoloLayout,
    as_rotated_boxes,
    best_rows,
    columns_after_scores,
    enclosing_boxes,
    find_layout,
    only_output,
)

DEFAULTS = replace(USUAL, iou=0.7, detail="rotated_boxes")


def _has_angle(network: RawNetwork, layout: YoloLayout) -> bool:
    """Return whether one computed value follows the class scores; if the graph does not show it, the task in the file does."""
    after = columns_after_scores(network, layout)
    if after is None:
        return network.metadata.get("task") == "obb"
    return sum(part.width for part in after) == 1 and after[0].op not in LINEAR


def recognize(network: RawNetwork) -> str | None:
    """Return why a raw model is a YOLOv8-obb; None if it is not."""
    layout = find_layout(network, only_output(network))
    if layout is None or layout.width < 6 or not _has_angle(network, layout):
        return None
    return f"one output {layout.shape(4, layout.width - 5, 1)}, with an angle after the {layout.width - 5} class scores"


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:
    """Add the remaining decoding of YOLOv8-obb; see :class:`vision_infer.model.head.Head`."""
    layout = find_layout(network, only_output(network))
    if layout is None or layout.width < 6 or not (columns_after_scores(network, layout) is None or _has_angle(network, layout)):
        raise network.refuse("yolov8_obb", "it needs one output [1, 4 + classes + 1, N] with an angle after the class scores")
    classes = layout.width - 5
    check_labels(network, card, classes)
    top, (rows, angle) = best_rows(builder, layout, classes, candidates, [(0, 4, "xywh"), (4 + classes, 5 + classes, "angle")])
    box, rotated = as_rotated_boxes(builder, network, card, rows, angle)
    return detections(box, top.scores, top.class_ids, rotated_boxes=rotated)


def reference(raw: RawOutputs) -> ReferenceBoxes:
    """Decode the outputs in NumPy; see :class:`vision_infer.model.head.Head`."""
    output = anchors_first(only_array(raw), raw)
    rotated = np.concatenate([output[..., :4], output[..., -1:]], axis=-1)
    return ReferenceBoxes(enclosing_boxes(rotated), output[..., 4:-1], details={"rotated_boxes": rotated})
