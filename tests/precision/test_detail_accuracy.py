"""Accuracy of masks, keypoints and rotated boxes: a model that finds bright squares, and annotations of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser.square_model import ANGLE, BOTTOM, HEIGHT, ROTATED_SIZE, TOP, WIDTH, write_square_model
from vision_infer.config.run import run_settings
from vision_infer.core.card import DetailKind
from vision_infer.core.details.rotated_boxes import corners_of_rotated
from vision_infer.core.errors import ModelError, UsageError, VisionInferError
from vision_infer.precision.accuracy import AccuracyReport, evaluate

pytest.importorskip("onnxruntime")
pytest.importorskip("pycocotools")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools with NumPy 2

KINDS: list[DetailKind] = ["masks", "keypoints", "rotated_boxes"]
LEFTS = (40, 120, 200)
SIDE = 60


def annotation(kind: DetailKind, left: int, off: tuple[float, float]) -> dict[str, Any]:
    """Return the details of the square; ``off``: how far they are from what the model finds, pixels."""
    x, y = left + off[0], (TOP + BOTTOM) / 2 + off[1]
    if kind == "masks":
        above = y - (BOTTOM - TOP) / 2
        return {"segmentation": [[x, above, x + SIDE, above, x + SIDE, y, x, y]]}
    if kind == "keypoints":
        return {"keypoints": [x, y, 2, x + SIDE, y, 2], "num_keypoints": 2}
    rotated = np.array([[x + SIDE / 2, y, *ROTATED_SIZE, ANGLE]], np.float32)
    return {"segmentation": corners_of_rotated(rotated).reshape(1, 8).tolist()}


def measured(
    kind: DetailKind,
    folder: Path,
    off: tuple[float, float] = (0, 0),
    change: dict[str, Any] | None = None,
    only_first: dict[str, Any] | None = None,
) -> AccuracyReport:
    cv2 = pytest.importorskip("cv2")
    images = folder / "images"
    images.mkdir()
    annotations = []
    for number, left in enumerate(LEFTS, 1):
        pixels = np.full((HEIGHT, WIDTH, 3), 20, np.uint8)
        pixels[TOP:BOTTOM, left : left + SIDE] = 250
        cv2.imwrite(str(images / f"{number}.png"), pixels)
        box = [left, TOP, SIDE, BOTTOM - TOP]
        one = {"id": number, "image_id": number, "category_id": 1, "bbox": box, "area": SIDE * (BOTTOM - TOP), "iscrowd": 0}
        annotations.append(one | annotation(kind, left, off) | (change or {}))
    annotations[0] |= only_first or {}
    data = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT} for number in range(1, len(LEFTS) + 1)
        ],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": annotations,
    }
    (folder / "instances.json").write_text(json.dumps(data))
    write_square_model(folder / "square.onnx", kind)
    settings = run_settings(
        sources=("-",), model=str(folder / "square.onnx"), device="cpu", engine="onnxruntime-cpu-fp32", confidence=0.5
    )
    return evaluate(settings, folder / "instances.json", images)


@pytest.mark.parametrize("kind", KINDS)
def test_details_at_their_place_have_the_best_accuracy(kind: DetailKind, tmp_path: Path) -> None:
    report = measured(kind, tmp_path)
    assert report.figures["AP"] == pytest.approx(100, abs=0.1)
    assert report.details is not None
    assert report.details.kind == kind
    assert report.details.figures["AP"] == pytest.approx(100, abs=0.1)
    assert report.to_dict()[kind]["AP"] == pytest.approx(100, abs=0.1)
    assert "Average Precision" in report.details.table


@pytest.mark.parametrize("kind", KINDS)
def test_details_at_another_place_are_wrong_though_the_boxes_are_right(kind: DetailKind, tmp_path: Path) -> None:
    report = measured(kind, tmp_path, (29, 0))
    assert report.figures["AP"] == pytest.approx(100, abs=0.1)
    assert report.details is not None
    assert report.details.figures["AP"] < 5


def test_rotated_boxes_are_compared_by_their_rotated_overlap(tmp_path: Path) -> None:
    """The center is off by 1/4 of the height, across the width: the IoU is 0.75 / 1.25 = 0.6, right at 0.5, 0.55 and 0.6."""
    across = ROTATED_SIZE[1] * 0.249
    report = measured("rotated_boxes", tmp_path, (-math.sin(ANGLE) * across, math.cos(ANGLE) * across))
    assert report.details is not None
    assert report.details.figures["AP"] == pytest.approx(30, abs=0.5)  # 3 of 10 thresholds


def test_objects_without_keypoints_are_neither_right_nor_missing(tmp_path: Path) -> None:
    report = measured("keypoints", tmp_path, change={"num_keypoints": 7}, only_first={"keypoints": [0] * 6})
    assert report.details is not None
    assert report.details.figures["AP"] == pytest.approx(100, abs=0.1)


def test_some_objects_without_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"1 of 3 annotations have no .segmentation."):
        measured("masks", tmp_path, only_first={"segmentation": []})


def test_annotations_without_details_give_the_accuracy_of_boxes(tmp_path: Path) -> None:
    report = measured("masks", tmp_path, change={"segmentation": []})
    assert report.details is None
    assert set(report.to_dict()) == {"model", "engine", "images", "boxes", "thresholds", *report.figures}


@pytest.mark.parametrize(
    ("kind", "change", "error", "message"),
    [
        ("keypoints", {"keypoints": [1, 1, 2] * 3}, ModelError, "has 2 keypoints, but the annotations have 3"),
        ("rotated_boxes", {"segmentation": [[1, 1, 2, 2, 3, 3]]}, UsageError, "do not have four corners"),
    ],
)
def test_other_annotations_are_refused(
    kind: DetailKind, change: dict[str, Any], error: type[VisionInferError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        measured(kind, tmp_path, change=change)
