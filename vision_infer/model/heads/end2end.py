"""Models that select their boxes themselves (YOLOv10, YOLO26, exported NMS): one output [B, K, 6 + D] of xyxy, score, class.

With D = 3P values of P keypoints (x, y, score), with D = M coefficients of masks and their prototypes [B, M, h, w] as a second
output, or with an angle (D = 1). Then the first four values are center, width and height of a rotated box.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from vision_infer.core.card import DetailKind, ModelCard
from vision_infer.model.column_origins import ColumnOrigins
from vision_infer.model.decode import as_float, columns, gather_rows
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import HeadOutputs, detections
from vision_infer.model.network import RawNetwork, Tensor
from vision_infer.model.reference import RawOutputs, ReferenceBoxes
from vision_infer.model.yolo import (
    COCO_17,
    USUAL,
    as_keypoints,
    as_rotated_boxes,
    check_keypoints,
    enclosing_boxes,
    find_layout,
)

_CHOICE = ("TopK", "NonMaxSuppression")
_BEFORE = 6
"""The number of columns before those of details: the box, score and class."""
_WORDS: dict[DetailKind, str] = {"keypoints": "keypoints", "masks": "coefficients of masks", "rotated_boxes": "an angle"}
_TASKS: dict[str, DetailKind] = {"pose": "keypoints", "obb": "rotated_boxes"}
"""The tasks in the metadata of a file, and what they mean."""


def _find_outputs(network: RawNetwork) -> tuple[Tensor, Tensor | None] | None:
    """Return the table of boxes, and the prototypes of masks that fit it; None for other outputs."""
    outputs = [tensor for tensor in network.outputs if len(tensor.shape) != 5]
    tables = [tensor for tensor in outputs if len(tensor.shape) == 3 and (tensor.shape[2] or 0) >= _BEFORE]
    maps = [tensor for tensor in outputs if len(tensor.shape) == 4 and None not in tensor.shape]
    if network.other_inputs or len(tables) != 1 or tables[0].shape[1] is None or len(outputs) != 1 + len(maps) or len(maps) > 1:
        return None
    if maps and maps[0].shape[1] != (tables[0].shape[2] or 0) - _BEFORE:
        return None
    if tables[0].shape[2] != _BEFORE and find_layout(network, tables[0]) is not None:
        return None
    return tables[0], maps[0] if maps else None


def find_detail(network: RawNetwork) -> DetailKind | None:
    """Return what follows box, score and class, by the number of values; None for nothing, or an unknown number."""
    found = _find_outputs(network)
    if found is None:
        return None
    tensor, prototypes = found
    count = (tensor.shape[2] or 0) - _BEFORE
    if prototypes is not None:
        return "masks"
    if count == 1:
        return "rotated_boxes"
    return "keypoints" if count and count % 3 == 0 else None


DEFAULTS = replace(USUAL, keypoints=COCO_17, find_detail=find_detail)


def recognize(network: RawNetwork) -> str | None:
    """Return why a raw model is of this kind; None if it is not."""
    found = _find_outputs(network)
    chosen = [op for op in _CHOICE if network.has_op(op)]
    if found is None or not chosen:
        return None
    tensor, prototypes = found
    count, width = tensor.shape[1], tensor.shape[2] or 0
    inside = f"{count} boxes, selected inside ({', '.join(chosen)}), with corners, score and class each"
    if width == _BEFORE:
        return f"one output of {inside}"
    detail = find_detail(network)
    # The scores of many classes could follow a box as well: the graph, the file's task, or prototypes must show the details.
    shown = prototypes is not None or _TASKS.get(network.metadata.get("task", "")) == detail
    shown = shown or ColumnOrigins(network, tensor, width).parted_at(_BEFORE)
    if detail is None or not shown:
        return None
    more = f", and their prototypes {prototypes}" if prototypes is not None else ""
    return f"an output of {inside}, and {width - _BEFORE} values after them ({_WORDS[detail]}){more}"


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:
    """Split the output; see :class:`vision_infer.model.head.Head`."""
    found = _find_outputs(network)
    if found is None or (found[0].shape[2] != _BEFORE and card.detail is None):
        why = "it needs one output [1, K, 6] of corners, score and class, or also values of keypoints, masks or an angle"
        raise network.refuse("end2end", why)
    tensor, prototypes = found
    boxes, width = tensor.shape[1] or 0, tensor.shape[2] or 0
    count = min(candidates, boxes)
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
    box = columns(builder, rows, 0, 4, "box")
    details: dict[str, str] = {}
    values = columns(builder, rows, _BEFORE, width, "details") if width > _BEFORE else ""
    if card.detail == "keypoints":
        check_keypoints(network, card, width - _BEFORE, "box, score and class")
        details["keypoints"] = as_keypoints(builder, card, values)
    elif card.detail == "rotated_boxes":
        box, details["rotated_boxes"] = as_rotated_boxes(builder, network, card, box, values)
    elif prototypes is not None:
        details["coefficients"] = values
        details["prototypes"] = builder.add("Identity", as_float(builder, prototypes), name="prototypes")
    return detections(box, score, builder.cast(label, TensorProto.INT32, "classes_int32"), **details)


def reference(raw: RawOutputs) -> ReferenceBoxes:
    """Decode the outputs in NumPy; see :class:`vision_infer.model.head.Head`."""
    (output,) = (array.astype(np.float64) for array in raw.outputs.values() if array.ndim == 3)
    prototypes = next((array for array in raw.outputs.values() if array.ndim == 4), None)
    boxes, values = output[..., :4], output[..., _BEFORE:]
    details: dict[str, NDArray[np.float64]] = {}
    if prototypes is not None:
        details["coefficients"] = values
    elif values.shape[2] == 1:
        details["rotated_boxes"] = np.concatenate([boxes, values], axis=-1)
        boxes = enclosing_boxes(details["rotated_boxes"])
    elif values.shape[2]:
        details["keypoints"] = values.reshape(*values.shape[:2], -1, 3)
    kinds = output[..., 5].astype(np.int64)
    return ReferenceBoxes(boxes, output[..., 4], kinds, details=details, prototypes=prototypes)
