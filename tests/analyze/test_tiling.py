"""Tiles: they cover the image, and the detections of all tiles are joined to one for each object."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vision_infer.analyze.tiling import REGION_MARGIN, Tiling, join_tiles
from vision_infer.config.region import Region
from vision_infer.config.stream_policy import MAX_TILES, TileSettings
from vision_infer.core.details import Details, Keypoints, Masks, RotatedBoxes
from vision_infer.core.detections import Detections
from vision_infer.core.errors import UsageError
from vision_infer.core.geometry import Size, Tile

IMAGE = Size(3840, 2160)


def tiles_of(settings: Any, image: Size = IMAGE) -> tuple[Tile, ...]:
    return Tiling(TileSettings.model_validate(settings), None).of(image)


def found(boxes: Any, scores: Any = None, class_ids: Any = None, details: Details | None = None) -> Detections:
    array = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(
        array,
        np.full(len(array), 0.9, np.float32) if scores is None else np.array(scores, np.float32),
        np.zeros(len(array), np.int32) if class_ids is None else np.array(class_ids, np.int32),
        ("car", "truck", "person"),
        details=details,
    )


def seen_in(objects: NDArray[np.float64], tile: Tile, jitter: NDArray[np.float64]) -> Detections:
    """Return what a perfect detector finds in a tile: the visible part of each object, unless it is a sliver."""
    edges = np.array([tile.left, tile.top, tile.right, tile.bottom])
    parts = np.concatenate([np.maximum(objects[:, :2], edges[:2]), np.minimum(objects[:, 2:], edges[2:])], axis=1)
    cut = parts != objects
    parts = np.where(cut, parts, parts + jitter)  # the edges inside the tile are not found exactly
    kept = ((parts[:, 2:] - parts[:, :2]) >= 8).all(axis=1)
    return found(np.clip(parts[kept] - edges[[0, 1, 0, 1]], 0, [tile.size.width, tile.size.height] * 2))


@given(
    st.integers(64, 4000),
    st.integers(64, 3000),
    st.one_of(st.integers(32, 1500), st.tuples(st.integers(1, 8), st.integers(1, 8))),
    st.floats(0, 0.5),
    st.booleans(),
)
def test_tiles_cover_the_image_with_the_wanted_overlap(
    width: int, height: int, kind: int | tuple[int, int], overlap: float, whole: bool
) -> None:
    image = Size(width, height)
    values: dict[str, Any] = {"size": kind} if isinstance(kind, int) else {"rows": kind[0], "columns": kind[1]}
    assume(isinstance(kind, int) or 2 <= kind[0] * kind[1] + whole <= MAX_TILES)
    given_settings = {**values, "overlap": overlap, "whole": whole}
    larger = isinstance(kind, int) and kind > max(width, height)
    per_side = (
        [1 + max(0, -(-(side - kind) // (kind * (1 - overlap)))) for side in (width, height)] if isinstance(kind, int) else []
    )
    if larger or (per_side and per_side[0] * per_side[1] + whole > MAX_TILES):
        with pytest.raises(UsageError, match="larger than the image" if larger else f"the maximum is {MAX_TILES}"):
            tiles_of(given_settings, image)
        return
    tiles = tiles_of(given_settings, image)
    assert len(tiles) <= MAX_TILES
    if not tiles:
        return
    *parts, last = tiles
    if whole:
        assert last == Tile(0, 0, image)
    else:
        parts.append(last)
    if not isinstance(kind, int):
        assert len(parts) == kind[0] * kind[1]
    columns = sorted({(tile.left, tile.right) for tile in parts})
    rows = sorted({(tile.top, tile.bottom) for tile in parts})
    assert len(columns) * len(rows) == len(parts)
    for spans, length in ((columns, width), (rows, height)):
        assert (spans[0][0], spans[-1][1]) == (0, length)
        assert all(begin % 2 == 0 for begin, _ in spans)
        for (_, stop), (begin, end) in pairwise(spans):
            assert stop - begin >= overlap * (end - begin) - 3, "rounded to even pixels"


def test_4k_video_needs_32_tiles_of_640_pixels() -> None:
    tiles = tiles_of(640)
    assert len(tiles) == 32
    assert {tile.size for tile in tiles} == {Size(640, 640)}
    assert tiles_of("2x3") == tiles_of({"rows": 2, "columns": 3, "overlap": 0.2})
    assert tiles_of("640,overlap=0.1,whole", Size(1280, 640))[-1] == Tile(0, 0, Size(1280, 640))


def test_an_image_that_is_one_tile_is_inferred_as_it_is() -> None:
    assert tiles_of(640, Size(640, 480)) == ()
    assert tiles_of({"size": 640, "whole": True}, Size(500, 640)) == ()


@pytest.mark.parametrize(
    ("given_settings", "problem"),
    [
        ({}, "either size, or rows and columns"),
        ({"rows": 2}, "either size, or rows and columns"),
        ({"size": 640, "rows": 2, "columns": 2}, "either size, or rows and columns"),
        ({"rows": 9, "columns": 8}, "2 to 64 tiles, got 9 x 8"),
        ({"rows": 1, "columns": 1}, "2 to 64 tiles, got 1 x 1"),
        ({"size": 640, "overlap": 0.51}, "less than or equal to 0.5"),
        ({"size": 640, "overlap": -0.1}, "greater than or equal to 0"),
        ({"size": 16}, "greater than or equal to 32"),
        ("640x", "not SIZE or ROWSxCOLUMNS"),
        ("640,overlap=0.6", "less than or equal to 0.5"),
    ],
)
def test_bad_tiles_are_refused(given_settings: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        TileSettings.model_validate(given_settings)


def test_tiles_that_do_not_fit_the_image_are_refused_with_figures() -> None:
    with pytest.raises(UsageError, match="tiles of 640 pixels are larger than the image, 320x240"):
        tiles_of(640, Size(320, 240))
    with pytest.raises(
        UsageError, match=r"tiles of 320 pixels with an overlap of 0\.2 are 135 for the image, 3840x2160; the maximum is 64"
    ):
        tiles_of(320)


def test_an_object_in_the_overlap_is_reported_once() -> None:
    tiles = tiles_of(640)
    left, right = tiles[0], tiles[1]
    objects = np.array([[500.0, 100, 560, 220]])
    parts = [seen_in(objects, tile, np.zeros((1, 4))) for tile in (left, right)]
    assert [len(part) for part in parts] == [1, 1]
    assert join_tiles(parts, (left, right), IMAGE, {}).boxes.tolist() == objects.tolist()


@pytest.mark.parametrize("whole_score", [0.9, 0.3])
def test_the_box_of_an_object_that_is_cut_in_one_tile_is_that_of_the_other(whole_score: float) -> None:
    left, right = tiles_of(640)[:2]
    whole = found([[500 - right.left, 100, 700 - right.left, 300]], [whole_score])
    part = found([[500, 100, 640, 300]], [0.6], [1])
    joined = join_tiles([part, whole], (left, right), IMAGE, {0: 0, 1: 0})
    assert joined.boxes.tolist() == [[500, 100, 700, 300]]
    assert joined.scores.tolist() == pytest.approx([max(whole_score, 0.6)])
    assert joined.labels == ["car" if whole_score > 0.6 else "truck"], "the class is that of the best score"


def test_an_object_larger_than_the_overlap_is_joined_from_its_parts() -> None:
    tiles = tiles_of(640)
    objects = np.array([[300.0, 300, 1700, 900]])
    parts = [seen_in(objects, tile, np.zeros((1, 4))) for tile in tiles]
    assert sum(map(len, parts)) >= 6
    assert join_tiles(parts, tiles, IMAGE, {}).boxes.tolist() == objects.tolist()


def test_the_whole_frame_finds_objects_that_are_cut_everywhere() -> None:
    tiles = tiles_of("640,whole")
    objects = np.array([[300.0, 300, 1700, 900]])
    parts = [seen_in(objects, tile, np.zeros((1, 4))) for tile in tiles]
    parts[-1] = found([[305, 296, 1704, 898]], [0.7])
    assert join_tiles(parts, tiles, IMAGE, {}).boxes.tolist() == [[305, 296, 1704, 898]]


def test_different_objects_in_the_overlap_are_not_joined() -> None:
    left, right = tiles_of(640)[:2]
    person = found([[540, 100, 580, 240]], class_ids=[2])
    car = found([[540 - right.left, 100, 580 - right.left, 240]], class_ids=[0])
    assert len(join_tiles([person, car], (left, right), IMAGE, {})) == 2
    assert len(join_tiles([person, car], (left, right), IMAGE, None)) == 1, "NMS is agnostic"
    # A small object in front of a large one that is cut: only parts of the same extent are joined.
    small, large = found([[520, 200, 600, 260]]), found([[470 - right.left, 100, 600, 500]])
    assert len(join_tiles([small, large], (left, right), IMAGE, {})) == 2


def test_neighbors_in_one_tile_stay_apart() -> None:
    """Two objects side by side that overlap: each tile finds both, and each is one object."""
    left, right = tiles_of(640)[:2]
    objects = np.array([[500.0, 100, 560, 220], [520, 100, 580, 220]])
    parts = [seen_in(objects, tile, np.zeros((2, 4))) for tile in (left, right)]
    assert sorted(join_tiles(parts, (left, right), IMAGE, {}).boxes.tolist()) == objects.tolist()


@settings(max_examples=40)
@given(st.data(), st.sampled_from([640, "2x3", "3x3,overlap=0.1", "960,whole"]), st.integers(0, 2**32 - 1))
def test_each_object_is_reported_exactly_once(data: st.DataObject, kind: Any, seed: int) -> None:
    """Objects on a grid that do not overlap, some larger than a tile's overlap."""
    chance = np.random.default_rng(seed)
    tiles = tiles_of(kind)
    columns, rows = data.draw(st.integers(2, 14)), data.draw(st.integers(2, 8))
    cell = np.array([IMAGE.width / columns, IMAGE.height / rows])
    corner = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2) * cell
    size = chance.uniform(24, np.minimum(cell * 0.8, 700), (len(corner), 2))
    low = np.round(corner + chance.uniform(0, 1, (len(corner), 2)) * (cell - size))
    objects = np.concatenate([low, low + np.round(size)], axis=1)
    parts = [seen_in(objects, tile, chance.uniform(-2, 2, objects.shape)) for tile in tiles]
    joined = join_tiles(parts, tiles, IMAGE, {})
    assert (np.diff(joined.scores) <= 0).all()
    assert len(joined) == len(objects)
    near = np.abs(joined.boxes[:, None] - objects[None]).max(axis=2) <= 12  # an edge near that of a tile may be a cut
    assert (near.sum(axis=0) == 1).all()


def test_details_are_those_of_the_box_in_pixels_of_the_image() -> None:
    left, right = tiles_of(640)[:2]
    x = right.left
    box, cut = [[600, 100, 700, 200]], [[600, 100, 640, 200]]
    moved = [[600 - x, 100, 700 - x, 200]]
    shift = np.array([x, 0, 0], np.float32)
    points = np.array([[[650, 150, 0.9]]], np.float32)
    keypoints = join_tiles(
        [found(cut, details=Keypoints(points)), found(moved, details=Keypoints(points - shift))],
        (left, right),
        IMAGE,
        {},
    )
    assert keypoints.boxes.tolist() == box
    assert isinstance(keypoints.details, Keypoints)
    assert keypoints.details.points.tolist() == points.tolist()
    rotated = np.array([[650, 150, 100, 80, 0.5]], np.float32)
    joined = join_tiles(
        [found([]), found(moved, details=RotatedBoxes(rotated - np.array([x, 0, 0, 0, 0], np.float32)))], (left, right), IMAGE, {}
    ).details
    assert isinstance(joined, RotatedBoxes)
    assert joined.values.tolist() == rotated.tolist()
    logits = (np.ones((4, 4), np.float32),)
    place = np.array(moved, np.float64)
    masks = join_tiles(
        [found([]), found(moved, details=Masks(right.size, place.astype(np.float32), place, logits))], (left, right), IMAGE, {}
    ).details
    assert isinstance(masks, Masks)
    patch = masks.patch(0)
    assert (patch.left, patch.top, patch.inside.shape) == (600, 100, (100, 100))
    assert masks.size == IMAGE


def test_a_cut_object_with_details_keeps_the_box_of_its_largest_part() -> None:
    left, right = tiles_of(640)[:2]
    parts = [
        found([[100, 100, 640, 300]], details=Keypoints(np.zeros((1, 1, 3), np.float32))),
        found([[0, 100, 640, 300]], details=Keypoints(np.ones((1, 1, 3), np.float32))),
    ]
    joined = join_tiles(parts, (left, right), IMAGE, {})
    assert joined.boxes.tolist() == [[right.left, 100, right.right, 300]]
    assert isinstance(joined.details, Keypoints)
    assert joined.details.points[0, 0].tolist() == [right.left + 1, 1, 1]


def test_nothing_found_in_any_tile_is_nothing() -> None:
    tiles = tiles_of("2x2")
    joined = join_tiles([Detections.empty(("car",))] * 4, tiles, IMAGE, {})
    assert len(joined) == 0
    assert joined.label_names == ("car",)


def test_a_region_is_cropped_with_a_margin() -> None:
    region = Region(units="pixels", look=((((1000, 500)), (1400, 500), (1200, 900)),))
    (tile,) = Tiling(None, region).of(IMAGE)
    margin = int(400 * REGION_MARGIN)
    assert tile == Tile(1000 - margin, 500 - margin, Size(400 + 2 * margin, 400 + 2 * margin))
    relative = Region(units="relative", look=(((0.0, 0.5), (0.25, 0.5), (0.25, 1.0)),))
    (corner,) = Tiling(None, relative).of(IMAGE)
    assert (corner.left, corner.bottom) == (0, IMAGE.height)
    tiles = Tiling(TileSettings.model_validate("1x2"), region).of(IMAGE)
    assert len(tiles) == 2
    assert (tiles[0].left, tiles[1].right) == (tile.left, tile.right)


def test_a_region_that_covers_the_image_is_not_cropped() -> None:
    assert Tiling(None, Region(units="relative", look=(((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),))).of(IMAGE) == ()
    assert Tiling.made(None, Region(units="relative", ignore=(((0.0, 0.0), (0.5, 0.0), (0.5, 0.5)),))) is None
    with pytest.raises(UsageError, match="outside of the image, 3840x2160"):
        Tiling(None, Region(look=(((9000, 9000), (9100, 9000), (9000, 9100)),))).of(IMAGE)
