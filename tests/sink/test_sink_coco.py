"""COCO results, read back with pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.sink.results import LABELS, found, frame, result_of
from tests.support.details import KINDS, details, with_details
from vision_infer.core.card import KeypointLayout
from vision_infer.core.details import Keypoints, Masks, RotatedBoxes
from vision_infer.core.detections import Detections
from vision_infer.sink.files.coco import CocoSink, category_id, whole_number
from vision_infer.sink.sink import OutputSpec, Written

COCO = pytest.importorskip("pycocotools.coco").COCO
COCOEVAL = pytest.importorskip("pycocotools.cocoeval").COCOeval


def load(path: Path) -> Any:
    """Return the file as pycocotools reads it."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_results_load_and_every_image_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    sink = CocoSink(OutputSpec("coco", str(path), file_names={"ü": "ü.png"}))
    shown = [(frame(0, 0.0), found(2)), (frame(5, 0.2), Detections.empty(LABELS)), (frame(6, None, stream="ü"), found(3))]
    for one, detections in shown:
        sink.write(one, result_of(one, detections))
    sink.write(frame(7), None)
    assert not path.exists()
    sink.close(True)
    sink.close(True)
    assert sink.outputs == [Written(str(path))]
    assert [entry.name for entry in tmp_path.iterdir()] == ["found.json"]
    made = load(path)
    assert sorted(made.imgs) == [1, 2, 3]  # a frame without detections is an image too
    assert made.imgs[2] == {
        "id": 2,
        "file_name": "clip/000005.jpg",
        "width": 96,
        "height": 64,
        "stream": "clip",
        "frame": 5,
        "pts_s": 0.2,
    }
    assert made.imgs[3]["file_name"] == "ü.png"
    assert [one["name"] for one in made.loadCats(made.getCatIds())] == list(LABELS)
    anns = made.loadAnns(made.getAnnIds())
    assert [(one["id"], one["image_id"], one["category_id"]) for one in anns] == [
        (1, 1, 1),
        (2, 1, 2),
        (3, 3, 1),
        (4, 3, 2),
        (5, 3, 3),
    ]
    assert anns[0]["bbox"] == [10, 10, 50, 40]
    assert (anns[0]["area"], anns[0]["iscrowd"], anns[0]["score"]) == (2000, 0, 0.75)


def test_images_whose_names_are_numbers_keep_them(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    sink = CocoSink(OutputSpec("coco", str(path), numbered=True))
    for index, one in enumerate(
        [frame(0, None, file="000000000139.jpg"), frame(1, None, file="7.png"), frame(0, None, stream="0042")]
    ):
        sink.write(one, result_of(one, found(index)))
    sink.close(True)
    made = load(path)
    assert sorted(made.imgs) == [7, 42, 139]
    assert made.imgs[139]["file_name"] == "000000000139.jpg"
    assert [one["image_id"] for one in made.loadAnns(made.getAnnIds())] == [7, 42, 42]


def test_categories() -> None:
    coco = ("person", *[f"label {number}" for number in range(1, 79)], "toothbrush")
    assert [category_id(number, coco) for number in (0, 10, 11, 79, 80)] == [1, 11, 13, 90, 81]
    assert [category_id(number, ("a", "b")) for number in (0, 1)] == [1, 2]
    assert category_id(6, None) == 7


@pytest.mark.parametrize(
    ("name", "number"),
    [("000000000139.jpg", 139), ("/a/b/7.png", 7), ("a7.jpg", None), ("7.5.jpg", None), ("²³.jpg", None), ("9" * 19, None)],
)
def test_names_that_are_numbers(name: str, number: int | None) -> None:
    assert whole_number(name) == number


def test_a_stopped_run_leaves_whole_files_and_a_failed_one_none(tmp_path: Path) -> None:
    stopped = CocoSink(OutputSpec("coco", str(tmp_path / "stopped.json")))
    stopped.write(frame(), result_of(frame(), Detections.empty(LABELS)))
    stopped.close(False)
    CocoSink(OutputSpec("coco", str(tmp_path / "broken.json"))).close(False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["stopped.json"]
    stopped_file = json.loads((tmp_path / "stopped.json").read_text())
    assert (len(stopped_file["images"]), stopped_file["annotations"], len(stopped_file["categories"])) == (1, [], 3)


def test_the_images_of_a_long_video_take_little_memory(tmp_path: Path) -> None:
    sink = CocoSink(OutputSpec("coco", str(tmp_path / "found.json")))
    tracemalloc.start()
    for index in range(20_000):
        sink.write(frame(index, index / 25), result_of(frame(index, index / 25), Detections.empty(LABELS)))
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 1_500_000  # their text is 2.5 MB, and a list of it much more
    sink.close(True)
    images = json.loads((tmp_path / "found.json").read_text())["images"]
    assert [one["id"] for one in images] == list(range(1, 20_001))


def written(path: Path, kind: str) -> tuple[Any, Detections]:
    """Write three detections with details of an image of 40x30 pixels, and return the file as pycocotools reads it."""
    given = with_details(details(kind, 3))
    if isinstance(given.details, Keypoints):
        layout = KeypointLayout(names=("a", "b", "c", "d", "e"), skeleton=((0, 1), (1, 4)))
        given = replace(given, details=replace(given.details, layout=layout))
    one = frame(0, 0.0, np.zeros((30, 40, 3), np.uint8))
    sink = CocoSink(OutputSpec("coco", str(path)))
    sink.write(one, result_of(one, given))
    sink.close(True)
    return load(path), given


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools with NumPy 2
def test_masks_are_run_lengths(tmp_path: Path) -> None:
    made, given = written(tmp_path / "found.json", "masks")
    assert isinstance(given.details, Masks)
    anns = made.loadAnns(made.getAnnIds())
    for one, pixels in zip(anns, given.details.pixels(), strict=True):
        assert made.annToMask(one).astype(bool).tolist() == pixels.tolist()
        assert one["area"] == pixels.sum()


def test_rotated_boxes_are_polygons(tmp_path: Path) -> None:
    made, given = written(tmp_path / "found.json", "rotated_boxes")
    assert isinstance(given.details, RotatedBoxes)
    for one, corners, values in zip(made.loadAnns(made.getAnnIds()), given.details.corners(), given.details.values, strict=True):
        np.testing.assert_allclose(one["segmentation"], [corners.ravel()], atol=0.006)
        assert one["area"] == pytest.approx(values[2] * values[3], abs=0.006)


def test_keypoints_have_a_visibility_and_their_names_are_in_the_categories(tmp_path: Path) -> None:
    made, given = written(tmp_path / "found.json", "keypoints")
    assert isinstance(given.details, Keypoints)
    for one, points in zip(made.loadAnns(made.getAnnIds()), given.details.points, strict=True):
        np.testing.assert_allclose(np.reshape(one["keypoints"], (5, 3))[:, :2], points[:, :2], atol=0.006)
        assert one["keypoints"][2::3] == [2 if score >= 0.3 else 0 for score in points[:, 2].tolist()]
        assert one["num_keypoints"] == one["keypoints"][2::3].count(2)
    for category in made.loadCats(made.getCatIds()):
        assert (category["keypoints"], category["skeleton"]) == (["a", "b", "c", "d", "e"], [[1, 2], [2, 5]])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools with NumPy 2
@pytest.mark.parametrize(("kind", "task"), [("masks", "segm"), ("rotated_boxes", "segm"), ("keypoints", "keypoints")])
def test_pycocotools_evaluates_a_file_against_itself(kind: str, task: str, tmp_path: Path) -> None:
    assert kind in KINDS
    truth, _ = written(tmp_path / "found.json", kind)
    with contextlib.redirect_stdout(io.StringIO()):
        results = truth.loadRes([{**one} for one in truth.loadAnns(truth.getAnnIds())])
        judged = COCOEVAL(truth, results, task)
        judged.params.kpt_oks_sigmas = np.full(5, 0.05)
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    assert judged.stats[0] == pytest.approx(1)
