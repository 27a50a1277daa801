"""Drawing: the changed pixels, their colors, and very small images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from vision_infer.analyze import draw
from vision_infer.analyze.draw import Drawer, _texts
from vision_infer.core.card import KeypointLayout
from vision_infer.core.description import ClassScore, Description
from vision_infer.core.details import Keypoints, Masks, RotatedBoxes
from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Size

FIRST, SECOND = (list(color) for color in draw.PALETTE[:2])
GRAY = list(draw.GRAY)


def one_box(box: tuple[float, ...], class_id: int = 0, track_id: int | None = None, label: str = "person") -> Detections:
    tracks = None if track_id is None else np.array([track_id], np.int32)
    return Detections(
        np.array([box], np.float32), np.array([0.91], np.float32), np.array([class_id], np.int32), (label,) * 3, tracks
    )


def black(height: int, width: int) -> NDArray[np.uint8]:
    return np.zeros((height, width, 3), np.uint8)


def test_pixels_change_only_near_the_box() -> None:
    image = black(480, 640)
    assert Drawer()(image, one_box((200.0, 200.0, 400.0, 300.0))) is image
    rows, columns = np.nonzero(image.max(axis=2))
    assert 170 < rows.min() < 200  # the label is above
    assert 299 <= rows.max() < 304
    assert 197 < columns.min() <= 200
    assert 399 <= columns.max() < 404
    assert not image[210:290, 210:390].any()


@pytest.mark.parametrize(
    ("class_id", "track_id", "color"), [(0, None, FIRST), (1, None, SECOND), (1, 1, FIRST), (0, 2, SECOND), (0, 0, GRAY)]
)
def test_the_color_is_that_of_the_track_or_the_class(class_id: int, track_id: int | None, color: list[int]) -> None:
    image = Drawer()(black(480, 640), one_box((200.0, 200.0, 400.0, 300.0), class_id, track_id))
    assert image[300, 300].tolist() == color


def test_a_label_stays_inside_the_image() -> None:
    corner = Drawer()(black(480, 640), one_box((600.0, 0.0, 640.0, 100.0)))
    inside = Drawer()(black(480, 640), one_box((300.0, 200.0, 340.0, 300.0)))
    first = [(one == FIRST).all(axis=2).sum() for one in (corner, inside)]
    assert first[0] > 0.7 * first[1]


def test_the_text_has_label_track_and_score() -> None:
    box = (200.0, 200.0, 400.0, 300.0)
    drawn = [
        Drawer()(black(480, 640), one_box(box, 0, track, label))
        for label, track in [("person", 1), ("person", 12), ("dog", 1), ("person", 1)]
    ]
    assert (drawn[0] == drawn[3]).all()
    assert (drawn[0] != drawn[1]).any()
    assert (drawn[0] != drawn[2]).any()


def test_the_best_is_drawn_on_top() -> None:
    boxes = np.array([[100, 100, 200, 200]] * 2, np.float32)
    for scores in ([0.9, 0.5], [0.5, 0.9]):
        best = int(np.argmax(scores))
        found = Detections(boxes, np.array(scores, np.float32), np.array([0, 1], np.int32))
        assert Drawer()(black(480, 640), found)[200, 150].tolist() == [FIRST, SECOND][best]


def test_lines_and_letters_follow_the_size_of_the_image() -> None:
    changed = [
        Drawer()(black(*size), one_box((50.0, 150.0, 90.0, 190.0))).any(axis=2).sum() for size in ((240, 320), (1080, 1920))
    ]
    assert changed[1] > 1.5 * changed[0]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 7), (7, 3), (1, 500), (20, 20)])
def test_tiny_images_can_be_drawn_on(height: int, width: int) -> None:
    image = black(height, width)
    Drawer()(image, one_box((0.0, 0.0, float(width), float(height))))
    assert image.any()


def test_no_detection_changes_nothing() -> None:
    image = np.full((48, 64, 3), 7, np.uint8)
    Drawer()(image, Detections.empty())
    assert (image == 7).all()


def test_a_view_is_drawn_on_in_place() -> None:
    whole = black(480, 1280)
    Drawer()(whole[:, ::2], one_box((200.0, 200.0, 400.0, 300.0)))
    assert whole[300, 600].tolist() == FIRST
    assert not whole[:, 1::2].any()


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_an_invalid_image_is_refused(wrong: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]"):
        Drawer()(wrong, one_box((0.0, 0.0, 1.0, 1.0)))


def red(score: float = 0.8, class_id: int = 1) -> Description:
    return Description(classes=(ClassScore(class_id, "red", score), ClassScore(0, "blue", 0.1)))


def test_the_text_has_the_identity() -> None:
    boxes, scores = np.zeros((2, 4), np.float32), np.full(2, 0.5, np.float32)
    identities, tracks = np.array([7, 0], np.int32), np.array([12, 13], np.int32)
    found = Detections(boxes, scores, np.zeros(2, np.int32), ("person",), tracks, identities=identities)
    assert _texts(found, "names") == ["person #12 id 7", "person #13"]


def test_the_label_has_the_class_of_a_secondary_model() -> None:
    found = one_box((200.0, 200.0, 400.0, 300.0))
    alone, labeled, other, nothing, embedded = (
        Drawer()(black(480, 640), replace(found, descriptions=descriptions))
        for descriptions in (None, (red(),), (red(0.7),), (None,), (Description(embedding=np.ones(3, np.float32)),))
    )
    widths = [int(np.flatnonzero((one[:199] == FIRST).all(axis=2).any(axis=0)).max()) for one in (alone, labeled)]
    assert widths[1] > 1.5 * (widths[0] - 200) + 200
    assert (labeled != other).any()
    assert (nothing == alone).all()
    assert (embedded == alone).all()


def test_the_class_of_the_whole_image_is_in_its_corner() -> None:
    image = Drawer()(black(480, 640), Detections.empty(), red())
    rows, columns = np.nonzero((image == SECOND).all(axis=2))
    assert rows.min() <= 1
    assert columns.min() <= 1
    assert rows.max() < 60
    assert columns.max() < 250
    assert not image[60:].any()
    assert not Drawer()(black(48, 64), Detections.empty(), Description(embedding=np.ones(3, np.float32))).any()
    assert Drawer()(black(9, 7), Detections.empty(), red()).any()


def test_scores_and_labels_can_be_left_out() -> None:
    found = replace(one_box((200.0, 200.0, 400.0, 300.0), 0, 7), descriptions=(red(),))
    full, names, none = (Drawer(labels)(black(480, 640), found) for labels in ("scores", "names", "none"))
    widths = [int(np.flatnonzero(image[:199].any(axis=(0, 2))).max()) for image in (full, names)]
    assert widths[1] < widths[0]
    assert not none[:197].any()
    assert (none[200, 200:400] != 0).any()
    assert not Drawer("none")(black(480, 640), Detections.empty(), red()).any()


def person(score: float = 0.9) -> Keypoints:
    layout = KeypointLayout(names=("head", "hand", "foot"), skeleton=((0, 1), (1, 2)))
    return Keypoints(np.array([[[100, 100, 0.9], [200, 100, score], [200, 300, 0.9]]], np.float32), layout)


def test_the_skeleton_joins_keypoints_that_are_likely_enough() -> None:
    found = one_box((300.0, 300.0, 400.0, 400.0))
    drawn, part = (Drawer("none")(black(480, 640), replace(found, details=person(score))) for score in (0.9, 0.1))
    assert drawn[100, 150].tolist() == drawn[200, 200].tolist() == FIRST
    assert drawn[100, 100].tolist() == FIRST
    assert not part[100, 150].any()
    assert not part[100, 200].any()
    assert part[100, 100].any()
    far = replace(person(), points=np.full((1, 3, 3), 1e30, np.float32))
    assert (Drawer("none")(black(480, 640), replace(found, details=far)) == Drawer("none")(black(480, 640), found)).all()


def test_a_mask_tints_its_pixels_below_the_box() -> None:
    found = one_box((200.0, 200.0, 400.0, 300.0))
    logits = np.array([[1, -1]], np.float32)  # the left half
    masks = Masks(Size(640, 480), found.boxes, found.boxes.astype(np.float64), (logits,))
    image = Drawer("none")(np.full((480, 640, 3), 100, np.uint8), replace(found, details=masks))
    assert image[250, 250].tolist() == [int(55 + 0.45 * value) for value in FIRST]
    assert image[250, 350].tolist() == [100] * 3
    assert image[250, 200].tolist() == FIRST, "the edge of the box"
    smaller = replace(found, details=masks).scaled(Size(640, 480), Size(320, 240))
    assert Drawer("none")(np.full((240, 320, 3), 100, np.uint8), smaller)[125, 125].tolist() == image[250, 250].tolist()


def test_a_rotated_box_replaces_its_enclosing_box() -> None:
    rotated = RotatedBoxes(np.array([[300, 200, 200, 100, np.pi / 4]], np.float32))
    low, high = rotated.corners()[0].min(axis=0), rotated.corners()[0].max(axis=0)
    image = Drawer("none")(black(480, 640), replace(one_box((*low.tolist(), *high.tolist())), details=rotated))
    assert not image[int(low[1]) + 1, int(low[0]) + 1].any(), "the corner of the enclosing box"
    for (x, y), (next_x, next_y) in zip(rotated.corners()[0], np.roll(rotated.corners()[0], -1, axis=0), strict=True):
        assert image[round((y + next_y) / 2), round((x + next_x) / 2)].any(), "the middle of each edge"
