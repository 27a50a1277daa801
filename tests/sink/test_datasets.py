"""Datasets: folders with images and labels, read back."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from tests.sink.results import LABELS, found, frame, result_of
from tests.support import media
from tests.support.details import details, with_details
from vision_infer.config.run import run_settings
from vision_infer.core.card import KeypointLayout
from vision_infer.core.details import Keypoints, Masks, RotatedBoxes
from vision_infer.core.detections import Detections
from vision_infer.core.errors import OutputError, UsageError
from vision_infer.core.geometry import Size
from vision_infer.pipeline.runs.offline import run
from vision_infer.pipeline.runs.outputs import OutputOptions, plan_outputs
from vision_infer.pipeline.runs.resume import check_resumable
from vision_infer.sink.datasets.dataset import polygons
from vision_infer.sink.datasets.dataset_sink import DatasetSink
from vision_infer.sink.sink import OutputSpec
from vision_infer.stream.files.images import read_image
from vision_infer.stream.source import SourceSpec

FORMATS = ("yolo", "coco", "voc", "cvat", "label-studio", "fiftyone", "datumaro")
BOX = (10.0, 10.0, 60.0, 50.0)
SIZE = (96, 64)


def write(folder: Path, kind: str, *frames: tuple[Any, Detections | None], **options: Any) -> Path:
    """Write a dataset, and return its folder."""
    sink = DatasetSink(OutputSpec(f"dataset-{kind}", str(folder / kind), **options))
    for one, detections in frames:
        sink.write(one, None if detections is None else result_of(one, detections))
    sink.close(True)
    sink.close(True)
    return folder / kind


def usual(folder: Path, kind: str) -> Path:
    """Write two boxes, one of them partly outside, an image without objects, and a frame without inference."""
    boxes = replace(found(2), boxes=np.array([BOX, (80, -5, 120, 32)], np.float32))
    return write(folder, kind, (frame(0), boxes), (frame(7, 0.28), Detections.empty(LABELS)), (frame(8), None))


def test_yolo(tmp_path: Path) -> None:
    folder = usual(tmp_path, "yolo")
    about = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))
    assert about == {"train": "images/train", "val": "images/train", "names": dict(enumerate(LABELS))}
    assert sorted(path.name for path in (folder / "images/train").iterdir()) == ["clip_000000.jpg", "clip_000007.jpg"]
    lines = (folder / "labels/train/clip_000000.txt").read_text().splitlines()
    assert [float(value) for value in lines[0].split()] == pytest.approx([0, 35 / 96, 30 / 64, 50 / 96, 40 / 64], abs=1e-5)
    assert [float(value) for value in lines[1].split()] == pytest.approx([1, 88 / 96, 16 / 64, 16 / 96, 32 / 64], abs=1e-5)
    assert (folder / "labels/train/clip_000007.txt").read_text() == ""
    assert read_image(str(folder / "images/train/clip_000007.jpg")).shape == (64, 96, 3)


def test_supervision_reads_yolo(tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    folder = usual(tmp_path, "yolo")
    read = supervision.DetectionDataset.from_yolo(
        str(folder / "images/train"), str(folder / "labels/train"), str(folder / "data.yaml")
    )
    assert read.classes == list(LABELS)
    boxes = {Path(name).name: one.xyxy.tolist() for name, one in read.annotations.items()}
    assert boxes["clip_000000.jpg"][0] == pytest.approx(BOX, abs=0.01)
    assert boxes["clip_000007.jpg"] == []


def test_supervision_reads_voc(tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    folder = usual(tmp_path, "voc")
    read = supervision.DetectionDataset.from_pascal_voc(str(folder / "JPEGImages"), str(folder / "Annotations"))
    boxes = {Path(name).name: one.xyxy.tolist() for name, one in read.annotations.items()}
    assert boxes["clip_000000.jpg"][0] == pytest.approx(BOX, abs=1.01)  # it takes the last pixel as the edge
    assert (folder / "ImageSets/Main/train.txt").read_text() == "clip_000000\nclip_000007\n"
    root = ElementTree.parse(folder / "Annotations/clip_000000.xml").getroot()
    assert [one.text for one in root.iter("name")] == list(LABELS[:2])
    assert [one.text for one in root.find("object/bndbox") or []] == ["11", "11", "60", "50"]


def test_pycocotools_reads_coco(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco").COCO
    folder = usual(tmp_path, "coco")
    with contextlib.redirect_stdout(io.StringIO()):
        read = coco(str(folder / "annotations/instances_train.json"))
    assert [one["file_name"] for one in read.loadImgs(read.getImgIds())] == ["clip_000000.jpg", "clip_000007.jpg"]
    boxes = [one["bbox"] for one in read.loadAnns(read.getAnnIds())]
    assert boxes == [[10, 10, 50, 40], [80, 0, 16, 32]]
    assert [one["name"] for one in read.loadCats(read.getCatIds())] == list(LABELS)


def test_cvat(tmp_path: Path) -> None:
    root = ElementTree.parse(usual(tmp_path, "cvat") / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert [one.text for one in root.iter("name")][1:] == list(LABELS)
    images = root.findall("image")
    assert [(one.get("name"), one.get("width"), len(one)) for one in images] == [
        ("clip_000000.jpg", "96", 2),
        ("clip_000007.jpg", "96", 0),
    ]
    box = images[0][0]
    assert [float(box.get(edge) or -1) for edge in ("xtl", "ytl", "xbr", "ybr")] == list(BOX)
    assert images[0][1].get("label") == LABELS[1]


def test_label_studio(tmp_path: Path) -> None:
    folder = usual(tmp_path, "label-studio")
    tasks = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    assert [task["data"]["image"] for task in tasks] == [
        f"/data/local-files/?d=label-studio/images/clip_{number:06d}.jpg" for number in (0, 7)
    ]
    (prediction,) = tasks[0]["predictions"]
    assert (prediction["model_version"], len(prediction["result"])) == ("tiny", 2)
    region = prediction["result"][0]
    assert region["value"]["x"] == pytest.approx(1000 / 96, abs=1e-3)
    assert region["value"]["rectanglelabels"] == ["person"]
    config = ElementTree.parse(folder / "config.xml").getroot()
    controls = {one.get("name"): one for one in config}
    assert region["from_name"] in controls
    assert [label.get("value") for label in controls["label"]] == list(LABELS)


def test_fiftyone(tmp_path: Path) -> None:
    folder = usual(tmp_path, "fiftyone")
    read = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    assert read["classes"] == list(LABELS)
    assert set(read["labels"]) == {path.stem for path in (folder / "data").iterdir()}
    assert read["labels"]["clip_000000"][0] == {
        "label": 0,
        "bounding_box": pytest.approx([10 / 96, 10 / 64, 50 / 96, 40 / 64], abs=1e-5),
        "confidence": 0.75,
    }
    assert read["labels"]["clip_000007"] == []


def test_datumaro(tmp_path: Path) -> None:
    read = json.loads((usual(tmp_path, "datumaro") / "annotations/train.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in read["categories"]["label"]["labels"]] == list(LABELS)
    first, second = read["items"]
    assert (first["id"], first["image"]) == ("clip_000000", {"path": "clip_000000.jpg", "size": [64, 96]})
    assert [one["bbox"] for one in first["annotations"]] == [[10, 10, 50, 40], [80, 0, 16, 32]]
    assert second["annotations"] == []


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("detail", ["keypoints", "masks", "rotated_boxes"])
def test_details_are_written(tmp_path: Path, kind: str, detail: str) -> None:
    small = frame(rgb=np.zeros((30, 40, 3), np.uint8))
    boxes = np.tile(np.array([2, 3, 30, 25], np.float32), (2, 1))
    detections = replace(with_details(details(detail, 2)), boxes=boxes)
    folder = write(tmp_path, kind, (small, detections))
    label_files = [path for path in folder.rglob("*") if path.suffix in (".txt", ".json", ".xml")]
    text = "".join(path.read_text(encoding="utf-8") for path in label_files)
    expected = {
        "yolo": {"keypoints": "0 0.4 0.466667", "masks": "0 ", "rotated_boxes": "0 "},
        "coco": {"keypoints": '"num_keypoints"', "masks": '"counts"', "rotated_boxes": '"segmentation": [['},
        "cvat": {"keypoints": "<points", "masks": "<polygon", "rotated_boxes": 'rotation="'},
        "label-studio": {"keypoints": "keypointlabels", "masks": "polygonlabels", "rotated_boxes": '"rotation": '},
        "datumaro": {"keypoints": '"visibility"', "masks": '"rle"', "rotated_boxes": '"polygon"'},
    }
    assert expected.get(kind, {}).get(detail, "") in text


def test_yolo_has_the_lines_of_each_task(tmp_path: Path) -> None:
    small = frame(rgb=np.zeros((30, 40, 3), np.uint8))
    lines = {}
    for detail in ("keypoints", "masks", "rotated_boxes"):
        detections = replace(with_details(details(detail, 1)), boxes=np.array([[2, 3, 30, 25]], np.float32))
        folder = write(tmp_path / detail, "yolo", (small, detections))
        lines[detail] = [float(value) for value in (folder / "labels/train/clip_000000.txt").read_text().split()]
        assert all(0 <= value <= 2 for value in lines[detail])
    assert len(lines["keypoints"]) == 5 + 3 * 5
    assert len(lines["rotated_boxes"]) == 1 + 8
    assert len(lines["masks"]) % 2 == 1
    about = yaml.safe_load((tmp_path / "keypoints/yolo/data.yaml").read_text())
    assert about["kpt_shape"] == [5, 3]


def test_a_polygon_covers_its_mask() -> None:
    import cv2

    logits = np.full((24, 24), -1, np.float32)
    logits[4:20, 6:18] = 1
    logits[4:12, 12:18] = -1  # an L
    boxes = np.array([[0, 0, 24, 24]], np.float32)
    masks = Masks(Size(24, 24), boxes, boxes.astype(np.float64), (logits,))
    (shape,) = polygons(masks.row(0))
    assert cv2.contourArea(shape.astype(np.float32)) == pytest.approx((logits > 0).sum(), abs=1)
    assert (shape.min(), shape.max()) == (4, 20)


def test_a_rotated_box_of_label_studio_turns_around_its_corner(tmp_path: Path) -> None:
    rotated = RotatedBoxes(np.array([[50, 30, 20, 10, np.pi / 6]], np.float32))
    one = Detections(np.array([[35, 20, 65, 40]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int32), details=rotated)
    tasks = json.loads((write(tmp_path, "label-studio", (frame(), one)) / "tasks.json").read_text())
    value = tasks[0]["predictions"][0]["result"][0]["value"]
    x, y = value["x"] * 0.96, value["y"] * 0.64
    assert [x, y] == pytest.approx(rotated.corners()[0, 0].tolist(), abs=0.01)
    assert value["rotation"] == pytest.approx(30, abs=0.01)


def test_names_of_keypoints(tmp_path: Path) -> None:
    layout = KeypointLayout(names=("nose", "tail"), skeleton=((0, 1),))
    points = Keypoints(np.array([[[20, 20, 0.9], [30, 30, 0.1]]], np.float32), layout)
    one = replace(found(1), details=points)
    read = json.loads((write(tmp_path, "coco", (frame(), one)) / "annotations/instances_train.json").read_text())
    assert (read["categories"][0]["keypoints"], read["categories"][0]["skeleton"]) == (["nose", "tail"], [[1, 2]])
    assert (read["annotations"][0]["keypoints"], read["annotations"][0]["num_keypoints"]) == ([20, 20, 2, 0, 0, 0], 1)
    config = (write(tmp_path, "label-studio", (frame(), one)) / "config.xml").read_text()
    assert '<Label value="nose"/>' in config


def test_images_of_a_folder_keep_their_names(tmp_path: Path) -> None:
    frames = [(frame(0, None, stream="val", file=name), found(1)) for name in ("a.jpg", "b.png")]
    frames.append((frame(2, None, stream="val", file="a.png"), found(1)))
    folder = write(tmp_path, "yolo", *frames)
    names = sorted(path.stem for path in (folder / "images/train").iterdir())
    assert names == ["val_a", "val_a_000002", "val_b"]
    assert sorted(path.stem for path in (folder / "labels/train").iterdir()) == names


def test_images_of_several_streams_never_share_a_name(tmp_path: Path) -> None:
    frames = [frame(5, stream="gate", file="east_000005.png"), frame(5, stream="gate_east"), frame(6, stream="gate_east")]
    folder = write(tmp_path, "yolo", *((one, found(1)) for one in frames))
    names = sorted(path.stem for path in (folder / "images/train").iterdir())
    assert names == ["gate_east_000005", "gate_east_000005_000005", "gate_east_000006"]


def test_the_name_of_a_replaced_sample_is_not_used_again(tmp_path: Path) -> None:
    """Otherwise, its row would describe the new image."""
    files = zip(("a.jpg", "b.jpg", "a.png"), (0.6, 0.55, 0.5), strict=True)
    frames = [
        (frame(at, None, stream="val", file=name), replace(found(1), scores=np.array([score], np.float32)))
        for at, (name, score) in enumerate(files)
    ]
    folder = write(tmp_path, "coco", *frames, sample="uncertain", samples=1)
    read = json.loads((folder / "annotations/instances_train.json").read_text())
    assert [one["file_name"] for one in read["images"]] == ["val_a_000002.jpg"]
    assert len(read["annotations"]) == 1


def test_replaced_samples_leave_nothing(tmp_path: Path) -> None:
    scores = (0.9, 0.5, 0.8, 0.55)
    frames = [(frame(at, float(at)), replace(found(1), scores=np.array([s], np.float32))) for at, s in enumerate(scores)]
    folder = write(tmp_path, "voc", *frames, sample="uncertain", samples=2)
    assert sorted(path.name for path in (folder / "JPEGImages").iterdir()) == ["clip_000001.jpg", "clip_000003.jpg"]
    assert sorted(path.name for path in (folder / "Annotations").iterdir()) == ["clip_000001.xml", "clip_000003.xml"]
    assert [path.name for path in tmp_path.iterdir()] == ["voc"]
    assert not list(folder.glob(".*"))


def test_a_dataset_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out/yolo/labels").mkdir(parents=True)
    source = SourceSpec("clip", "video", ("/videos/clip.mp4",))
    with pytest.raises(OutputError, match="yolo: exists already"):
        plan_outputs([f"{tmp_path}/out/"], [source], True, OutputOptions(formats=("yolo",)))
    (tmp_path / "out/yolo/labels").rmdir()
    plan = plan_outputs([f"{tmp_path}/out/"], [source], False, OutputOptions(formats=("yolo", "jsonl"), sample="diverse"))
    assert [(one.kind, one.sample) for one in plan.shared] == [("dataset-yolo", "diverse")]
    assert [one.kind for one in plan.by_stream["clip"]] == ["jsonl"]


def test_a_killed_run_is_replaced_and_a_failed_one_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / ".yolo.partial/images/train").mkdir(parents=True)
    (tmp_path / ".yolo.partial/images/train/old.jpg").touch()
    sink = DatasetSink(OutputSpec("dataset-yolo", str(tmp_path / "yolo")))
    sink.close(False)
    assert list(tmp_path.iterdir()) == []
    assert not sink.outputs


def test_options_without_a_dataset_are_refused(tmp_path: Path) -> None:
    source = SourceSpec("clip", "video", ("/videos/clip.mp4",))
    with pytest.raises(UsageError, match="--sample: no dataset is written"):
        plan_outputs([f"{tmp_path}/"], [source], False, OutputOptions(sample="diverse"))
    with pytest.raises(UsageError, match="sample: must be uncertain, diverse, disagree or every:N"):
        run_settings(sources=("a.mp4",), sample="best")
    with pytest.raises(UsageError, match="samples: needs sample"):
        run_settings(sources=("a.mp4",), samples=3)
    with pytest.raises(UsageError, match="unknown format"):
        plan_outputs([f"{tmp_path}/a.yolo"], [source], False)
    with pytest.raises(UsageError, match=r"yolo cannot be continued\. Leave it out"):
        check_resumable(plan_outputs([f"{tmp_path}/"], [source], False, OutputOptions(formats=("yolo",))))


def test_a_run_writes_one_dataset_of_all_sources(tmp_path: Path) -> None:
    clip = media.clip(media.Clip(frames=9))
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").write_bytes(clip.read_bytes())
    sources = (str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4"))
    formats = ("yolo", "coco", "xml")
    settings = run_settings(sources=sources, engine="null", out=(f"{tmp_path}/out/",), formats=formats, sample="every:4")
    summary = run(settings, threading.Event())
    names = [f"{stream}_{frame:06d}.jpg" for stream in "ab" for frame in (0, 4, 8)]
    assert sorted(path.name for path in (tmp_path / "out/yolo/images/train").iterdir()) == names
    images = json.loads((tmp_path / "out/coco/annotations/instances_train.json").read_text())["images"]
    assert sorted(one["file_name"] for one in images) == names
    assert f"{tmp_path}/out/yolo" in summary.outputs
    assert sorted(path.name for path in (tmp_path / "out").glob("*.xml")) == ["a.xml", "b.xml"]
