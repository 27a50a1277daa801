"""YOLOX: one output [B, N, 5 + C] of center, size, objectness and classes for each cell of the strides 8, 16, 32 (and 64).

xy = (xy + cell)·stride, wh = exp(wh)·stride, score = objectness·class.
"""

from __future__ import annotations

import numpy as np

from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import Size
from vision_infer.model.decode import as_float, check_labels, columns, corners, gather_rows, grid, grid_counts, top_pairs
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import HeadDefaults, HeadOutputs, detections
from vision_infer.model.network import RawNetwork
from vision_infer.model.reference import RawOutputs, ReferenceBoxes, cells_of, corners_of, only_array
from vision_infer.model.yolo import look_inside

DEFAULTS = HeadDefaults(
    color="bgr",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    fit="top_left",
    fill=(114, 114, 114),
    confidence=0.35,
    iou=0.45,
    input_size=Size(640, 640),
)
_STRIDES = ((8, 16, 32), (8, 16, 32, 64))


def _find_layout(network: RawNetwork) -> tuple[tuple[int, ...], int, int] | None:
    """Return the strides, the number of anchors and the number of classes; None for other outputs."""
    if network.other_inputs or len(network.outputs) != 1 or len(network.outputs[0].shape) != 3:
        return None
    _, anchors, width = network.outputs[0].shape
    if anchors is None or width is None or width < 6:
        return None
    for strides in _STRIDES:
        if sum(grid_counts(network.size, strides)) == anchors:
            return strides, anchors, width - 5
    return None


def recognize(network: RawNetwork) -> str | None:
    """Return why a raw model is a YOLOX; None if it is not."""
    layout = _find_layout(network)
    if layout is None:
        return None
    strides, anchors, classes = layout
    inside = look_inside(network, network.outputs[0], 5 + classes)
    if inside.boxes == "decoded" or not inside.scores_only or network.has_op("Exp"):
        return None
    seen = ", boxes straight from convolutions" if inside.boxes else ""
    return f"one output of {anchors} anchors, for the strides {'/'.join(map(str, strides))}, with 5 + {classes} values each{seen}"


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:
    """Add YOLOX's decoding; see :class:`vision_infer.model.head.Head`."""
    layout = _find_layout(network)
    if layout is None:
        counts = " or ".join(str(sum(grid_counts(network.size, strides))) for strides in _STRIDES)
        raise network.refuse("yolox", f"it needs one output [1, {counts}, 5 + classes]")
    # A raw model has no Exp: with one, the sizes are already decoded.
    if network.has_op("Exp") or look_inside(network, network.outputs[0], 5 + layout[2]).boxes == "decoded":
        raise network.refuse("yolox", "its boxes are already decoded, which needs head 'yolov5'")
    strides, anchors, classes = layout
    check_labels(network, card, classes)
    output = as_float(builder, network.outputs[0])

    objectness, class_scores = (
        columns(builder, output, 4, 5, "objectness"),
        columns(builder, output, 5, 5 + classes, "class_scores"),
    )
    scores = builder.add("Mul", objectness, class_scores, name="scores_all")
    top = top_pairs(builder, scores, anchors, classes, candidates)

    rows = gather_rows(builder, output, top.anchors, "rows_top")
    cells, steps = grid(network.size, strides)
    cell = builder.add("Gather", builder.constant("cells", cells), top.anchors, name="cells_top", axis=0)
    step = builder.add("Gather", builder.constant("strides", steps), top.anchors, name="strides_top", axis=0)
    shifted = builder.add("Add", columns(builder, rows, 0, 2, "xy_raw"), cell, name="xy_shifted")
    xy = builder.add("Mul", shifted, step, name="xy")
    growth = builder.add("Exp", columns(builder, rows, 2, 4, "wh_raw"), name="wh_exp")
    wh = builder.add("Mul", growth, step, name="wh")
    return detections(corners(builder, xy, wh), top.scores, top.class_ids)


def reference(raw: RawOutputs) -> ReferenceBoxes:
    """Decode the outputs in NumPy; see :class:`vision_infer.model.head.Head`."""
    output = only_array(raw).astype(np.float64)
    cells = cells_of(output.shape[1], raw.size)
    xy, wh = (output[..., :2] + cells[:, :2]) * cells[:, 2:], np.exp(output[..., 2:4]) * cells[:, 2:]
    return ReferenceBoxes(corners_of(np.concatenate([xy, wh], axis=-1)), output[..., 4:5] * output[..., 5:])
