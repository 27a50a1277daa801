"""torchvision's RetinaNet, exported without post-processing: class logits and boxes against nine anchors for each cell.

``cls_logits`` [B, N, C], with a sigmoid for each class, and ``bbox_regression`` [B, N, 4]. NMS is not part of the model.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from vision_infer.core.card import ModelCard
from vision_infer.core.geometry import Size
from vision_infer.model.anchors import Grids, decode_deltas, halving_grids, retina_anchors
from vision_infer.model.column_origins import find_score_kind
from vision_infer.model.decode import as_float, as_probabilities, check_labels, top_pairs
from vision_infer.model.graph import GraphBuilder
from vision_infer.model.head import IMAGENET_MEAN, IMAGENET_STD, HeadDefaults, HeadOutputs, detections
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
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    fit="top_left",
    fill=(124, 116, 104),  # torchvision pads with zeros after the normalization
    confidence=0.4,
    iou=0.5,
    input_size=Size(800, 800),
)
_EACH = 9


def _find_grids(network: RawNetwork) -> Grids | None:
    found, grids = raw_outputs(network), halving_grids(network.size, 8, 5)
    fits = found is not None and found[0].shape[1] == _EACH * sum(rows * wide for rows, wide in grids)
    return grids if fits else None


def recognize(network: RawNetwork) -> str | None:
    """Return why a raw model is a RetinaNet; None if it is not."""
    grids = _find_grids(network)
    if grids is None:
        return None
    count = network.outputs[0].shape[1]
    return f"outputs of {count} class scores and boxes, nine anchors for each cell of the strides 8 to 128"


def append(builder: GraphBuilder, network: RawNetwork, card: ModelCard, candidates: int) -> HeadOutputs:
    """Add RetinaNet's decoding; see :class:`vision_infer.model.head.Head`."""
    found, grids = raw_outputs(network), _find_grids(network)
    if found is None or grids is None:
        count = _EACH * sum(rows * wide for rows, wide in halving_grids(network.size, 8, 5))
        raise network.refuse("retinanet", f"it needs class logits [1, {count}, classes] and boxes [1, {count}, 4]")
    logits, boxes = found
    classes = logits.shape[2] or 0
    check_labels(network, card, classes)
    kind, note = find_score_kind(network, logits, classes, "sigmoid")
    scores = as_probabilities(builder, as_float(builder, logits), kind)
    top = top_pairs(builder, scores, logits.shape[1] or 0, classes, candidates)
    box = decode_deltas(builder, as_float(builder, boxes), retina_anchors(network.size, grids), (1, 1), top)
    return detections(box, top.scores, top.class_ids, note)


def reference(raw: RawOutputs) -> ReferenceBoxes:
    """Decode the outputs in NumPy; see :class:`vision_infer.model.head.Head`."""
    deltas, logits = boxes_and_scores(raw)
    anchors = []
    for (wide, high), base in zip(halved_grids(raw.size, 8, 5), (32, 64, 128, 256, 512), strict=True):
        scales = (base, int(base * 2 ** (1 / 3)), int(base * 2 ** (2 / 3)))
        shapes = [(scale / math.sqrt(ratio), scale * math.sqrt(ratio)) for ratio in (0.5, 1.0, 2.0) for scale in scales]
        for row, column, (w, h) in itertools.product(range(high), range(wide), shapes):
            x, y = column * (raw.size.width // wide), row * (raw.size.height // high)
            anchors.append((x + round(-w / 2), y + round(-h / 2), x + round(w / 2), y + round(h / 2)))
    boxes = boxes_from_anchors(np.array(anchors, np.float64), deltas, 1, 1)
    return ReferenceBoxes(boxes, class_scores(logits, raw, "sigmoid"))
