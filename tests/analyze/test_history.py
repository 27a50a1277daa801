"""The counts for each interval."""

from __future__ import annotations

from vision_infer.analyze import history
from vision_infer.analyze.history import CountHistory
from vision_infer.core.scene_event import Direction, SceneEvent


def cross(direction: Direction, label: str = "car") -> SceneEvent:
    return SceneEvent("cross", "gate", 1, 2, label, direction=direction, counts=(1, 0))


def test_events_are_counted_by_interval_place_and_label() -> None:
    counts = CountHistory(10)
    assert counts.intervals() == []
    counts.add(12.0, [cross("in"), cross("out"), cross("in", "bus")])
    counts.add(19.9, [cross("in"), SceneEvent("enter", "yard", 1, 2, "car")])
    counts.add(31.0, [SceneEvent("leave", "yard", 1, 2, "car", 5.0), SceneEvent("dwell", "yard", 1, 2, "car", 5.0)])
    counts.add(45.0, [])
    assert counts.intervals() == [
        (10, {("gate", "car"): (2, 1), ("gate", "bus"): (1, 0), ("yard", "car"): (1, 0)}),
        (20, {}),
        (30, {("yard", "car"): (0, 1)}),
        (40, {}),
    ]
    assert counts.intervals(2, 1) == [(40, {})]
    assert counts.intervals(2)[1] == (20, {("yard", "car"): (0, 1)})
    assert counts.totals() == {("gate", "car"): (2, 1), ("gate", "bus"): (1, 0), ("yard", "car"): (1, 1)}


def test_the_history_is_bounded() -> None:
    counts = CountHistory(1)
    for second in range(history.KEPT + 5):
        counts.add(second, [cross("in")])
    assert counts.totals() == {("gate", "car"): (history.KEPT, 0)}
