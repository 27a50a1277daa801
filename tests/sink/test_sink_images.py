"""Annotated still images: one for each source image, and no existing image is replaced by accident."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.sink.results import found, frame, result_of
from tests.support.media import numbered
from vision_infer.analyze.draw import Drawer
from vision_infer.core.errors import OutputError
from vision_infer.sink.files.images import ImagesSink
from vision_infer.sink.sink import OutputSpec
from vision_infer.stream.files.images import read_image


def sink_to(path: Path, overwrite: bool = False) -> ImagesSink:
    return ImagesSink(OutputSpec("images", str(path), overwrite), Drawer())


def test_an_image_with_boxes(tmp_path: Path) -> None:
    path = tmp_path / "out" / "a.jpg"
    sink = sink_to(path)
    assert sink.needs_images
    plain = numbered(3, 160, 120)
    one = frame(0, None, plain.copy())
    sink.write(one, result_of(one, found(1, (20, 30, 140, 110))))
    sink.close(True)
    seen = read_image(str(path))
    assert seen.shape == plain.shape
    changed = np.abs(seen.astype(int) - plain.astype(int)).max(axis=2) > 60
    assert changed[30, 25:135].mean() > 0.8  # the upper edge of the box
    assert changed[110, 25:135].mean() > 0.8
    assert not changed[80:100, 60:100].any()  # inside of it
    assert [entry.name for entry in path.parent.iterdir()] == ["a.jpg"]


def test_an_image_without_inference_is_written_unchanged(tmp_path: Path) -> None:
    sink = sink_to(tmp_path / "a.jpg")
    plain = numbered(3, 160, 120)
    sink.write(frame(0, None, plain.copy()), None)
    seen = read_image(str(tmp_path / "a.jpg"))
    assert np.abs(seen.astype(int) - plain.astype(int)).mean() < 6


def test_a_folder_keeps_every_image(tmp_path: Path) -> None:
    """a.jpg and a.png are two images, though both become JPEGs."""
    folder = tmp_path / "out"
    sink = sink_to(folder)
    sizes = {"a.jpg": 40, "a.png": 48, "b.png": 56}
    for index, (name, width) in enumerate(sizes.items()):
        one = frame(index, None, numbered(index, width, 30), file=name)
        sink.write(one, result_of(one))
    sink.close(True)
    widths = {entry.name: read_image(str(entry)).shape[1] for entry in folder.iterdir()}
    assert widths == {"a.jpg": 40, "a.png.jpg": 48, "b.jpg": 56}


def test_existing_files_are_replaced_only_with_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("older")
    with pytest.raises(OutputError, match="exists already"):
        sink_to(path).write(frame(), None)
    assert path.read_text() == "older"
    sink_to(path, overwrite=True).write(frame(), None)
    assert cv2.imread(str(path)) is not None


def test_places_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file" / "a.jpg", Path("/proc/a.jpg")):
        with pytest.raises(OutputError) as caught:
            sink_to(place).write(frame(), None)
        assert str(place) in caught.value.message
