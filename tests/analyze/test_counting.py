"""Counts of lines and zones against known truth: at most 5 % wrong, whatever the faults of the detector and the frame rate."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from tests.support import media
from tests.support.traffic import CLASSES, LIMIT, Scene, scenes, watch
from vision_infer.pipeline.runs.api import Detector, Pipeline

SCENES = scenes()


def check(scene: Scene, fps: float, classes: tuple[str, ...] | None) -> None:
    count = watch(scene, fps, classes)
    assert count.expected >= 10
    assert count.wrong <= LIMIT * count.expected, count
    assert abs(count.occupied_s - count.expected_s) <= LIMIT * count.expected_s + 0.2 * count.expected, count  # min_s is 0.2 s
    assert count.occupancy_error <= 0.1, count
    assert count.doubles == 0
    assert count.weak_rows == 0


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_counts_are_right_at_five_frames_per_second(scene: Scene) -> None:
    check(scene, 5, None)


@pytest.mark.parametrize("classes", CLASSES[1:])
def test_counts_of_some_classes_are_right(classes: tuple[str, ...]) -> None:
    """The scene with all kinds of objects; the other ones are slow tests."""
    (scene,) = (one for one in SCENES if one.name == "mixed, weak detector")
    check(scene, 5, classes)


# `make bench-counting` counts with all classes at all rates.
RATES = [*product(CLASSES[:1], (10, 15, 30)), *product(CLASSES[1:], (5, 10))]


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "fps"), RATES)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_counts_are_right_at_any_rate(scene: Scene, classes: tuple[str, ...] | None, fps: int) -> None:
    if scene.has(classes):
        check(scene, fps, classes)


@pytest.mark.slow
@pytest.mark.parametrize("fps", [10, 5])
def test_visitors_of_a_table_are_counted(fps: int, tmp_path: Path) -> None:
    """A real clip: six people come one after the other, stay at a table, and leave. Counted by eye."""
    pytest.importorskip("onnxruntime")
    zones = tmp_path / "zones.yaml"
    table = "{units: relative, polygon: [[0.5, 0], [1, 0], [1, 1], [0.5, 1]], classes: [person]}"
    zones.write_text(f"zones: {{table: {table}}}\n")
    clip = media.asset("videos/one-by-one-person-detection.mp4")
    events = [event for result in Pipeline(Detector(), zones=zones, fps=fps).run(clip) for event in result.events]
    kinds = [event.kind for event in events]
    assert kinds[:11] == [*["enter", "leave"] * 5, "enter"]
    assert kinds[11:] in (["leave"], ["enter", "leave", "leave"]), "on a processor without AVX-512, the sixth is found twice"
