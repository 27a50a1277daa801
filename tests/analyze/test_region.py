"""Polygons compared with OpenCV, and the results of a filter."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vision_infer.analyze.region import Filter, Polygons
from vision_infer.config.region import Region
from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Size

# A coarse grid: corners, edges, and points on the height of a corner are common, and every product is exact.
GRID = st.integers(-2, 14).map(lambda step: step / 2)
POINT = st.tuples(GRID, GRID)
POLYGON = st.lists(POINT, min_size=3, max_size=9)
USUAL = Size(100, 50)
SQUARE = ((10.0, 10.0), (30.0, 10.0), (30.0, 30.0), (10.0, 30.0))


def opencv_says(polygons: list[list[tuple[float, float]]], point: tuple[float, float]) -> bool:
    return any(cv2.pointPolygonTest(np.array(polygon, np.float32)[:, None], point, False) >= 0 for polygon in polygons)


@given(st.lists(POLYGON, min_size=1, max_size=3), st.lists(POINT, max_size=12))
def test_the_result_inside_polygons_equals_opencv(
    polygons: list[list[tuple[float, float]]], points: list[tuple[float, float]]
) -> None:
    found = Polygons([np.array(polygon) for polygon in polygons]).contain(np.array(points).reshape(-1, 2))
    assert found.dtype == np.bool_
    assert found.tolist() == [opencv_says(polygons, point) for point in points]


@given(st.integers(0, 2**32 - 1), st.integers(3, 60))
def test_the_result_equals_opencv_for_any_point(seed: int, corners: int) -> None:
    random = np.random.default_rng(seed)
    polygon, points = (
        random.uniform(0, 4000, (corners, 2)).astype(np.float32),
        random.uniform(0, 4000, (50, 2)).astype(np.float32),
    )
    found = Polygons([polygon.astype(np.float64)]).contain(points)
    expected = [cv2.pointPolygonTest(polygon[:, None], tuple(map(float, point)), False) >= 0 for point in points]
    assert found.tolist() == expected


def test_polygons_must_have_corners() -> None:
    for wrong in ([], [np.zeros((2, 2))], [np.zeros((4, 3))]):
        with pytest.raises(ValueError, match="3 or more"):
            Polygons(wrong)


def found(*boxes: tuple[float, float, float, float]) -> Detections:
    rows: NDArray[np.float32] = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(rows, np.linspace(0.9, 0.5, len(rows), dtype=np.float32), np.arange(len(rows), dtype=np.int32))


def kept(region: Region | None, *boxes: tuple[float, float, float, float], min_size: float = 0, size: Size = USUAL) -> list[int]:
    return [int(number) for number in Filter(min_size, region)(found(*boxes), size).class_ids]


def test_both_sides_of_a_box_must_have_the_minimum_size() -> None:
    boxes = [(0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 9.5, 40.0), (0.0, 0.0, 40.0, 9.5), (5.0, 5.0, 30.0, 15.0)]
    assert kept(None, *boxes, min_size=10) == [0, 3]
    assert kept(None, *boxes) == [0, 1, 2, 3]


def test_a_box_counts_by_its_lower_edge_or_its_center() -> None:
    standing, hanging = (15.0, 0.0, 25.0, 20.0), (15.0, 20.0, 25.0, 50.0)  # centers at y = 10 and 35
    assert kept(Region(look=(SQUARE,)), standing, hanging) == [0]
    assert kept(Region(look=(((10, 32), (30, 32), (30, 40), (10, 40)),), anchor="center"), standing, hanging) == [1]


def test_ignored_areas_apply_inside_the_region_too() -> None:
    boxes = [(12.0, 0.0, 14.0, 15.0), (20.0, 0.0, 22.0, 15.0), (50.0, 0.0, 52.0, 15.0)]
    hole = ((18.0, 12.0), (25.0, 12.0), (25.0, 20.0), (18.0, 20.0))
    assert kept(Region(look=(SQUARE,), ignore=(hole,)), *boxes) == [0]
    assert kept(Region(ignore=(hole,)), *boxes) == [0, 2]
    assert kept(Region(look=(SQUARE, ((45, 10), (60, 10), (60, 30)))), *boxes) == [0, 1, 2]


def test_relative_points_follow_the_size_of_each_image() -> None:
    region = Region(units="relative", look=(((0, 0.5), (0.5, 0.5), (0.5, 1), (0, 1)),))
    boxes = [(10.0, 10.0, 20.0, 50.0), (70.0, 10.0, 90.0, 50.0)]  # the lower edge of an image of height 50 is still inside
    assert kept(region, *boxes) == [0]
    assert kept(region, *boxes, size=Size(200, 100)) == [0, 1]
    keep = Filter(0, region)
    for side in range(100, 300):  # more sizes than the cache holds
        assert keep(found(*boxes), Size(2 * side, side // 2 * 2)).class_ids.tolist()[:1] in ([0], [])
    assert keep(found(*boxes), Size(100, 50)).class_ids.tolist() == [0]


def test_nothing_is_copied_if_nothing_is_dropped() -> None:
    given_in = found((12, 0, 14, 15))
    assert Filter(0, Region(look=(SQUARE,)))(given_in, Size(100, 50)) is given_in
    nothing = Detections.empty()
    assert Filter(5, Region(look=(SQUARE,)))(nothing, Size(100, 50)) is nothing
