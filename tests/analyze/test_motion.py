"""The Kalman filter: compared with the usual matrix form, and applied to moving objects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vision_infer.analyze import motion

BOXES = np.array([[10.0, 20.0, 50.0, 120.0], [300.0, 200.0, 340.0, 230.0]])
BOX_EDGE = st.floats(0, 4000, width=32)


def measured(box: NDArray[np.float64]) -> NDArray[np.float64]:
    width, height = box[2] - box[0], box[3] - box[1]
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, width / height, height])


class MatrixFilter:
    """The same filter in the textbook's form, with an 8×8 covariance, for one track."""

    def __init__(self, box: NDArray[np.float64]) -> None:
        z = measured(box)
        h = z[3]
        self.mean = np.concatenate((z, np.zeros(4)))
        self.covariance = np.diag(np.square([h / 10, h / 10, 1e-2, h / 10, h / 16, h / 16, 1e-5, h / 16]))

    def predict(self) -> None:
        h = self.mean[3]
        forward = np.eye(8) + np.eye(8, k=4)
        noise = np.diag(np.square([h / 20, h / 20, 1e-2, h / 20, h / 160, h / 160, 1e-5, h / 160]))
        self.mean = forward @ self.mean
        self.covariance = forward @ self.covariance @ forward.T + noise

    def correct(self, box: NDArray[np.float64]) -> None:
        h = self.mean[3]
        look = np.eye(4, 8)
        noise = np.diag(np.square([h / 20, h / 20, 1e-1, h / 20]))
        gain = self.covariance @ look.T @ np.linalg.inv(look @ self.covariance @ look.T + noise)
        self.mean = self.mean + gain @ (measured(box) - look @ self.mean)
        self.covariance = self.covariance - gain @ look @ self.covariance


def test_the_filter_matches_the_textbook_filter() -> None:
    random = np.random.default_rng(3)
    state = motion.begin(BOXES)
    references = [MatrixFilter(box) for box in BOXES]
    for frame in range(20):
        state = motion.predict(state, 1.0)
        boxes = BOXES + 3.0 * frame + random.normal(0, 2, BOXES.shape)
        for reference in references:
            reference.predict()
        if frame % 5 != 4:  # every fifth frame is missing
            state = motion.correct(state, boxes)
            for reference, box in zip(references, boxes, strict=True):
                reference.correct(box)
        for index, reference in enumerate(references):
            np.testing.assert_allclose(state[:2, index].ravel(), reference.mean, rtol=1e-9)
            np.testing.assert_allclose(state[2, index], np.diag(reference.covariance)[:4], rtol=1e-9)
            np.testing.assert_allclose(state[3, index], np.diag(reference.covariance, k=4), rtol=1e-9)
            np.testing.assert_allclose(state[4, index], np.diag(reference.covariance)[4:], rtol=1e-9)


def test_several_steps_at_once_equal_single_steps() -> None:
    state = motion.correct(motion.predict(motion.begin(BOXES), 1.0), BOXES + 5)
    state[1, :, 3] = 0  # a changing height would change the noise
    one_by_one = state
    for _ in range(7):
        one_by_one = motion.predict(one_by_one, 1.0)
    np.testing.assert_allclose(motion.predict(state, 7.0), one_by_one, rtol=1e-9)


def test_a_steady_motion_is_learned_and_continued() -> None:
    state = motion.begin(BOXES)
    for frame in range(1, 30):
        state = motion.correct(motion.predict(state, 1.0), BOXES + 4.0 * frame)
    np.testing.assert_allclose(state[1, :, :2], 4, atol=0.3)
    np.testing.assert_allclose(motion.to_boxes(motion.predict(state, 10.0)), BOXES + 4.0 * 39, atol=4)


@pytest.mark.parametrize("steps", [0.01, 0.3, 0.9, 1.7, 400.0])
def test_any_time_gives_a_valid_covariance(steps: float) -> None:
    state = motion.predict(motion.correct(motion.predict(motion.begin(BOXES), steps), BOXES + 9), steps)
    assert (state[2] > 0).all()
    assert (state[4] > 0).all()
    assert (state[2] * state[4] > state[3] ** 2).all()


@given(st.lists(st.tuples(BOX_EDGE, BOX_EDGE, BOX_EDGE, BOX_EDGE), min_size=1, max_size=5), st.floats(0.01, 1000))
def test_whatever_the_boxes_the_state_stays_finite_and_upright(edges: list[tuple[float, ...]], steps: float) -> None:
    boxes = np.array(edges, dtype=np.float32)
    state = motion.begin(boxes)
    for shift in (0.0, 50.0, -50.0):
        state = motion.correct(motion.predict(state, steps), boxes * 0.5 + np.float32(shift))
    assert np.isfinite(state).all()
    there = motion.to_boxes(motion.predict(state, steps))
    assert (there[:, 2:] > there[:, :2]).all()


def test_a_box_is_returned_unchanged() -> None:
    np.testing.assert_allclose(motion.to_boxes(motion.begin(BOXES)), BOXES)
