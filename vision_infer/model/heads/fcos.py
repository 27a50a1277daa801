"""torchvision's FCOS, exported without post-processing: class logits, four distances, and the centerness of each point.

``cls_logits`` [B, N, C], ``bbox_regression`` [B, N, 4] (left, top, right, bottom in units of the level), ``bbox_ctrness``
[B, N, 1]; score = √(sigmoid(class)·sigmoid(centerness)). NMS is not part of the model.
"""

from __future__ import annotations

import itertools

import numpy as np

from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import Size
from vision_infer.model.anchors import Grids, fcos_points, halving_grids
from vision_infer.model.column_origins import find_score_kind
from vision_infer.model.decode import as_float, as_probabilities, check_labels, gather_rows, top_pairs
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import IMAGENET_MEAN, IMAGENET_STD, HeadDefaults, HeadOutputs, detections
from vision_infer.model.network import RawNetwork
from vision_infer.model.reference import RawOutputs, ReferenceBoxes, boxes_and_scores, class_scores, halved_grids
from vision_infer.model.shared_outputs import raw_outputs

DEFAULTS = HeadDefaults(
    color="rgb",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    fit="top_left",
    fill=(124, 116, 104),  # torchvision pads with zeros after the normalization
    confidence=0.4,
    iou=0.6,
    input_size=Size(800, 800),
)


def _find_grids(network: RawNetwork) -> Grids | None:
    found, grids = raw_outputs(network, 1), halving_grids(network.size, 8, 5)
    fits = found is not None and found[0].shape[1] == sum(rows * wide for rows, wide in grids)
    return grids if fits else None


def recognize(network: RawNetwork) -> str | None:
    """Return why a raw model is an FCOS; None if it is not."""
    if _find_grids(network) is None:
        return None
    count = network.outputs[0].shape[1]
    return f"outputs of class scores, boxes and centerness of {count} points, the cells of the strides 8 to 128"


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:
    """Add FCOS's decoding; see :class:`vision_infer.model.head.Head`."""
    found, grids = raw_outputs(network, 1), _find_grids(network)
    if found is None or grids is None:
        count = sum(rows * wide for rows, wide in halving_grids(network.size, 8, 5))
        raise network.refuse(
            "fcos", f"it needs class logits [1, {count}, classes], boxes [1, {count}, 4], centerness [1, {count}, 1]"
        )
    logits, boxes, centerness = found
    classes = logits.shape[2] or 0
    check_labels(network, card, classes)
    kind, note = find_score_kind(network, logits, classes, "sigmoid")
    near, _ = find_score_kind(network, centerness, 1, "sigmoid")
    scores = as_probabilities(builder, as_float(builder, logits), kind)
    scores = builder.add("Mul", scores, as_probabilities(builder, as_float(builder, centerness), near), name="scores_near")
    scores = builder.add("Sqrt", scores, name="scores_all")
    top = top_pairs(builder, scores, logits.shape[1] or 0, classes, candidates)

    rows = gather_rows(builder, as_float(builder, boxes), top.anchors, "distances_top")
    points = fcos_points(network.size, grids)
    places = builder.constant("points", np.tile(points[:, :2], (1, 2)).astype(np.float32))
    units = builder.constant("units", (points[:, 2:] * (-1, -1, 1, 1)).astype(np.float32))
    place = builder.add("Gather", places, top.anchors, name="points_top", axis=0)
    unit = builder.add("Gather", units, top.anchors, name="units_top", axis=0)
    box = builder.add("Add", place, builder.add("Mul", rows, unit, name="box_offset"), name="box")
    return detections(box, top.scores, top.class_ids, note)


def reference(raw: RawOutputs) -> ReferenceBoxes:
    """Decode the outputs in NumPy; see :class:`vision_infer.model.head.Head`."""
    distances, logits = boxes_and_scores(raw)
    near = next(array for array in raw.outputs.values() if array.shape[2] == 1 and array is not logits)
    points = []
    for (wide, high), unit in zip(halved_grids(raw.size, 8, 5), (8, 16, 32, 64, 128), strict=True):
        for row, column in itertools.product(range(high), range(wide)):
            points.append((column * (raw.size.width // wide), row * (raw.size.height // high), unit))
    places = np.array(points, np.float64)
    away = distances.astype(np.float64) * places[:, 2:]
    boxes = np.concatenate([places[:, :2] - away[..., :2], places[:, :2] + away[..., 2:]], axis=-1)
    return ReferenceBoxes(boxes, np.sqrt(class_scores(logits, raw, "sigmoid") * class_scores(near, raw, "sigmoid")))
