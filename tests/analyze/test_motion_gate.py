"""The motion gate: only changes open it, and it never stays closed for long."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vision_infer.analyze.motion_gate import HOLD_NS, LEARN_NS, MotionGate, grid, means

HEIGHT, WIDTH = 90, 160
SECOND = 1_000_000_000
Luma = NDArray[np.uint8]


class Camera:
    """A still scene with grain, and a gate without a heartbeat during the test."""

    def __init__(
        self, grain: float = 0.0, level: float = 110.0, fps: int = 25, seed: int = 0, heartbeat_s: float = 3600.0
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.grain = grain
        self.fps = fps
        self.scene = np.full((HEIGHT, WIDTH), level) + 25 * np.sin(np.arange(WIDTH) / 9)
        self.gate = MotionGate(heartbeat_s)
        self.frames = 0
        self.opened: list[float] = []
        """The times of inferred frames, seconds."""

    @property
    def now_s(self) -> float:
        return self.frames / self.fps

    def image(self) -> Luma:
        seen: NDArray[np.float64] = self.scene + self.grain * self.random.standard_normal(self.scene.shape)
        return np.clip(np.rint(seen), 0, 255).astype(np.uint8)

    def frame(self, counted: NDArray[np.bool_] | None = None) -> bool:
        wanted = self.gate.wants(self.image(), round(self.now_s * SECOND), counted)
        if wanted:
            self.opened.append(self.now_s)
        self.frames += 1
        return wanted

    def run(self, seconds: float, counted: NDArray[np.bool_] | None = None) -> float:
        """Return the fraction of inferred frames."""
        count = round(seconds * self.fps)
        return sum(self.frame(counted) for _ in range(count)) / count

    def put(self, x: int, y: int, side: int, by: float) -> None:
        """Add an object of this brightness to the scene."""
        self.scene[y : y + side, x : x + side] += by


def closed(grain: float = 0.0, **more: float) -> Camera:
    """Return a camera whose gate has learned its scene."""
    camera = Camera(grain, **more)  # type: ignore[arg-type]
    camera.run(12)
    camera.opened.clear()
    return camera


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 45), st.floats(40, 215), st.sampled_from([2, 5, 10, 25]), st.integers(0, 2**32))
def test_noise_of_any_strength_rarely_opens_the_gate(grain: float, level: float, fps: int, seed: int) -> None:
    camera = Camera(grain, level, fps, seed)
    camera.run(LEARN_NS / SECOND + 8)
    assert camera.run(20) <= 0.16  # a hold of one second, three times


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0, 12), st.sampled_from([5, 10, 25]), st.integers(0, 2**32), st.integers(0, 148), st.integers(0, 78), st.booleans()
)
def test_a_new_object_opens_the_gate_immediately(grain: float, fps: int, seed: int, x: int, y: int, darker: bool) -> None:
    camera = closed(grain, fps=fps, seed=seed)
    camera.run(1.5)
    camera.put(x, y, 10, -45 if darker else 45)
    assert camera.frame()


@pytest.mark.parametrize("grain", [0.0, 3.0, 10.0])
def test_frames_are_inferred_for_a_while_after_the_last_change(grain: float) -> None:
    camera = closed(grain)
    came_s = camera.now_s
    for step in range(50):  # crosses the image in two seconds
        scene = camera.scene.copy()
        camera.put(step * 3, 40, 12, 60)
        assert camera.frame(), step
        camera.scene = scene
    gone_s = camera.now_s
    camera.run(30)
    assert camera.opened[0] == came_s
    last = max(at_s for at_s in camera.opened if at_s < gone_s + 20)
    assert HOLD_NS / SECOND <= last - gone_s + 1 / camera.fps <= 15
    assert camera.run(10) <= 0.11


def test_an_object_that_stops_becomes_part_of_the_scene() -> None:
    camera = closed(2.0)
    camera.put(60, 40, 20, 70)
    assert camera.run(1) == 1.0
    camera.run(40)
    assert camera.run(10) == 0.0
    camera.put(60, 40, 20, -70)
    assert camera.frame(), "it disappears again"


def test_a_slow_object_is_detected() -> None:
    camera = closed(2.0)
    wanted = []
    for step in range(25 * 20):  # one sample per second: a twentieth of the image width in eight
        scene = camera.scene.copy()
        camera.put(40 + step // 25, 40, 16, 60)
        wanted.append(camera.frame())
        camera.scene = scene
    assert np.mean(wanted) > 0.9


def test_a_switched_light_opens_the_gate_and_the_scene_is_learned_again() -> None:
    camera = closed(2.0)
    camera.scene += 70
    assert camera.run(1.5) == 1.0
    camera.run(2)
    assert camera.run(10) <= 0.11
    camera.put(20, 20, 10, -50)
    assert camera.frame()


def test_dusk_does_not_open_the_gate() -> None:
    camera = closed(1.0)
    opened = 0
    for _ in range(25 * 60):
        camera.scene -= 60 / (25 * 60 * 5)  # sixty levels in five minutes
        opened += camera.frame()
    assert opened == 0


def test_increasing_grain_at_night_is_learned() -> None:
    camera = closed(1.0)
    camera.grain = 12.0
    camera.run(40)
    assert camera.run(20) <= 0.16


def test_a_tree_in_the_wind_becomes_noise_in_some_minutes_and_hides_nothing_elsewhere() -> None:
    camera = closed(1.0, fps=5)

    def windy(seconds: float) -> float:
        wanted = []
        for _ in range(round(seconds * 5)):
            scene = camera.scene.copy()
            camera.scene[10:30, 10:40] += camera.random.normal(0, 12)
            wanted.append(camera.frame())
            camera.scene = scene
        return float(np.mean(wanted))

    assert windy(20) > 0.9
    windy(900)
    assert windy(60) < 0.3
    camera.put(100, 40, 10, 40)
    assert camera.frame()


@settings(max_examples=20, deadline=None)
@given(st.floats(0.3, 8), st.integers(1, 25))
def test_the_heartbeat(heartbeat_s: float, fps: int) -> None:
    camera = Camera(fps=fps, heartbeat_s=heartbeat_s)
    camera.run(LEARN_NS / SECOND + 3 * heartbeat_s + 2 / fps)
    gaps = np.diff([*camera.opened, camera.now_s])
    assert gaps.max() <= heartbeat_s + 1.01 / fps
    after = [gap for at_s, gap in zip(camera.opened, gaps, strict=True) if at_s > LEARN_NS / SECOND]
    assert all(gap >= min(heartbeat_s, 1 / fps) - 1e-6 for gap in after[:-1])


def test_a_change_counts_only_in_the_counted_blocks() -> None:
    camera = closed()
    counted = np.zeros(grid(HEIGHT, WIDTH), np.bool_)
    counted[:, :10] = True
    camera.put(100, 40, 20, 80)
    assert camera.run(5, counted) == 0.0
    camera.put(10, 40, 20, 80)
    assert camera.frame(counted)


def test_time_that_goes_back_or_another_shape_restarts_the_gate() -> None:
    camera = closed()
    assert not camera.frame()
    camera.frames = 10
    assert camera.run(1.5) == 1.0
    camera = closed()
    camera.scene = camera.scene[:45, :80]
    assert camera.run(1.5) == 1.0


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_means_are_those_of_the_blocks(height: int, width: int, seed: int) -> None:
    luma = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    found = means(luma)
    assert found.shape == grid(height, width)
    if height >= 4 and width >= 4:
        for row, column in np.ndindex(found.shape):
            assert found[row, column] == luma[4 * row : 4 * row + 4, 4 * column : 4 * column + 4].mean(dtype=np.float32)


@pytest.mark.parametrize("heartbeat_s", [0.0, -1.0, float("inf"), float("nan")])
def test_an_invalid_heartbeat_is_refused(heartbeat_s: float) -> None:
    with pytest.raises(ValueError, match="heartbeat_s"):
        MotionGate(heartbeat_s)


@pytest.mark.parametrize("strength", [0.5, 1.5])
def test_codec_noise_that_changes_with_each_key_frame_does_not_open_the_gate(strength: float) -> None:
    camera = Camera()
    plain, opened = camera.scene.copy(), 0
    for number in range(25 * 20):
        if number % 50 == 0:
            camera.scene = plain + strength * np.repeat(np.repeat(camera.random.standard_normal((23, 40)), 4, 0), 4, 1)[:HEIGHT]
        opened += camera.frame() and camera.now_s > 3
    assert opened == 0


def test_a_moving_camera_keeps_the_gate_open_almost_always() -> None:
    camera = closed(2.0)
    ground = camera.random.normal(110, 30, (HEIGHT // 6 + 20, WIDTH // 6 + 60))
    wide = np.repeat(np.repeat(ground, 6, 0), 6, 1)
    wanted = []
    for step in range(25 * 12):
        camera.scene = wide[10 : 10 + HEIGHT, step : step + WIDTH]
        wanted.append(camera.frame())
    assert np.mean(wanted) >= 0.9
