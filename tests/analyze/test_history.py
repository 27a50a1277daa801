"""The counts for each interval."""

from __future__ import annotations

import pytest

from vision_infer.analyze.history import CountHistory
from vision_infer.core.scene_event import Direction, SceneEvent


def cross(direction: Direction, label: str = "car") -> SceneEvent:
    return SceneEvent("cross", "gate", 1, 2, label, direction=direction, counts=(1, 0))


def test_events_are_counted_by_interval_place_and_label() -> None:
    counts = CountHistory(10)
    assert list(counts.intervals()) == []
    counts.add(12.0, [cross("in"), cross("out"), cross("in", "bus")])
    counts.add(19.9, [cross("in"), SceneEvent("enter", "yard", 1, 2, "car")])
    counts.add(31.0, [SceneEvent("leave", "yard", 1, 2, "car", 5.0), SceneEvent("dwell", "yard", 1, 2, "car", 5.0)])
    counts.add(45.0, [])
    assert list(counts.intervals()) == [
        (10, {("gate", "car"): (2, 1), ("gate", "bus"): (1, 0), ("yard", "car"): (1, 0)}),
        (20, {}),
        (30, {("yard", "car"): (0, 1)}),
        (40, {}),
    ]
    assert list(counts.intervals(2, 1)) == [(40, {})]
    assert list(counts.intervals(2))[1] == (20, {("yard", "car"): (0, 1)})
    assert counts.totals() == {("gate", "car"): (2, 1), ("gate", "bus"): (1, 0), ("yard", "car"): (1, 1)}


def test_the_history_is_bounded() -> None:
    counts = CountHistory(1, 100)
    for second in range(105):
        counts.add(second, [cross("in")])
    assert [count for _, count in counts.intervals()] == [{}] * 5 + [{("gate", "car"): (1, 0)}] * 100
    assert counts.totals() == {("gate", "car"): (105, 0)}  # they lose nothing


def test_without_a_bound_no_event_is_lost() -> None:
    counts = CountHistory(1)
    for second in range(20_000):
        counts.add(second, [cross("in")])
    assert all(count == {("gate", "car"): (1, 0)} for _, count in counts.intervals())
    assert counts.totals() == {("gate", "car"): (20_000, 0)}


@pytest.mark.parametrize("jump_s", [208 * 86_400, -208 * 86_400])
def test_a_jump_of_the_clock_gives_no_empty_intervals(jump_s: int) -> None:
    counts, begin_s = CountHistory(1), 1_800_000_000
    for offset_s in (0, 2, jump_s, jump_s + 2):
        counts.add(begin_s + offset_s, [cross("in")])
    crossed, nothing = {("gate", "car"): (1, 0)}, dict[tuple[str, str], tuple[int, int]]()
    spans = [begin_s + offset_s for offset_s in sorted((0, jump_s))]
    expected = [(at + second, crossed if second != 1 else nothing) for at in spans for second in range(3)]
    assert list(counts.intervals()) == expected
    assert list(counts.intervals(1, 2)) == expected[-2:]


def test_a_quiet_day_has_its_intervals_and_a_small_step_back_loses_nothing() -> None:
    counts = CountHistory(3600)
    for hour in range(10, 60):
        counts.add(hour * 3600, [])
    counts.add(8 * 3600 + 35 * 3600, [cross("in")])
    assert len(list(counts.intervals())) == 50
    late = CountHistory(1)
    late.add(100, [cross("in")])
    late.add(98, [cross("out")])
    assert [start for start, _ in late.intervals()] == [98, 99, 100]
    assert sum(sum(count) for _, counts in late.intervals() for count in counts.values()) == 2
