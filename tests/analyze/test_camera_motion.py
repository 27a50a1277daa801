"""The motion of a camera that shakes or pans: it is measured in the image, and tracks move with it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.tracking_scenes import SCENES, FabricatedSequence, fabricate
from vision_infer.analyze.camera_motion import MAX_WIDTH, CameraMotion
from vision_infer.analyze.track import Tracker
from vision_infer.core.detections import Detections
from vision_infer.core.geometry import Size
from vision_infer.stream.image import ArrayImage

SIZE = Size(960, 540)


def texture(seed: int = 0) -> NDArray[np.uint8]:
    noise = np.asarray(cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 1, (SIZE.height, SIZE.width)), (0, 0), 4))
    return np.asarray((noise - noise.min()) / np.ptp(noise) * 255, np.uint8)


def luma(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return ArrayImage(np.repeat(gray[..., None], 3, axis=2)).luma(MAX_WIDTH)


@pytest.mark.parametrize(
    ("angle", "scale", "shift"), [(0, 1, (0, 0)), (0, 1, (23, -9)), (2, 1, (5, 4)), (0, 1.04, (0, 0)), (-1.5, 0.97, (-12, 7))]
)
def test_the_motion_of_the_image_is_measured(angle: float, scale: float, shift: tuple[float, float]) -> None:
    wanted = np.asarray(cv2.getRotationMatrix2D((SIZE.width / 2, SIZE.height / 2), angle, scale), np.float64)
    wanted[:, 2] += np.array(shift)
    image = texture()
    camera = CameraMotion()
    assert camera(luma(image), SIZE) is None, "there is no image before"
    moved = np.asarray(cv2.warpAffine(image, wanted, (SIZE.width, SIZE.height), borderMode=cv2.BORDER_REFLECT), np.uint8)
    found = camera(luma(moved), SIZE)
    assert found is not None
    corners = np.array([[100, 100, 1], [860, 100, 1], [100, 440, 1], [860, 440, 1]])
    assert np.abs(corners @ found.T - corners @ wanted.T).max() < 1.5, "pixels of the image"


def test_a_cut_and_an_image_without_structure_have_no_motion() -> None:
    camera = CameraMotion()
    assert camera(luma(texture(0)), SIZE) is None
    assert camera(luma(texture(1)), SIZE) is None, "another scene"
    flat = np.full((SIZE.height, SIZE.width), 90, np.uint8)
    assert camera(luma(flat), SIZE) is None
    assert camera(luma(flat), SIZE) is None
    assert camera(luma(flat)[:100], SIZE) is None, "another size"


def test_tracks_move_with_the_image() -> None:
    tracker = Tracker()
    box = np.array([[100, 100, 140, 200]], np.float32)
    for index in range(5):
        tracker.update(one(box), index / 10)
    tracker.move(np.array([[1.0, 0, 300], [0, 1.0, 50]]))
    far = tracker.update(one(box + np.array([300, 50, 300, 50])), 0.5)
    assert far.track_ids is not None
    assert far.track_ids.tolist() == [1]


def one(boxes: NDArray[np.floating]) -> Detections:
    count = len(boxes)
    return Detections(boxes.astype(np.float32), np.full(count, 0.9, np.float32), np.zeros(count, np.int32))


def numbers(sequence: FabricatedSequence, compensated: bool) -> int:
    """Return the number of tracks that are reported."""
    tracker, camera = Tracker(), CameraMotion()
    seen: set[int] = set()
    for time_s, rows, image in zip(sequence.times_s, sequence.detections, sequence.images, strict=True):
        affine = camera(luma(image), SIZE) if compensated else None
        if affine is not None:
            tracker.move(affine)
        found = Detections(rows[:, :4], rows[:, 4], np.zeros(len(rows), np.int32))
        ids = tracker.update(found[np.argsort(-rows[:, 4])], float(time_s)).track_ids
        seen |= set() if ids is None else set(ids.tolist())
    return len(seen)


@pytest.mark.parametrize("name", ["shake", "pan"])
def test_people_keep_their_numbers_when_the_camera_moves(name: str) -> None:
    sequence = fabricate(SCENES[name], seconds=4)
    people = len({int(number) for rows in sequence.truth for number in rows[:, 0]})
    fixed, compensated = numbers(sequence, False), numbers(sequence, True)
    assert compensated <= 1.1 * people < fixed
