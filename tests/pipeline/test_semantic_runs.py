"""Models for semantic segmentation, and secondary models for keypoints, from the import to rows, annotated video and Python."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.pipeline.fakes import EchoEngine
from tests.support import media
from tests.support import raw_networks as raw
from tests.support.result_schema import validate_row
from vision_infer.analyze.draw import Drawer
from vision_infer.config.run import run_settings
from vision_infer.core.clock import SystemClock
from vision_infer.core.description import Description
from vision_infer.core.details import ClassMap, Keypoints
from vision_infer.core.detections import Detections
from vision_infer.core.errors import VisionInferError
from vision_infer.core.frame import Frame
from vision_infer.core.geometry import Size
from vision_infer.core.trace import Trace
from vision_infer.model.importing import ImportRequest, import_model
from vision_infer.pipeline.completion import PendingResult
from vision_infer.pipeline.runs.offline import run
from vision_infer.pipeline.secondary_stage import KEYPOINT_MARGIN, SecondaryStage
from vision_infer.stream.image import ArrayImage

pytest.importorskip("onnxruntime")
FRAMES = 3


def imported(make: Any, folder: Path, **options: Any) -> str:
    name = make.__name__ + "".join(options)
    path = make(folder / f"{name}.onnx", **options)
    return str(import_model(ImportRequest(path, name, model_dir=folder / "models")))


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_and_video_of_semantic_segmentation(tmp_path: Path) -> None:
    clip = media.excerpt(100, FRAMES, 640, 272)
    outs = (str(tmp_path / "rows.jsonl"), str(tmp_path / "drawn.mp4"))
    run(run_settings(sources=(str(clip),), device="cpu", out=outs, model=imported(raw.semantic, tmp_path)), threading.Event())
    rows = rows_of(tmp_path / "rows.jsonl")
    assert len(rows) == FRAMES
    for row in rows:
        validate_row(row)
        assert row["detections"] == []
        assert sum(one["share"] for one in row["segments"]) == pytest.approx(1, abs=0.01)
        assert {tuple(one["mask"]["size"]) for one in row["segments"]} == {(12, 20)}
    with av.open(tmp_path / "drawn.mp4") as drawn, av.open(clip) as bare:
        pairs = zip(drawn.decode(video=0), bare.decode(video=0), strict=True)
        assert all(np.abs(a.to_ndarray(format="rgb24") * 1.0 - b.to_ndarray(format="rgb24")).mean() > 5 for a, b in pairs)


def test_pixels_of_the_background_keep_their_color() -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    segments = ClassMap(np.array([[0, 1]], np.uint8), ("background", "road"))
    drawn = Drawer("none")(image.copy(), Detections.empty(), Description(segments=segments))
    assert (drawn[:, :30] == 200).all()
    assert (drawn[:, 30:] != 200).any(axis=2).all()
    named = Drawer()(image.copy(), Detections.empty(), Description(segments=segments))
    assert (named[:, :30] != 200).any()


def test_a_secondary_model_adds_the_keypoints_of_each_detection(tmp_path: Path) -> None:
    clip = media.excerpt(100, FRAMES, 640, 272)
    outs = tuple(str(tmp_path / name) for name in ("rows.jsonl", "boxes.csv", "boxes.json", "drawn.mp4"))
    options: dict[str, Any] = {"model": imported(raw.yolov8, tmp_path), "secondary": imported(raw.simcc, tmp_path)}
    run(run_settings(sources=(str(clip),), device="cpu", out=outs, confidence=0.2, **options), threading.Event())
    found = [one for row in rows_of(tmp_path / "rows.jsonl") for one in row["detections"]]
    assert found
    points = np.array([one["keypoints"] for one in found])
    assert points.shape == (len(found), 17, 3)
    assert (points[..., 2] > 0).any()
    assert "classes" not in found[0]
    assert all(one["num_keypoints"] >= 0 for one in json.loads((tmp_path / "boxes.json").read_text())["annotations"])


class Offers:
    """Takes the crops of a secondary stage."""

    def __init__(self) -> None:
        self.crops: list[tuple[int, Frame]] = []

    def offer_all(self, stream: str, lane: str, crops: list[tuple[int, Frame]]) -> None:
        self.crops += crops


def test_keypoints_are_moved_from_their_crop_to_the_image() -> None:
    """Each crop has a margin of an eighth of the box, inside the image; a crop without a result has scores of 0."""
    boxes = np.array([[40, 40, 80, 72], [0, 0, 40, 40], [10, 20, 30, 40]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.8, 0.7], np.float32), np.zeros(3, np.int32))
    frame = Frame("s", 0, 0.0, ArrayImage(np.zeros((100, 120, 3), np.uint8)), Trace())
    offers = Offers()
    stage = SecondaryStage("s", "lane", offers, SystemClock(), KEYPOINT_MARGIN)  # type: ignore[arg-type]
    stage.put(PendingResult(frame, EchoEngine(), found))
    sizes = [crop.image.size for _, crop in offers.crops]
    assert sizes == [Size(50, 40), Size(45, 45), Size(26, 26)]
    for sequence, crop in offers.crops[:2]:
        corner = np.array([[[crop.image.size.width, crop.image.size.height, 0.5]]], np.float32)
        stage.came_back(sequence, Description(keypoints=Keypoints(corner)))
    stage.came_back(offers.crops[2][0], None)
    (done,) = stage.ready()
    assert done.detections.descriptions is None
    assert isinstance(done.detections.details, Keypoints)
    assert done.detections.details.points.tolist() == [[[85, 76, 0.5]], [[45, 45, 0.5]], [[0, 0, 0]]]


@pytest.mark.parametrize(
    ("model", "secondary", "message"),
    [
        ((raw.simcc, {}), None, r"simcc finds the keypoints of one object.*Choose it as the secondary model"),
        ((raw.yolov8, {}), (raw.semantic, {}), r"semantic is a model for 'segment'.*'classify', 'embed' or 'keypoints'"),
        ((raw.yolov8, {"more": "segment"}), (raw.simcc, {}), r"the detections of yolov8more have masks already"),
        ((raw.semantic, {}), (raw.simcc, {}), r"semantic is a model for 'segment' and has no detections"),
    ],
)
def test_models_that_do_not_fit_together_are_refused(model: Any, secondary: Any, message: str, tmp_path: Path) -> None:
    clip = media.excerpt(100, FRAMES, 640, 272)
    options: dict[str, Any] = {"model": imported(model[0], tmp_path, **model[1])}
    if secondary is not None:
        options["secondary"] = imported(secondary[0], tmp_path, **secondary[1])
    with pytest.raises(VisionInferError) as caught:
        run(run_settings(sources=(str(clip),), device="cpu", out=(str(tmp_path / "a.jsonl"),), **options), threading.Event())
    assert re.search(message, f"{caught.value.message}. {caught.value.hint}"), str(caught.value)
