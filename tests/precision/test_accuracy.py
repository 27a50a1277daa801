"""Accuracy on annotated images: the minimum of three models, and errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import media
from tests.support.assets import BOXES, IMAGES, photographs, raw_model
from vision_infer.config.run import RunSettings, run_settings
from vision_infer.core.errors import ModelError, StreamError, UsageError
from vision_infer.model.importing import ImportRequest, import_model
from vision_infer.precision import accuracy as accuracy_module
from vision_infer.precision.accuracy import AccuracyReport, evaluate, read_annotations
from vision_infer.precision.detail_accuracy import METRICS

pytest.importorskip("onnxruntime")
pytest.importorskip("pycocotools")


@pytest.fixture(scope="module")
def pictures() -> Path:
    return photographs().parent


def settings(model: str | Path, **options: Any) -> RunSettings:
    return run_settings(sources=("-",), model=str(model), device="cpu", **{"engine": "onnxruntime-cpu-fp32", **options})


def measure(model: str | Path, pictures: Path) -> AccuracyReport:
    return evaluate(settings(model), pictures / "instances.json", pictures / "images")


def test_the_bundled_model(pictures: Path) -> None:
    report = measure("nanodet-416", pictures)
    assert report.figures["AP"] >= 60.0
    assert (report.images, report.boxes) == (IMAGES, BOXES)
    assert tuple(report.figures) == METRICS
    assert report.engine == "onnxruntime-cpu-fp32"
    assert "Average Precision" in report.table
    precisions, recalls = zip(*((row.precision, row.recall) for row in report.thresholds), strict=True)
    assert sorted(recalls, reverse=True) == list(recalls)
    assert precisions[0] < 50 < precisions[6]
    json.dumps(report.to_dict())


def test_precision_and_recall_by_confidence(tmp_path: Path) -> None:
    """Three cats and a crowd: one is found twice, one as a dog, and one not at all; a detection on the crowd does not count."""
    boxes = [[10, 10, 50, 50], [100, 10, 50, 50], [200, 10, 50, 50], [10, 100, 200, 90]]
    truth = {
        "images": [{"id": 1, "file_name": "one.jpg", "width": 300, "height": 200}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": int(number == 4)}
            for number, box in enumerate(boxes, 1)
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(truth))
    scored = [(boxes[0], 1, 0.9), ([14, 10, 50, 50], 1, 0.42), (boxes[1], 2, 0.62), ([20, 110, 60, 60], 1, 0.85)]
    found = [{"image_id": 1, "category_id": label, "bbox": box, "score": score} for box, label, score in scored]
    _, _, thresholds = accuracy_module._score(read_annotations(tmp_path / "instances.json"), found)
    by_confidence = {row.confidence: (round(row.precision, 1), round(row.recall, 1), round(row.f1, 1)) for row in thresholds}
    assert by_confidence[0.4] == (33.3, 33.3, 33.3)
    assert by_confidence[0.45] == (50.0, 33.3, 40.0)
    assert by_confidence[0.7] == (100.0, 33.3, 50.0)
    assert accuracy_module.ThresholdAccuracy(0.95, 0.0, 0.0).f1 == 0.0


@pytest.mark.parametrize(
    ("file", "least"), [("yolox_nano_416x416.onnx", 30.3), ("deimv2_hgnetv2_femto_coco.onnx", 35.0)], ids=["yolox", "deimv2"]
)
def test_imported_models(pictures: Path, tmp_path: Path, file: str, least: float) -> None:
    path = import_model(ImportRequest(media.asset(f"models/{file}"), "imported", labels="coco", model_dir=tmp_path))
    assert measure(path, pictures).figures["AP"] >= least


@pytest.fixture
def small(pictures: Path, tmp_path: Path) -> Path:
    """Three of the images with their annotations, for changes."""
    data = json.loads((pictures / "instances.json").read_text())
    data["images"] = sorted(data["images"], key=lambda image: str(image["file_name"]))[:3]
    ids = {image["id"] for image in data["images"]}
    data["annotations"] = [box for box in data["annotations"] if box["image_id"] in ids]
    (tmp_path / "images").mkdir()
    for image in data["images"]:
        shutil.copy(pictures / "images" / image["file_name"], tmp_path / "images")
    (tmp_path / "instances.json").write_text(json.dumps(data))
    return tmp_path


def spoil(small: Path, change: Any) -> Path:
    path = small / "instances.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return small


def test_workers_and_batches_do_not_change_the_results(small: Path) -> None:
    data, images = small / "instances.json", small / "images"
    one = evaluate(settings("nanodet-416", workers=1), data, images)
    several = evaluate(settings("nanodet-416", workers=2, batch=2), data, images)
    assert (one.images, several.images) == (3, 3)
    assert np.allclose(list(one.figures.values()), list(several.figures.values()), atol=0.5)


def test_an_engine_without_detections(small: Path) -> None:
    report = evaluate(settings("nanodet-416", engine="null"), small / "instances.json", small / "images")
    assert report.figures == dict.fromkeys(METRICS, 0.0)


def test_a_missing_or_damaged_image_is_an_error(small: Path) -> None:
    image = sorted((small / "images").iterdir())[1]
    image.write_bytes(image.read_bytes()[:500])
    with pytest.raises(StreamError, match=image.name):
        measure("nanodet-416", small)
    image.unlink()
    with pytest.raises(StreamError, match=image.name):
        measure("nanodet-416", small)
    shutil.rmtree(small / "images")
    with pytest.raises(StreamError, match="no such file"):
        measure("nanodet-416", small)


@pytest.mark.parametrize("content", ["", "no json", "[]", "7", "{}", '{"images": []}', '{"images": 3, "annotations": 4}'])
def test_other_files_are_not_annotations(small: Path, content: str) -> None:
    (small / "instances.json").write_text(content)
    with pytest.raises(UsageError, match=r"instances\.json") as caught:
        measure("nanodet-416", small)
    assert caught.value.hint


def test_missing_or_binary_annotations_are_refused(small: Path) -> None:
    (small / "instances.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"instances\.json"):
        measure("nanodet-416", small)
    (small / "instances.json").unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        measure("nanodet-416", small)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["annotations"][0].pop("bbox"),
        lambda data: data["annotations"][0].pop("category_id"),
        lambda data: data["annotations"][0].pop("area"),
        lambda data: data["annotations"][0].pop("iscrowd"),
        lambda data: data["annotations"][0].update(category_id=9999),
        lambda data: data["annotations"][0].update(image_id=9999),
        lambda data: data["images"][0].pop("file_name"),
        lambda data: data["images"][0].update(file_name=7),
        lambda data: data.pop("annotations"),
        lambda data: data.pop("categories"),
    ],
    ids=range(10),
)
def test_annotations_in_another_format_are_refused(small: Path, change: Any) -> None:
    with pytest.raises(UsageError, match=r"instances\.json"):
        measure("nanodet-416", spoil(small, change))


def test_labels_that_do_not_match(small: Path) -> None:
    def rename(data: Any) -> None:
        data["categories"][0]["name"] = "unicorn"

    with pytest.raises(ModelError, match="unicorn"):
        measure("nanodet-416", spoil(small, rename))


def test_a_model_without_labels(small: Path, tmp_path: Path) -> None:
    path = import_model(ImportRequest(raw_model("yolox"), "bare", model_dir=tmp_path / "models"))
    with pytest.raises(ModelError, match="has no label"):
        measure(path, small)
