"""RTMO: persons and their keypoints in one stage, selected inside the model.

Two outputs: boxes [B, N, 5] of corners and score, and keypoints [B, N, P, 3] of x, y and score, in pixels of the input. There is
one class. N may be dynamic, as NMS inside the model makes it; then the graph fills the missing boxes with scores of 0.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import Size
from vision_infer.model.decode import as_float, check_labels, columns, gather_rows
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import HeadDefaults, HeadOutputs, detections
from vision_infer.model.network import RawNetwork, Tensor
from vision_infer.model.reference import RawOutputs, ReferenceBoxes
from vision_infer.model.yolo import COCO_17

DEFAULTS = HeadDefaults(
    color="bgr",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    fit="top_left",
    fill=(114, 114, 114),
    confidence=0.3,
    iou=None,
    input_size=Size(640, 640),
    detail="keypoints",
    keypoints=COCO_17,
)
_BOX = 5


def _find_outputs(network: RawNetwork) -> tuple[Tensor, Tensor, int] | None:
    """Return boxes, keypoints, and the number of keypoints; None for other models."""
    boxes = [tensor for tensor in network.outputs if len(tensor.shape) == 3 and tensor.shape[2] == _BOX]
    points = [tensor for tensor in network.outputs if len(tensor.shape) == 4 and tensor.shape[3] == 3 and tensor.shape[2]]
    if network.other_inputs or len(network.outputs) != 2 or not boxes or not points or boxes[0].shape[1] != points[0].shape[1]:
        return None
    return boxes[0], points[0], points[0].shape[2] or 0


def recognize(network: RawNetwork) -> str | None:
    """Return why a raw model is of this kind; None if it is not."""
    found = _find_outputs(network)
    if found is None:
        return None
    boxes, keypoints, points = found
    return f"outputs {boxes} of corners and score, and {keypoints} of {points} keypoints"


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:
    """Split the outputs; see :class:`vision_infer.model.head.Head`."""
    found = _find_outputs(network)
    if found is None:
        raise network.refuse("rtmo", "it needs boxes [1, N, 5] of corners and score, and keypoints [1, N, P, 3]")
    boxes, keypoints, points = found
    names = 0 if card.keypoints is None else len(card.keypoints.names)
    if names != points:
        raise network.refuse("rtmo", f"it has {points} keypoints, but the card has {names} (see --keypoints)")
    check_labels(network, card, 1)
    count = min(candidates, boxes.shape[1] or candidates)
    values = builder.add("Reshape", as_float(builder, keypoints), builder.ints("values_shape", 0, -1, 3 * points), name="values")
    rows = builder.add("Concat", as_float(builder, boxes), values, name="rows", axis=2)
    if boxes.shape[1] is None:
        rows = builder.add("Pad", rows, builder.ints("missing", 0, 0, 0, 0, count, 0), name="rows_filled")
    column = columns(builder, rows, _BOX - 1, _BOX, "score_column")
    flat = builder.add("Reshape", column, builder.ints("flat", 0, -1), name="scores_all")
    score, top = builder.add_many("TopK", flat, builder.ints("count", count), name="scores_top", outputs=2, axis=1)
    width = _BOX + 3 * points
    # The shapes are explicit, because shape inference does not see that they are static if N is dynamic.
    score = builder.add("Reshape", score, builder.ints("score_shape", 0, count), name="scores_static")
    rows = gather_rows(builder, rows, top, "rows_top")
    rows = builder.add("Reshape", rows, builder.ints("rows_shape", 0, count, width), name="rows_static")
    zero = builder.add("Mul", score, builder.constant("zero", np.array(0, np.float32)), name="class_zero")
    shape = builder.ints("keypoints_shape", 0, count, points, 3)
    values = columns(builder, rows, _BOX, width, "keypoint_values")
    return detections(
        columns(builder, rows, 0, 4, "box"),
        score,
        builder.cast(zero, TensorProto.INT32, "class_int32"),
        keypoints=builder.add("Reshape", values, shape, name="keypoints_xys"),
    )


def reference(raw: RawOutputs) -> ReferenceBoxes:
    """Decode the outputs in NumPy; see :class:`vision_infer.model.head.Head`."""
    boxes = next(array.astype(np.float64) for array in raw.outputs.values() if array.ndim == 3)
    points = next(array.astype(np.float64) for array in raw.outputs.values() if array.ndim == 4)
    # One more of zeros, as the graph adds them where N is dynamic.
    boxes, points = (np.concatenate([array, np.zeros_like(array[:, :1])], axis=1) for array in (boxes, points))
    classes = np.zeros(boxes.shape[:2], np.int64)
    return ReferenceBoxes(boxes[..., :4], boxes[..., 4], classes, details={"keypoints": points})
