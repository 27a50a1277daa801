"""YOLOv8-pose and its successors: decoded boxes, class scores, and keypoints with a score each, without NMS.

One output [B, 4 + C + 3P, N], or [B, N, 4 + C + 3P]: as YOLOv8, then x and y in input pixels and a score after a sigmoid for each
of P keypoints. P is that of the card, which has COCO's 17 keypoints of a person by default.
"""

from __future__ import annotations

from dataclasses import replace

from vision_infer.core.card import ModelCard
from vision_infer.model.column_origins import LINEAR
from vision_infer.model.decode import check_labels, columns, corners
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import HeadOutputs, detections
from vision_infer.model.network import RawNetwork
from vision_infer.model.reference import RawOutputs, ReferenceBoxes, anchors_first, corners_of, only_array
from vision_infer.model.yolo import (
    COCO_17,
    USUAL,
    YoloLayout,
    as_keypoints,
    best_rows,
    check_keypoints,
    columns_after_scores,
    find_layout,
    only_output,
)

DEFAULTS = replace(USUAL, iou=0.7, detail="keypoints", keypoints=COCO_17)
_MESSAGE = "it needs one output [1, 4 + classes + 3 x keypoints, N] with the N cells of its strides"


def _values_of_keypoints(network: RawNetwork, layout: YoloLayout) -> int | None:
    """Return the number of values after the class scores that can be keypoints; None if the graph does not show it."""
    after = columns_after_scores(network, layout)
    if after is None:
        return None
    count = sum(part.width for part in after)
    return 0 if count == 1 or {part.op for part in after} <= LINEAR else count


def recognize(network: RawNetwork) -> str | None:
    """Return why a raw model is a YOLOv8-pose; None if it is not."""
    layout = find_layout(network, only_output(network))
    if layout is None:
        return None
    count = _values_of_keypoints(network, layout)
    if count is None and network.metadata.get("task") == "pose":
        return f"one output of {layout.width} values for {layout.anchors} anchors, and the task in the file is 'pose'"
    if not count:
        return None
    classes = layout.width - 4 - count
    return f"one output {layout.shape(4, classes, count)}, with {count} values of keypoints after the {classes} class scores"


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:
    """Add the remaining decoding of YOLOv8-pose; see :class:`vision_infer.model.head.Head`."""
    layout = find_layout(network, only_output(network))
    if layout is None:
        raise network.refuse("yolov8_pose", _MESSAGE)
    points = 0 if card.keypoints is None else len(card.keypoints.names)
    count, classes = _values_of_keypoints(network, layout), layout.width - 4 - 3 * points
    if count is not None:
        check_keypoints(network, card, count, "class scores")
    elif classes < 1:
        check_keypoints(network, card, layout.width - 5, "box and first class score")
    check_labels(network, card, classes)
    top, (rows, values) = best_rows(
        builder, layout, classes, candidates, [(0, 4, "xywh"), (4 + classes, layout.width, "keypoints")]
    )
    box = corners(builder, columns(builder, rows, 0, 2, "xy"), columns(builder, rows, 2, 4, "wh"))
    keypoints = as_keypoints(builder, card, values)
    note = f"{points} keypoints: {', '.join(card.keypoints.names if card.keypoints else ())}"
    return detections(box, top.scores, top.class_ids, note, keypoints=keypoints)


def reference(raw: RawOutputs) -> ReferenceBoxes:
    """Decode the outputs in NumPy; see :class:`vision_infer.model.head.Head`."""
    output = anchors_first(only_array(raw), raw)
    end = output.shape[2] - 3 * raw.keypoints
    keypoints = output[..., end:].reshape(*output.shape[:2], raw.keypoints, 3)
    return ReferenceBoxes(corners_of(output[..., :4]), output[..., 4:end], details={"keypoints": keypoints})
