"""torchvision's SSD and SSDLite, exported without post-processing: class logits and boxes against default boxes.

``cls_logits`` [B, N, 1 + C], whose first class is the background, and ``bbox_regression`` [B, N, 4]. As in torchvision, the
background has class number 0, so no detection has it. NMS is not part of the model.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from onnx import TensorProto

from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import Size
from vision_infer.model.anchors import SsdLayout, decode_deltas, ssd_boxes, ssd_layouts
from vision_infer.model.column_origins import find_score_kind
from vision_infer.model.decode import as_float, as_probabilities, check_labels, columns, top_pairs
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import HeadDefaults, HeadOutputs, detections
from vision_infer.model.network import RawNetwork
from vision_infer.model.reference import (
    RawOutputs,
    ReferenceBoxes,
    boxes_and_scores,
    boxes_from_anchors,
    class_scores,
    halved_grids,
)
from vision_infer.model.shared_outputs import raw_outputs

DEFAULTS = HeadDefaults(
    color="rgb",
    mean=(127.5, 127.5, 127.5),  # SSDLite; SSD300 with VGG needs mean 123, 117, 104 and std 1
    std=(127.5, 127.5, 127.5),
    fit="stretch",
    fill=(114, 114, 114),
    confidence=0.4,
    iou=0.55,
    input_size=Size(320, 320),
)


def _find_layout(network: RawNetwork) -> SsdLayout | None:
    found = raw_outputs(network)
    if found is None or (found[0].shape[2] or 0) < 2:
        return None
    return next((layout for layout in ssd_layouts(network.size) if layout.count == found[0].shape[1]), None)


def recognize(network: RawNetwork) -> str | None:
    """Return why a raw model is an SSD; None if it is not."""
    layout = _find_layout(network)
    if layout is None:
        return None
    return f"outputs of {layout.count} class scores and boxes, the number of default boxes of {layout.name}"


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:
    """Add SSD's decoding; see :class:`vision_infer.model.head.Head`."""
    found, layout = raw_outputs(network), _find_layout(network)
    if found is None or layout is None:
        counts = " or ".join(f"{layout.count} ({layout.name})" for layout in ssd_layouts(network.size))
        raise network.refuse("ssd", f"it needs class logits [1, N, 1 + classes] and boxes [1, N, 4], where N is {counts}")
    logits, boxes = found
    width = logits.shape[2] or 0
    check_labels(network, card, width)
    kind, note = find_score_kind(network, logits, width, "softmax")
    scores = as_probabilities(builder, as_float(builder, logits), kind)
    things = columns(builder, scores, 1, width, "scores_of_things")
    top = top_pairs(builder, things, layout.count, width - 1, candidates)
    one = builder.constant("background", np.array(1, np.int32))
    numbers = builder.add("Add", top.class_ids, one, name="class_with_background")
    box = decode_deltas(builder, as_float(builder, boxes), ssd_boxes(network.size, layout), (10, 5), top)
    return detections(box, top.scores, builder.cast(numbers, TensorProto.INT32, "class_ids_int32"), note)


def reference(raw: RawOutputs) -> ReferenceBoxes:
    """Decode the outputs in NumPy; see :class:`vision_infer.model.head.Head`."""
    deltas, logits = boxes_and_scores(raw)
    large = deltas.shape[1] == 8732 and raw.size == Size(300, 300)
    grids = [(n, n) for n in (38, 19, 10, 5, 3, 1)] if large else halved_grids(raw.size, 16, 6)
    scales = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05] if large else [*np.linspace(0.2, 0.95, 6), 1.0]
    anchors = []
    for level, (wide, high) in enumerate(grids):
        both = [2.0] if large and level in (0, 4, 5) else [2.0, 3.0]
        sides = [(scales[level],) * 2, (math.sqrt(scales[level] * scales[level + 1]),) * 2]
        for ratio in both:
            root = math.sqrt(ratio)
            sides += [(scales[level] * root, scales[level] / root), (scales[level] / root, scales[level] * root)]
        step = 300 / (8, 16, 32, 64, 100, 300)[level] if large else 0.0
        for row, column, (w, h) in itertools.product(range(high), range(wide), sides):
            x, y, w, h = (column + 0.5) / (step or wide), (row + 0.5) / (step or high), min(w, 1.0), min(h, 1.0)
            anchors.append((x - w / 2, y - h / 2, x + w / 2, y + h / 2))
    boxes = np.array(anchors) * ([raw.size.width, raw.size.height] * 2)
    scores = class_scores(logits, raw, "softmax")[..., 1:]
    return ReferenceBoxes(boxes_from_anchors(boxes, deltas, 10, 5), scores, first_class=1)
