"""Models with keypoints, masks and rotated boxes, from the import to rows, annotated video and Python."""

from __future__ import annotations

import csv
import json
import threading
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest

from tests.support import media
from tests.support import raw_networks as raw
from tests.support.result_schema import validate_row
from vision_infer import Detector
from vision_infer.config.run import run_settings
from vision_infer.core.details import Keypoints, Masks, RotatedBoxes
from vision_infer.model.importing import ImportRequest, Proposal, import_model
from vision_infer.model.network import ScoreKind
from vision_infer.pipeline.runs.offline import run
from vision_infer.precision.verification.import_check import verify_import

pytest.importorskip("onnxruntime")
FRAMES = 3
FIELDS = {"pose": "keypoints", "segment": "mask", "obb": "box_rotated", "queries": "mask", "chosen": "box_rotated"}
Kind = Literal["pose", "segment", "obb", "queries", "chosen"]
KINDS = pytest.mark.parametrize("kind", list(FIELDS))


def imported(kind: Kind, folder: Path) -> Path:
    file = folder / "raw.onnx"
    if kind == "queries":
        raw.detr(file, masks=60)
    elif kind == "chosen":
        raw.yolov8(file, more="obb", chosen=True)
    else:
        raw.yolov8(file, more=kind)
    scores: ScoreKind | None = "sigmoid" if kind == "queries" else None
    request = ImportRequest(file, kind, model_dir=folder / "models", candidates=40, scores=scores)

    def verify(proposal: Proposal) -> None:
        verify_import(proposal)

    return import_model(request, verify=verify)


@KINDS
def test_rows_and_video_of_a_clip(kind: Kind, tmp_path: Path) -> None:
    clip = media.excerpt(100, FRAMES, 640, 272)
    model = str(imported(kind, tmp_path))
    outs = tuple(str(tmp_path / name) for name in ("rows.jsonl", "boxes.csv", "boxes.json", "drawn.mp4"))
    run(run_settings(sources=(str(clip),), device="cpu", out=outs, model=model), threading.Event())
    rows: list[dict[str, Any]] = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == FRAMES
    for row in rows:
        validate_row(row)
        assert len(row["detections"]) > 0
        assert all(FIELDS[kind] in one for one in row["detections"])
    with (tmp_path / "boxes.csv").open(encoding="utf-8", newline="") as file:
        cells = [json.loads(line[FIELDS[kind]]) for line in csv.DictReader(file)]
    assert cells == [one[FIELDS[kind]] for row in rows for one in row["detections"]]
    field = "keypoints" if kind == "pose" else "segmentation"
    assert all(one[field] for one in json.loads((tmp_path / "boxes.json").read_text())["annotations"])
    with av.open(tmp_path / "drawn.mp4") as drawn, av.open(clip) as bare:
        pairs = zip(drawn.decode(video=0), bare.decode(video=0), strict=True)
        assert all(np.abs(a.to_ndarray(format="rgb24") * 1.0 - b.to_ndarray(format="rgb24")).mean() > 1 for a, b in pairs)


@KINDS
def test_a_detector_returns_details(kind: Kind, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8)
    with Detector(str(imported(kind, tmp_path)), device="cpu") as detect:
        (found,) = detect([image])
    kinds: dict[str, type] = {"keypoints": Keypoints, "mask": Masks, "box_rotated": RotatedBoxes}
    assert found.details is not None
    assert isinstance(found.details, kinds[FIELDS[kind]])
    assert len(found.details) == len(found) > 0
    assert getattr(found[0], FIELDS[kind]) is not None
    assert (found.draw(image) != image).any()
    if isinstance(found.details, Keypoints):
        assert found.details.layout is not None
        assert found.details.layout.names[0] == "nose"


@pytest.mark.parametrize("kind", ["pose", "segment", "obb"])
def test_tracks_and_small_video_keep_the_details(kind: Kind, tmp_path: Path) -> None:
    clip = media.excerpt(100, 12, 640, 272)
    outs = (str(tmp_path / "rows.jsonl"), str(tmp_path / "drawn.mp4"))
    options: dict[str, Any] = {"track": True, "preview_size": 136, "min_size": 12}
    run(
        run_settings(sources=(str(clip),), device="cpu", out=outs, model=str(imported(kind, tmp_path)), **options),
        threading.Event(),
    )
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    found = [one for row in rows for one in row["detections"]]
    assert found
    assert all(one["track_id"] and FIELDS[kind] in one for one in found)
    with av.open(tmp_path / "drawn.mp4") as drawn:
        assert [frame.height for frame in drawn.decode(video=0)] == [136] * 12
