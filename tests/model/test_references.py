"""The references of torchvision's families give the results of torchvision's own code."""

from __future__ import annotations

import numpy as np
import pytest

from tests.model.test_anchors import from_torchvision
from tests.support.exported import load
from vision_infer.core.geometry import Size
from vision_infer.model.anchors import halving_grids
from vision_infer.model.heads import fcos, retinanet, ssd
from vision_infer.model.reference import RawOutputs

SIZE = Size(320, 192)


def outputs(count: int, classes: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "cls_logits": random.normal(0, 2, (2, count, classes)).astype(np.float32),
        "bbox_regression": random.normal(0, 2, (2, count, 4)).astype(np.float32),
    }


def corners_of(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


@pytest.mark.parametrize("family", ["ssd", "retinanet"])
def test_boxes_and_scores_against_anchors(family: str) -> None:
    torch, detection = load("torch"), load("torchvision.models.detection")
    if family == "ssd":
        generator = detection.anchor_utils.DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)
        grids, weights = halving_grids(SIZE, 16, 6), (10.0, 10.0, 5.0, 5.0)
    else:
        generator = detection.retinanet._default_anchorgen()
        grids, weights = halving_grids(SIZE, 8, 5), (1.0, 1.0, 1.0, 1.0)
    anchors = corners_of(from_torchvision(generator, SIZE, grids))
    raw = outputs(len(anchors), 5)
    found = (ssd if family == "ssd" else retinanet).reference(RawOutputs(raw, SIZE, None, None))
    coder = detection._utils.BoxCoder(weights)
    for image in range(2):
        deltas = torch.from_numpy(raw["bbox_regression"][image].astype(np.float64))
        expected = coder.decode_single(deltas, torch.from_numpy(anchors)).numpy()
        np.testing.assert_allclose(found.boxes[image], expected, rtol=1e-5, atol=1e-3)
    logits = torch.from_numpy(raw["cls_logits"])
    if family == "ssd":
        np.testing.assert_allclose(found.scores, torch.softmax(logits, -1).numpy()[..., 1:], atol=1e-6)
        assert found.first_class == 1
    else:
        np.testing.assert_allclose(found.scores, torch.sigmoid(logits).numpy(), atol=1e-6)
        assert found.first_class == 0


def test_distances_and_centerness() -> None:
    torch, detection = load("torch"), load("torchvision.models.detection")
    grids = halving_grids(SIZE, 8, 5)
    sizes = tuple((side,) for side in (8, 16, 32, 64, 128))
    anchors = corners_of(from_torchvision(detection.anchor_utils.AnchorGenerator(sizes, ((1.0,),) * 5), SIZE, grids))
    raw = outputs(len(anchors), 5)
    raw["bbox_ctrness"] = np.random.default_rng(1).normal(0, 2, (2, len(anchors), 1)).astype(np.float32)
    found = fcos.reference(RawOutputs(raw, SIZE, None, None))
    coder = detection._utils.BoxLinearCoder(normalize_by_size=True)
    distances, places = torch.from_numpy(raw["bbox_regression"]).double(), torch.from_numpy(anchors)
    expected = torch.stack([coder.decode(one, places) for one in distances]).numpy()
    np.testing.assert_allclose(found.boxes, expected, atol=1e-3)
    scores = (torch.sigmoid(torch.from_numpy(raw["cls_logits"])) * torch.sigmoid(torch.from_numpy(raw["bbox_ctrness"]))).sqrt()
    np.testing.assert_allclose(found.scores, scores.numpy(), atol=1e-6)
