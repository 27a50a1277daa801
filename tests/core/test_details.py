"""Keypoints, masks and rotated boxes of detections: indexing, scaling, fields of rows, and conversion to ``supervision``."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.details import KINDS, details, masks, with_details
from tests.support.result_schema import validate_row
from vision_infer.core.details import Keypoints, Masks, RotatedBoxes
from vision_infer.core.details.masks import MaskPatch, _characters, _run_lengths
from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Size
from vision_infer.core.result import Result
from vision_infer.core.trace import Trace

coco = pytest.importorskip("pycocotools.mask")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools with NumPy 2


def row_of(found: Detections) -> dict[str, Any]:
    result = Result("a", 0, 0.0, Size(40, 30), "mine", "engine", found, Trace().latency())
    row: dict[str, Any] = json.loads(result.to_json())
    validate_row(row)
    return row


@pytest.mark.parametrize("kind", KINDS)
def test_details_are_indexed_with_their_detections(kind: str) -> None:
    found = with_details(details(kind, 4))
    for index in (np.array([3, 1]), np.array([False, True, False, True]), slice(1, 4, 2)):
        part = found[index]
        chosen = np.arange(4)[index].tolist()
        assert part.details is not None
        assert found.details is not None
        assert [part.details.row(at) for at in range(len(part))] == [found.details.row(at) for at in chosen]
    assert len(found[np.zeros(4, np.bool_)]) == 0
    with pytest.raises(ValueError, match="details must be 4, got 3"):
        Detections(found.boxes, found.scores, found.class_ids, details=details(kind, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_details_and_fits_the_schema(kind: str) -> None:
    found = with_details(details(kind, 2))
    row = row_of(found)
    assert [one[KINDS[kind]] for one in row["detections"]] == [getattr(one, KINDS[kind]) for one in found]
    tracked = Detections(found.boxes, found.scores, found.class_ids, None, np.array([5, 0], np.int32), details=found.details)
    assert [one.get("track_id") for one in row_of(tracked)["detections"]] == [5, None]


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(0, 4), st.integers(0, 4), st.integers(0, 3), st.integers(0, 3), st.data()
)
def test_run_lengths_are_those_of_pycocotools(
    height: int, width: int, left: int, top: int, right: int, below: int, data: st.DataObject
) -> None:
    inside = np.array(data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width)), np.bool_)
    patch = MaskPatch(left, top, inside.reshape(height, width))
    size = Size(left + width + right, top + height + below)
    whole = np.zeros((size.height, size.width), np.uint8)
    whole[top : top + height, left : left + width] = patch.inside
    expected = coco.encode(np.asfortranarray(whole))
    assert "".join(_characters(_run_lengths(patch, size))) == expected["counts"].decode()


def test_a_long_run_has_the_characters_of_pycocotools() -> None:
    whole = np.zeros((1080, 1920), np.uint8)
    whole[500:900, 700:1500] = 1
    patch = MaskPatch(700, 500, np.ones((400, 800), np.bool_))
    assert "".join(_characters(_run_lengths(patch, Size(1920, 1080)))) == coco.encode(np.asfortranarray(whole))["counts"].decode()


def test_masks_are_bilinear_and_end_at_their_boxes() -> None:
    """Against OpenCV's interpolation of the whole map."""
    cv2 = pytest.importorskip("cv2")
    random = np.random.default_rng(0)
    logits = random.normal(0, 1, (12, 16)).astype(np.float32)
    size = Size(64, 48)
    boxes = np.array([[10.2, 7.7, 50.5, 41.4]], np.float32)
    found = Masks(size, boxes, np.array([[0.0, 0, 64, 48]]), (logits,))
    expected = cv2.resize(logits, (64, 48), interpolation=cv2.INTER_LINEAR) > 0
    expected[:8] = expected[41:] = expected[:, :10] = expected[:, 50:] = False
    assert found.pixels()[0].tolist() == expected.tolist()
    decoded = coco.decode(found.row(0)["mask"])
    assert decoded.astype(bool).tolist() == expected.tolist()


def test_scaled_masks_cover_the_same_part_of_the_image() -> None:
    found = masks(3)
    larger = found.scaled(4, 2)
    assert larger.size == Size(160, 60)
    small, large = found.pixels(), larger.pixels()[:, 1::2, 2::4]
    assert (small != large).mean() < 0.02


@pytest.mark.parametrize("box", [(0, 0, 0.3, 30), (39.8, 0, 40, 30), (0, 0, 40, 30)])
def test_masks_of_tiny_and_of_whole_boxes(box: tuple[float, ...]) -> None:
    found = Masks(Size(40, 30), np.array([box], np.float32), np.array([box]), (np.ones((1, 1), np.float32),))
    decoded = coco.decode(found.row(0)["mask"])
    assert decoded.sum() == (1200 if box[2] - box[0] == 40 else 0)


def corners(values: list[float]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = RotatedBoxes(np.array([values], np.float32)).corners()[0]
    return found


def test_the_angle_is_clockwise_in_the_image() -> None:
    np.testing.assert_allclose(corners([10, 20, 8, 2, 0]), [[6, 19], [14, 19], [14, 21], [6, 21]])
    turned = corners([10, 20, 8, 2, math.pi / 6])
    assert turned[1][1] > turned[0][1]  # the right end of the width is lower


@given(st.floats(-10, 10), st.floats(0.2, 4))
def test_scaled_rotated_boxes(angle: float, factor: float) -> None:
    found = RotatedBoxes(np.array([[10, 20, 8, 3, angle]], np.float32))
    larger = found.scaled(factor, factor)
    assert -math.pi / 2 <= larger.values[0, 4] <= math.pi / 2
    expected, actual = found.corners()[0] * factor, larger.corners()[0]
    apart = np.linalg.norm(expected[:, None] - actual[None], axis=2)
    assert apart.min(axis=0).max() < 1e-3  # the same corners, which may begin at the opposite one
    assert apart.min(axis=1).max() < 1e-3


def test_to_supervision() -> None:
    supervision = pytest.importorskip("supervision")
    found = masks(2)
    np.testing.assert_array_equal(with_details(found).to_supervision().mask, found.pixels())
    rotated = details("rotated_boxes", 2)
    assert isinstance(rotated, RotatedBoxes)
    given_corners = with_details(rotated).to_supervision().data["xyxyxyxy"]
    np.testing.assert_array_equal(np.asarray(given_corners, np.float32), rotated.corners().astype(np.float32))
    points = details("keypoints", 2)
    assert isinstance(points, Keypoints)
    converted = with_details(points).to_supervision_keypoints()
    np.testing.assert_array_equal(converted.xy, points.points[..., :2])
    np.testing.assert_array_equal(converted.keypoint_confidence, points.points[..., 2])
    assert list(converted.data["class_name"]) == ["0", "1"]
    assert isinstance(Detections.empty().to_supervision_keypoints(), supervision.KeyPoints)
    with pytest.raises(ValueError, match="the detections have no keypoints"):
        with_details(rotated).to_supervision_keypoints()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Keypoints(np.zeros((2, 5), np.float32)),
        lambda: RotatedBoxes(np.zeros((2, 4), np.float32)),
        lambda: Masks(Size(1, 1), np.zeros((1, 4), np.float32), np.zeros((2, 4)), (np.zeros((1, 1), np.float32),)),
    ],
)
def test_wrong_shapes_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()  # type: ignore[operator]


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_masks_of_rows_are_read_back(height: int, width: int, data: st.DataObject) -> None:
    count = height * width
    flags = [data.draw(st.lists(st.booleans(), min_size=count, max_size=count)) for _ in range(2)]
    pixels = np.array(flags, np.bool_).reshape(2, height, width)
    rows = [coco.encode(np.asfortranarray(one.astype(np.uint8))) for one in pixels]
    read = Masks.from_rows([{"size": row["size"], "counts": row["counts"].decode()} for row in rows])
    assert read.pixels().tolist() == pixels.tolist()
