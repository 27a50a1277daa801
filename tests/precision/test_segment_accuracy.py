"""mIoU of semantic segmentation, against annotations that are made of the model's own classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.support import raw_networks as raw
from vision_infer.config.run import run_settings
from vision_infer.core.details.masks import MaskPatch, encoded
from vision_infer.core.errors import ModelError
from vision_infer.core.geometry import Size
from vision_infer.engine.runtimes.raw_model import RawSession
from vision_infer.model.importing import ImportRequest, import_model
from vision_infer.precision.accuracy import evaluate

pytest.importorskip("pycocotools")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools with NumPy 2
SIZE = Size(160, 96)


def dataset(folder: Path, labels: list[str], lost: int | None = None) -> tuple[Path, np.ndarray[Any, Any]]:
    """Write a model, two images, and annotations of the classes that it finds; those of class ``lost`` in the upper half only."""
    (folder / "labels.txt").write_text("\n".join(labels))
    graph = import_model(ImportRequest(raw.semantic(folder / "raw.onnx"), "mine", labels=folder / "labels.txt", model_dir=folder))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    maps: list[np.ndarray[Any, Any]] = []
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (12, 20, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        cv2.imwrite(str(folder / f"{number}.png"), pixels[..., ::-1])
        images.append({"id": number + 1, "file_name": f"{number}.png", "width": SIZE.width, "height": SIZE.height})
        classes = RawSession(graph).run({"images": pixels[None]})["classes"][0].repeat(8, 0).repeat(8, 1)
        maps.append(classes)
        for kind in np.unique(classes).tolist():
            inside = classes == kind
            if kind == lost:
                inside[SIZE.height // 2 :] = False
            if labels[kind] != "background" and inside.any():
                mask = {"segmentation": encoded(MaskPatch(0, 0, inside), SIZE), "area": int(inside.sum()), "iscrowd": 0}
                box = {"id": len(annotations) + 1, "image_id": number + 1, "category_id": kind + 1, "bbox": [0, 0, 1, 1]}
                annotations.append(mask | box)
    categories = [{"id": kind + 1, "name": label} for kind, label in enumerate(labels) if label != "background"]
    (folder / "truth.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return graph, np.stack(maps)


def test_a_model_agrees_with_its_own_classes(tmp_path: Path) -> None:
    graph, maps = dataset(tmp_path, ["background", *(f"thing {number}" for number in range(1, 7))])
    report = evaluate(run_settings(sources=("x",), model=str(graph), device="cpu"), tmp_path / "truth.json", tmp_path)
    assert report.figures == {"mIoU": pytest.approx(100), "pixels": pytest.approx(100)}
    assert report.table.count("100.0 %  ") == len(np.unique(maps))
    assert report.images == 2


@pytest.mark.parametrize("background", [True, False])
def test_a_class_with_half_of_its_pixels_counts_less(background: bool, tmp_path: Path) -> None:
    labels = ["background" if background else "thing 0", *(f"thing {number}" for number in range(1, 7))]
    # the class with the most pixels, other than 0
    _, maps = dataset(tmp_path, labels)
    lost = int(np.bincount(maps.ravel(), minlength=7)[1:].argmax()) + 1
    again = tmp_path / "again"
    again.mkdir()
    graph, _ = dataset(again, labels, lost)
    report = evaluate(run_settings(sources=("x",), model=str(graph), device="cpu"), again / "truth.json", again)
    below = maps.copy()
    below[:, : SIZE.height // 2] = 255
    wrong = int((below == lost).sum())
    if background:  # the other half is annotated as background
        assert report.figures["pixels"] == pytest.approx(100 * (1 - wrong / maps.size))
        share = 100 * (1 - wrong / int((maps == lost).sum()))
        assert f"{share:5.1f} %  thing {lost}" in report.table
    else:  # it does not count
        assert report.figures["pixels"] == pytest.approx(100)
        assert report.figures["mIoU"] == pytest.approx(100)


def test_models_for_other_tasks_are_refused(tmp_path: Path) -> None:
    dataset(tmp_path, [f"thing {number}" for number in range(7)])
    graph = import_model(ImportRequest(raw.simcc(tmp_path / "pose.onnx"), "pose", model_dir=tmp_path))
    with pytest.raises(ModelError, match="pose is a model for 'keypoints', which cannot be evaluated"):
        evaluate(run_settings(sources=("x",), model=str(graph), device="cpu"), tmp_path / "truth.json", tmp_path)
