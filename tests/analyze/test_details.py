"""Details of detections in the selection: which candidate's they are, where they are in the source image, and rotated NMS."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vision_infer.analyze.rotated import intersections, suppress_rotated
from vision_infer.analyze.select import Selector, select
from vision_infer.analyze.track import Tracker
from vision_infer.core.details import Keypoints, Masks, RotatedBoxes
from vision_infer.core.details.rotated_boxes import corners_of_rotated
from vision_infer.core.geometry import Size, letterbox

SIZE, INPUT = Size(320, 160), Size(160, 96)
PLACE = letterbox(SIZE, INPUT, "center", (114, 114, 114))  # half the size, 8 pixels below the top
SELECTOR = Selector(0.3, 0.5)


def boxes_at(*centers: tuple[float, float]) -> NDArray[np.float32]:
    center = np.array(centers, np.float32).reshape(1, -1, 2)
    return np.concatenate([center - 10, center + 10], axis=2)


def outputs(boxes: NDArray[np.float32], scores: list[float], **details: NDArray[Any]) -> dict[str, NDArray[Any]]:
    count = boxes.shape[1]
    return {
        "boxes": boxes,
        "scores": np.array([scores], np.float32),
        "class_ids": np.zeros((1, count), np.int32),
        **{name: array.astype(np.float32) for name, array in details.items()},
    }


def test_keypoints_are_those_of_the_kept_boxes_in_source_pixels() -> None:
    boxes = boxes_at((30, 40), (31, 40), (100, 50), (60, 60))
    keypoints = np.zeros((1, 4, 2, 3))
    keypoints[0, :, :, 0] = boxes[0, :, 0, None] + [0, 20]
    keypoints[0, :, :, 1] = boxes[0, :, 1, None]
    keypoints[0, :, :, 2] = [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]]
    (found,) = select(outputs(boxes, [0.5, 0.9, 0.8, 0.1], keypoints=keypoints), [PLACE], SELECTOR)
    assert isinstance(found.details, Keypoints)
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])
    np.testing.assert_allclose(found.details.points[..., 2], [[0.3, 0.4], [0.5, 0.6]], rtol=1e-6)
    np.testing.assert_allclose(found.details.points[..., 0], found.boxes[:, [0, 2]])
    np.testing.assert_allclose(found.details.points[..., 1], found.boxes[:, [1, 1]])
    assert found.boxes[0].tolist() == [42, 44, 82, 84]


def test_many_candidates_keep_their_details() -> None:
    """More than the loop is used for: the other implementation of NMS."""
    count = 400
    boxes = boxes_at(*((5 + at % 40 * 3.5, 20 + at // 40 * 6.0) for at in range(count)))
    scores = np.random.default_rng(0).permutation(count) / count
    keypoints = np.concatenate([boxes[:, :, None, :2], scores.reshape(1, count, 1, 1)], axis=3)
    (found,) = select(outputs(boxes, scores.tolist(), keypoints=keypoints), [PLACE], Selector(0.05, 0.9))
    assert len(found) > 300
    assert isinstance(found.details, Keypoints)
    np.testing.assert_array_equal(found.details.points[:, 0, 2], found.scores)


@pytest.mark.parametrize("name", ["keypoints", "rotated_boxes"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_candidate_whose_details_are_not_finite_is_dropped(name: str, bad: float) -> None:
    values = np.ones((1, 2, 4, 3)) if name == "keypoints" else np.ones((1, 2, 5))
    values[(0, 0, *([0] * (values.ndim - 2)))] = bad
    (found,) = select(outputs(boxes_at((30, 40), (90, 40)), [0.9, 0.5], **{name: values}), [PLACE], SELECTOR)
    assert found.scores.tolist() == [0.5]


def test_masks_are_the_sign_of_coefficients_times_prototypes() -> None:
    """Two prototypes: the left and the right half of the input. A mask is one of them inside its box."""
    prototypes = np.full((1, 2, 24, 40), -1.0)
    prototypes[0, 0, :, :20] = prototypes[0, 1, :, 20:] = 1
    boxes = np.array([[[40, 18, 120, 78], [70, 30, 90, 50]]], np.float32)
    coefficients = np.array([[[1, 0], [0, 1]]])
    given_outputs = outputs(boxes, [0.9, 0.8], coefficients=coefficients, prototypes=prototypes)
    (found,) = select(given_outputs, [PLACE], SELECTOR)
    assert isinstance(found.details, Masks)
    expected = np.zeros((2, 160, 320), bool)
    expected[0, 20:140, 80:160] = expected[1, 44:84, 160:180] = True
    assert found.details.pixels().tolist() == expected.tolist()
    assert all(one.nbytes < 24 * 40 * 4 for one in found.details.logits), "only the part inside the box is kept"


def test_tracking_keeps_the_details_of_each_object() -> None:
    tracker = Tracker(confidence=0.3)
    for number in range(4):
        centers = [(30 + number, 40), (100 - number, 50)]
        keypoints = np.zeros((1, 2, 1, 3))
        keypoints[0, :, 0, :2] = centers
        keypoints[0, :, 0, 2] = [0.9, 0.8]
        (found,) = select(outputs(boxes_at(*centers), [0.9, 0.8], keypoints=keypoints), [PLACE], SELECTOR)
        followed = tracker.update(found, number / 10)
    assert len(followed) == 2
    assert isinstance(followed.details, Keypoints)
    centers_of_boxes = (followed.boxes[:, :2] + followed.boxes[:, 2:]) / 2
    np.testing.assert_allclose(followed.details.points[:, 0, :2], centers_of_boxes)


def enclosing(rotated: NDArray[np.float32]) -> NDArray[np.float32]:
    corners = corners_of_rotated(rotated)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)


def test_rotated_boxes_suppress_by_their_own_overlap() -> None:
    """Two thin parallel boxes at 45 degrees have enclosing boxes that overlap by 72 %, but do not touch."""
    rotated = np.array([[60, 50, 60, 4, math.pi / 4], [64, 46, 60, 4, math.pi / 4], [60.5, 50, 60, 4, math.pi / 4 + math.pi]])
    boxes = enclosing(rotated.astype(np.float32))[None]
    (found,) = select(outputs(boxes, [0.9, 0.8, 0.7], rotated_boxes=rotated[None]), [PLACE], SELECTOR)
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])
    assert isinstance(found.details, RotatedBoxes)
    np.testing.assert_allclose(found.details.values[0], [120, 84, 120, 8, math.pi / 4], rtol=1e-6)
    (alone,) = select(outputs(boxes, [0.9, 0.8, 0.7]), [PLACE], SELECTOR)
    assert len(alone) == 1, "their enclosing boxes suppress each other"


RECTANGLE = st.tuples(
    st.floats(0, 30),
    st.floats(0, 30),
    st.floats(0.5, 30),
    st.floats(0.5, 30),
    st.floats(-4, 4) | st.sampled_from([0, math.pi / 2]),
)


@given(st.lists(RECTANGLE, min_size=2, max_size=6))
def test_intersections_are_those_of_opencv(rectangles: list[tuple[float, ...]]) -> None:
    cv2 = pytest.importorskip("cv2")
    values = np.array(rectangles, np.float32)
    corners = corners_of_rotated(values)
    areas = intersections(corners[0], corners)
    as_opencv = [((x, y), (w, h), math.degrees(a)) for x, y, w, h, a in values.tolist()]
    for other, area in zip(as_opencv, areas.tolist(), strict=True):
        _, polygon = cv2.rotatedRectangleIntersection(as_opencv[0], other)
        expected = 0.0 if polygon is None else cv2.contourArea(cv2.convexHull(polygon))
        assert area == pytest.approx(expected, abs=0.02, rel=1e-3)
    assert areas[0] == pytest.approx(values[0, 2] * values[0, 3], rel=1e-6)


def test_rotated_nms_of_straight_boxes_is_that_of_boxes() -> None:
    random = np.random.default_rng(3)
    center, sides = random.uniform(0, 100, (200, 2)), random.uniform(5, 40, (200, 2))
    straight = np.concatenate([center, sides, np.zeros((200, 1))], axis=1).astype(np.float32)
    boxes = enclosing(straight)
    scores = np.sort(random.uniform(0.4, 1, 200))[::-1].tolist()
    kept = suppress_rotated(straight, boxes, np.zeros(200, np.intp), 0.45)
    ((_, expected, _),) = Selector(0.0, 0.45)(boxes[None], np.array([scores], np.float32), np.zeros((1, 200), np.int32))
    np.testing.assert_allclose(np.array(scores, np.float32)[kept], expected)


def test_rotated_boxes_of_other_classes_stay() -> None:
    same = np.array([[50, 50, 40, 10, 0.3]] * 2, np.float32)
    assert suppress_rotated(same, enclosing(same), np.array([0, 1]), 0.5) == [0, 1]
    assert suppress_rotated(same, enclosing(same), np.array([1, 1]), 0.5) == [0]


def test_the_part_of_a_map_inside_a_box_gives_the_same_mask_as_the_whole_map() -> None:
    random = np.random.default_rng(5)
    prototypes = random.normal(0, 1, (1, 8, 24, 40))
    boxes = np.array([[[0, 10, 37.5, 60.2], [61.3, 30, 160, 88], [100, 9, 103, 11]]], np.float32)
    coefficients = random.normal(0, 1, (1, 3, 8))
    given_outputs = outputs(boxes, [0.9, 0.8, 0.7], coefficients=coefficients, prototypes=prototypes)
    (found,) = select(given_outputs, [PLACE], SELECTOR)
    whole = np.einsum("km,mhw->khw", coefficients[0], prototypes[0]).astype(np.float32)
    place = PLACE.to_source(np.array([[0.0, 0, 160, 96]] * 3))
    expected = Masks(SIZE, found.boxes, place, tuple(whole)).pixels()
    assert isinstance(found.details, Masks)
    assert expected.any(axis=(1, 2)).all()
    assert (found.details.pixels() != expected).sum() <= 2  # logits near 0, which are rounded differently
