"""Letterbox: the content is inside the input, keeps its aspect ratio, and boxes are mapped back exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vision_infer.core.geometry import Fit, Letterbox, Size, letterbox

SIDE = st.one_of(st.integers(1, 8192), st.integers(1, 20), st.sampled_from([416, 640, 1080, 1920, 4096, 8192]))
SIZES = st.builds(Size, SIDE, SIDE)
FITS: tuple[Fit, ...] = ("center", "top_left", "stretch")
FIT = st.sampled_from(FITS)
FILL = (114, 114, 114)
EDGE = st.floats(-0.5, 1.5)
BOXES = st.lists(st.tuples(EDGE, EDGE, EDGE, EDGE), min_size=1, max_size=8)


def to_input(box: Letterbox, boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Map boxes from source pixels to input pixels: float64 [N, 4] xyxy, the inverse of ``to_source``."""
    scale = np.array([box.content.width / box.source.width, box.content.height / box.source.height] * 2)
    return np.asarray(boxes.astype(np.float64) * scale + np.array([box.x, box.y] * 2), np.float64)


def scaled(fractions: list[tuple[float, float, float, float]], size: Size) -> NDArray[np.float64]:
    """Return boxes with edges as fractions of a width and a height; they may be outside, or have negative sides."""
    return np.array(fractions) * [size.width, size.height, size.width, size.height]


def rounded(boxes: NDArray[np.float64], single: bool) -> NDArray[np.float32] | NDArray[np.float64]:
    return boxes.astype(np.float32) if single else boxes


@given(SIZES, SIZES, FIT, BOXES, st.booleans())
def test_boxes_are_mapped_back_to_their_position(
    source: Size, target: Size, fit: Fit, fractions: list[tuple[float, float, float, float]], single: bool
) -> None:
    box = letterbox(source, target, fit, FILL)
    there = rounded(scaled(fractions, source), single)
    np.testing.assert_allclose(box.to_source(to_input(box, there)), there, rtol=0, atol=1e-3)
    back = rounded(scaled(fractions, target), single)
    np.testing.assert_allclose(to_input(box, box.to_source(back)), back, rtol=0, atol=1e-3)
    assert box.to_source(there).dtype == to_input(box, there).dtype == np.float64


@given(SIZES, SIZES, FIT)
def test_the_whole_image_maps_onto_the_content(source: Size, target: Size, fit: Fit) -> None:
    box = letterbox(source, target, fit, FILL)
    whole = np.array([[0.0, 0.0, source.width, source.height]])
    content = [box.x, box.y, box.x + box.content.width, box.y + box.content.height]
    np.testing.assert_allclose(to_input(box, whole), [content], rtol=0, atol=1e-6)


@given(SIZES, SIZES, FIT)
def test_the_content_is_inside_the_input_and_touches_it(source: Size, target: Size, fit: Fit) -> None:
    box = letterbox(source, target, fit, FILL)
    assert box.x >= 0
    assert box.y >= 0
    assert box.x + box.content.width <= target.width
    assert box.y + box.content.height <= target.height
    assert box.content.width == target.width or box.content.height == target.height


@given(SIZES, SIZES, st.sampled_from(FITS[:2]))
def test_the_aspect_ratio_is_kept_to_a_pixel(source: Size, target: Size, fit: Fit) -> None:
    box = letterbox(source, target, fit, FILL)
    scale = min(target.width / source.width, target.height / source.height)
    for side, full in ((box.content.width, source.width), (box.content.height, source.height)):
        assert side == 1 or abs(side - full * scale) <= 0.5 + 1e-6
    if fit == "top_left":
        assert (box.x, box.y) == (0, 0)
    else:
        right, below = target.width - box.content.width - box.x, target.height - box.content.height - box.y
        assert right - box.x in (0, 1)
        assert below - box.y in (0, 1)


@given(SIZES, SIZES)
def test_stretch_fills_the_input(source: Size, target: Size) -> None:
    assert letterbox(source, target, "stretch", FILL) == Letterbox(source, target, 0, 0, target, FILL)


def test_a_typical_image() -> None:
    box = letterbox(Size(1920, 1080), Size(640, 640), "center", FILL)
    assert (box.x, box.y, str(box.content), box.fill) == (0, 140, "640x360", FILL)
    assert box.to_source(np.array([[0, 140, 640, 500]], np.float32)).tolist() == [[0, 0, 1920, 1080]]
    assert box.to_source(np.zeros((0, 4), np.float32)).shape == (0, 4)


@pytest.mark.parametrize(("width", "height"), [(0, 1), (1, 0), (-3, 5)])
def test_a_size_is_at_least_one_pixel(width: int, height: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1x1, got {width}x{height}"):
        Size(width, height)


@given(SIZES, SIZES, FIT, BOXES)
def test_few_boxes_and_many_are_clipped_alike(source: Size, target: Size, fit: Fit, fractions: list[Any]) -> None:
    box = letterbox(source, target, fit, FILL)
    boxes = scaled(fractions, target).astype(np.float32)
    many = np.tile(boxes, (17, 1))
    clipped = box.to_source_clipped(boxes)
    np.testing.assert_array_equal(np.tile(clipped, (17, 1)), box.to_source_clipped(many))
    assert clipped.dtype == np.float32
    assert clipped.shape == boxes.shape
    assert box.to_source_clipped(np.zeros((0, 4), np.float32)).shape == (0, 4)
    assert not np.signbit(clipped).any()
