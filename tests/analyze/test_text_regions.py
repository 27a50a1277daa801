"""Rotated boxes of the regions in a map of probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vision_infer.analyze.rotated import boxes_of_maps
from vision_infer.analyze.select import Selector, select
from vision_infer.core.details import RotatedBoxes
from vision_infer.core.geometry import Size, letterbox

SIZE = Size(320, 240)


def plane(*boxes: tuple[float, float, float, float, float, float], stride: int = 1) -> NDArray[np.uint8]:
    """A map with rectangles: center x and y, width, height, angle in radians, in input pixels; and the probability."""
    rows, columns = (np.mgrid[0 : SIZE.height // stride, 0 : SIZE.width // stride] + 0.5) * stride
    found = np.zeros(rows.shape)
    for x, y, width, height, angle, probability in boxes:
        along = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
        across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
        found[(np.abs(along) < width / 2) & (np.abs(across) < height / 2)] = probability
    return np.asarray(np.rint(found * 255), np.uint8)


@pytest.mark.parametrize("degrees", [-80, -45, -10, 0, 20, 60, 89])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_region_becomes_its_rectangle_grown_by_area_over_outline(degrees: int, stride: int) -> None:
    box = (150.0, 110.0, 120.0, 30.0, np.radians(degrees), 0.8)
    found = boxes_of_maps(plane(box, stride=stride)[None], SIZE, 1.5)
    assert found["scores"][0] == pytest.approx([0.8], abs=0.01)
    x, y, width, height, angle = found["rotated_boxes"][0, 0]
    further = 2 * 1.5 * 120 * 30 / (2 * 150)
    assert (x, y) == pytest.approx((150, 110), abs=stride)
    assert (width, height) == pytest.approx((120 + further, 30 + further), abs=3 * stride)
    assert np.abs(np.sin(angle - box[4])) < 0.03  # half a turn is the same rectangle
    corners = RotatedBoxes(found["rotated_boxes"][0]).corners()[0]
    assert found["boxes"][0, 0] == pytest.approx([*corners.min(axis=0), *corners.max(axis=0)], abs=0.01)


def test_images_of_a_batch_have_their_own_regions() -> None:
    first, second = (60.0, 60.0, 80.0, 20.0, 0.0, 0.9), (200.0, 150.0, 90.0, 24.0, 0.3, 0.7)
    weak, tiny = (250.0, 60.0, 60.0, 20.0, 0.0, 0.2), (20.0, 200.0, 2.0, 2.0, 0.0, 0.9)
    maps = np.stack([plane(first, second, weak, tiny), plane(), plane(second)])
    boxes = [letterbox(Size(640, 480), SIZE, "center", (0, 0, 0))] * 3
    found = select({"probabilities": maps}, boxes, Selector(0.5, 0.5, label_names=("text",), unclip=1.0))
    assert [len(one) for one in found] == [2, 0, 1]
    assert found[0].scores == pytest.approx([0.9, 0.7], abs=0.01)
    assert isinstance(found[2].details, RotatedBoxes)
    assert found[2].details.values[0, :2] == pytest.approx([400, 300], abs=2)  # in pixels of the image, which is twice as large
    # A slot without an image, with which an engine with fixed batch sizes pads, is not looked at.
    assert len(select({"probabilities": maps}, boxes[:1], Selector(0.5, 0.5))) == 1


def test_noise_gives_a_bounded_number_of_regions() -> None:
    noise = np.kron(np.ones((40, 500)), np.pad(np.ones((5, 5)), ((0, 1), (0, 1)))).astype(np.uint8) * 255
    assert boxes_of_maps(noise[None], Size(3000, 240), 1.5)["scores"].shape == (1, 1000)
