"""Crops of detections: the right pixels under safe names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.sink.results import found, frame, result_of
from vision_infer.core.detections import Detections
from vision_infer.core.errors import OutputError
from vision_infer.sink.files.crops import CropsSink, crops_folder, safe_name
from vision_infer.sink.sink import OutputSpec, Written
from vision_infer.stream.files.images import read_image


def detections(*boxes: tuple[float, float, float, float], labels: tuple[str, ...] = ("person",)) -> Detections:
    count = len(boxes)
    classes = np.arange(count, dtype=np.int32) % len(labels)
    return Detections(np.array(boxes, np.float32), np.full(count, 0.5, np.float32), classes, labels)


def sink_to(folder: Path, stream: str = "clip", overwrite: bool = False) -> CropsSink:
    return CropsSink(OutputSpec("crops", str(folder), overwrite), stream)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_crops_have_the_pixels_of_the_full_image(tmp_path: Path) -> None:
    rgb = np.full((200, 300, 3), 40, np.uint8)
    rgb[50:90, 100:180] = (200, 30, 60)
    rgb[150:, 250:] = (30, 60, 200)
    sink = sink_to(tmp_path)
    assert sink.needs_images
    one = frame(12, 0.5, rgb)
    boxes = detections((100.4, 50.6, 179.5, 89.9), (250, 150, 999, 999), labels=("person", "car"))
    sink.write(one, result_of(one, boxes))
    sink.write(frame(13), None)
    sink.close(True)
    assert names(tmp_path) == ["clip/car/clip_000012_001.jpg", "clip/person/clip_000012_000.jpg"]
    person = read_image(str(tmp_path / "clip/person/clip_000012_000.jpg"))
    assert person.shape == (40, 80, 3)
    assert np.abs(person.astype(int) - (200, 30, 60)).mean() < 6
    assert read_image(str(tmp_path / "clip/car/clip_000012_001.jpg")).shape == (50, 50, 3)  # clipped to the image
    assert sink.outputs == [Written(str(tmp_path / "clip"))]


@pytest.mark.parametrize(
    "box",
    [
        (-50, -50, -10, -10),
        (96, 10, 99, 20),
        (10, 64, 20, 70),
        (20, 20, 10, 30),
        (float("nan"), 0, 9, 9),
        (0, 0, float("inf"), 9),
    ],
)
def test_a_box_outside_the_image_gives_no_file(tmp_path: Path, box: tuple[float, float, float, float]) -> None:
    sink = sink_to(tmp_path)
    sink.write(frame(), result_of(frame(), detections(box)))
    assert names(tmp_path) == []
    assert sink.outputs == []


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "a/b",
        "a\\b",
        "..",
        ".",
        "",
        ".hidden",
        "tab\tand\nline",
        "nul\0",
        "c:d",
        "x" * 300,
        "ü" * 200,
        "half \udcff",
        "ends with.",
        " ",
    ],
)
def test_every_name_stays_inside_the_folder_and_is_valid(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "crops"
    sink = sink_to(folder, stream=name)
    one = frame()
    sink.write(one, result_of(one, detections((1, 1, 9, 9), labels=(name,))))
    (path,) = names(folder)
    assert len(path.split("/")) == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["crops"]
    assert not any(part.startswith(".") for part in path.split("/"))


def test_different_names_stay_different_and_valid_ones_unchanged() -> None:
    assert [safe_name(name) for name in ("person", "überholt", "traffic light", "cam-1")] == [
        "person",
        "überholt",
        "traffic light",
        "cam-1",
    ]
    odd = ["a/b", "a:b", "a_b", "a\\b", "x" * 100, "x" * 101]
    assert len({safe_name(name) for name in odd}) == len(odd)
    assert crops_folder("out", "a/b").parent == Path("out")


def test_existing_files_are_replaced_only_with_overwrite(tmp_path: Path) -> None:
    one = frame()
    for _ in range(2):
        sink_to(tmp_path, overwrite=True).write(one, result_of(one, found(1)))
    with pytest.raises(OutputError, match="exists already"):
        sink_to(tmp_path).write(one, result_of(one, found(1)))
