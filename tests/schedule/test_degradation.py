"""Degradation under overload: which streams, in which order, and when they recover. Time and machine are simulated."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_infer.schedule.degradation import (
    AFTER_NS,
    BACK_NS,
    MAX_BACK_NS,
    MIN_WINDOW_NS,
    SECOND,
    SETTLE_NS,
    Change,
    Degradation,
    DegradationStep,
    StreamLoad,
)

BOTH = frozenset({DegradationStep.SUBSTREAM, DegradationStep.MODEL})
ONLY_RATE: frozenset[DegradationStep] = frozenset()


@dataclass
class Camera:
    """The wishes of a stream, and the cost of its results at each step, fractions of the machine."""

    steps: frozenset[DegradationStep] = BOTH
    wanted_fps: float = 10.0
    camera_fps: float = 30.0
    weight: float = 1.0
    costs: tuple[float, float] = (0.5, 0.2)
    """The cost of a result with the substream and with the cheaper model, relative to the undegraded stream."""
    live: bool = True
    step: DegradationStep = DegradationStep.NONE
    results: float = 0.0
    lost: float = 0.0

    @property
    def chosen_fps(self) -> float:
        return min(self.wanted_fps, self.camera_fps)

    @property
    def cost(self) -> float:
        taken = {step for step in self.steps if step <= self.step}
        return self.costs[1] if DegradationStep.MODEL in taken else self.costs[0] if DegradationStep.SUBSTREAM in taken else 1.0


@dataclass
class Machine:
    """Shares its time evenly among streams; ``carries`` is its capacity, results per second of undegraded streams."""

    cameras: dict[str, Camera]
    carries: float
    now_ns: int = 1_000 * SECOND
    decide: Degradation = field(default_factory=Degradation)
    changes: list[tuple[int, Change]] = field(default_factory=list)
    broken: Callable[[Change], bool] = lambda change: False

    def second(self) -> list[Change]:
        self.now_ns += SECOND
        live = {name: one for name, one in self.cameras.items() if one.live}
        needed = sum(one.chosen_fps * one.cost for one in live.values())
        part = min(1.0, self.carries / needed) if needed else 1.0
        for one in live.values():
            one.results += one.chosen_fps * part
            one.lost += one.chosen_fps * (1 - part)
        busy = min(1.0, needed / self.carries) if self.carries else 1.0
        seen = {
            name: StreamLoad(one.step, one.steps, one.live, one.wanted_fps, one.weight, round(one.results), round(one.lost), busy)
            for name, one in self.cameras.items()
        }
        changes = self.decide.look(self.now_ns, seen)
        for change in changes:
            assert change.before is self.cameras[change.stream].step
            if not self.broken(change):
                self.cameras[change.stream].step = change.step
                self.changes.append((self.now_ns, change))
        assert len({change.stream for change in changes}) == len(changes)
        return changes

    def run(self, seconds: int) -> list[Change]:
        return [change for _ in range(seconds) for change in self.second()]

    def steps(self) -> list[DegradationStep]:
        return [one.step for one in self.cameras.values()]


def machine(carries: float, *cameras: Camera) -> Machine:
    return Machine({f"camera{number}": camera for number, camera in enumerate(cameras)}, carries)


def test_a_machine_that_is_large_enough_changes_nothing() -> None:
    site = machine(40, Camera(), Camera())
    assert site.run(3600) == []


def test_steps_are_taken_in_order_and_undone_in_reverse_order() -> None:
    site = machine(1.8, Camera())
    down = site.run(200)
    assert [change.step for change in down] == [DegradationStep.RATE, DegradationStep.SUBSTREAM, DegradationStep.MODEL]
    assert down[0].got_fps == pytest.approx(1.8, abs=0.3)
    assert down[0].load.busy == 1.0
    site.carries = 100
    back = site.run(400)
    assert [change.step for change in back] == [DegradationStep.SUBSTREAM, DegradationStep.RATE, DegradationStep.NONE]


def test_no_step_follows_one_that_is_enough() -> None:
    site = machine(6, Camera())
    assert [change.step for change in site.run(3600)] == [DegradationStep.RATE, DegradationStep.SUBSTREAM]


def test_steps_that_are_not_configured_are_skipped() -> None:
    site = machine(1.5, Camera(frozenset({DegradationStep.MODEL})), Camera(ONLY_RATE))
    changes = site.run(600)
    assert [change.step for change in changes if change.stream == "camera0"] == [DegradationStep.RATE, DegradationStep.MODEL]
    assert [change.step for change in changes if change.stream == "camera1"] == [DegradationStep.RATE]


def test_steps_take_the_documented_times() -> None:
    site = machine(2, Camera())
    began = site.now_ns
    site.run(120)
    rate, substream = site.changes[0][0], site.changes[1][0]
    assert AFTER_NS <= rate - began <= AFTER_NS + MIN_WINDOW_NS + 2 * SECOND
    assert AFTER_NS <= substream - rate <= AFTER_NS + MIN_WINDOW_NS + 2 * SECOND


def test_a_short_burst_is_not_an_overload() -> None:
    site = machine(100, Camera(), Camera())
    for _ in range(20):
        site.carries = 5
        site.run(AFTER_NS // SECOND - 3)
        site.carries = 100
        site.run(20)
    assert site.changes == []


def test_a_camera_with_a_low_frame_rate_is_not_short() -> None:
    site = machine(6, Camera(wanted_fps=25, camera_fps=5))
    assert site.run(600) == []


def test_a_machine_that_is_not_busy_is_not_overloaded() -> None:
    """Frames are lost for another reason, for instance a slow hook."""
    decide, now, results, lost = Degradation(), 0, 0, 0
    for _ in range(600):
        now, results, lost = now + SECOND, results + 2, lost + 8
        seen = StreamLoad(DegradationStep.NONE, BOTH, True, 10, 1, results, lost, 0.5)
        assert decide.look(now, {"one": seen}) == []


def test_substreams_come_before_models_and_low_weights_before_high_ones() -> None:
    cameras = [Camera(weight=weight) for weight in (4, 1, 2, 3)]
    site = machine(9, *cameras)
    site.run(900)
    deep = [(change.step, change.load.weight) for _, change in site.changes if change.step > DegradationStep.RATE]
    assert deep == [(step, weight) for step in (DegradationStep.SUBSTREAM, DegradationStep.MODEL) for weight in (1, 2, 3, 4)]
    at = [now for now, change in site.changes if change.step > DegradationStep.RATE]
    assert all(later - earlier >= SETTLE_NS for earlier, later in itertools.pairwise(at))
    site.carries = 1000
    site.run(2000)
    back = [(change.step, change.load.weight) for _, change in site.changes if DegradationStep.NONE < change.step < change.before]
    assert back == [(step, weight) for step in (DegradationStep.SUBSTREAM, DegradationStep.RATE) for weight in (4, 3, 2, 1)]
    assert set(site.steps()) == {DegradationStep.NONE}


def test_no_more_streams_degrade_than_necessary() -> None:
    site = machine(70, *(Camera() for _ in range(8)))
    site.run(900)
    assert site.steps().count(DegradationStep.SUBSTREAM) <= 4
    assert DegradationStep.MODEL not in site.steps()


def test_many_streams_degrade_in_bounded_time() -> None:
    site = machine(120, *(Camera() for _ in range(100)))
    site.run(900)
    assert set(site.steps()) == {DegradationStep.MODEL}


def test_a_stream_that_recovers_too_early_waits_longer_each_time() -> None:
    """There is capacity for the substream but not for the main stream: each recovery is tried less often."""
    site = machine(8, Camera(frozenset({DegradationStep.SUBSTREAM}), costs=(0.3, 0.3)))
    site.run(4 * 3600)
    downs = [now for now, change in site.changes if change.step is DegradationStep.SUBSTREAM]
    apart = [(later - earlier) // SECOND for earlier, later in itertools.pairwise(downs)]
    assert all(later >= earlier - 2 for earlier, later in itertools.pairwise(apart))
    assert apart[0] >= BACK_NS // SECOND
    assert MAX_BACK_NS // SECOND <= apart[-1] <= 2 * MAX_BACK_NS // SECOND
    assert len(site.changes) < 100


def test_a_stream_that_does_not_run_keeps_its_step() -> None:
    camera = Camera()
    site = machine(6, camera)
    site.run(120)
    assert camera.step is DegradationStep.SUBSTREAM
    camera.live = False
    assert site.run(3600) == []
    camera.live = True
    site.carries = 100
    assert [change.step for change in site.run(200)] == [DegradationStep.RATE, DegradationStep.NONE]


def test_a_step_that_cannot_be_carried_out_leaves_the_stream_unchanged() -> None:
    camera = Camera()
    site = machine(1, camera)
    site.broken = lambda change: change.step is DegradationStep.SUBSTREAM
    tried = site.run(300)
    assert camera.step is DegradationStep.RATE
    apart = AFTER_NS // SECOND
    assert 2 < len(tried) <= 2 + 300 // apart, "it is asked again, but not at once"
    camera.steps = frozenset({DegradationStep.MODEL})
    site.run(60)
    assert site.steps() == [DegradationStep.MODEL]


def test_a_restarted_stream_is_measured_again() -> None:
    camera = Camera()
    site = machine(2, camera)
    site.run(AFTER_NS // SECOND)
    camera.results = camera.lost = 0
    assert site.run(MIN_WINDOW_NS // SECOND + AFTER_NS // SECOND - 2) == []
    assert [change.step for change in site.run(5)] == [DegradationStep.RATE]


def test_measurements_before_a_lost_connection_do_not_count() -> None:
    camera = Camera()
    site = machine(2, camera)
    assert site.run(MIN_WINDOW_NS // SECOND + AFTER_NS // SECOND - 2) == []
    camera.live = False
    assert site.run(60) == []
    camera.live = True
    assert site.run(MIN_WINDOW_NS // SECOND + AFTER_NS // SECOND - 2) == []


def test_intermittent_capacity_does_not_count() -> None:
    camera = Camera(frozenset({DegradationStep.SUBSTREAM}))
    site = machine(6, camera)
    site.run(120)
    assert camera.step is DegradationStep.SUBSTREAM
    for _ in range(20):
        site.carries = 100
        assert site.run(BACK_NS // SECOND - 20) == []
        site.carries = 6
        assert site.run(20) == []


CAMERAS = st.builds(
    Camera,
    steps=st.sampled_from([ONLY_RATE, frozenset({DegradationStep.SUBSTREAM}), frozenset({DegradationStep.MODEL}), BOTH]),
    wanted_fps=st.sampled_from([1.0, 5.0, 12.5, 30.0]),
    camera_fps=st.sampled_from([5.0, 25.0]),
    weight=st.sampled_from([0.5, 1.0, 3.0]),
    costs=st.sampled_from([(0.5, 0.2), (0.9, 0.8), (1.0, 1.0), (0.1, 0.05)]),
)
LOADS = st.lists(st.tuples(st.sampled_from([1.0, 10.0, 30.0, 80.0, 1000.0]), st.integers(5, 200)), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(st.lists(CAMERAS, min_size=1, max_size=6), LOADS, st.data())
def test_the_order_is_always_kept_without_flapping(
    cameras: list[Camera], loads: list[tuple[float, int]], data: st.DataObject
) -> None:
    site = machine(1, *cameras)
    last: dict[str, tuple[int, Change]] = {}
    settled = 0
    for carries, seconds in loads:
        site.carries = carries
        for camera in cameras:
            camera.live = data.draw(st.integers(0, 4)) > 0
        for _ in range(seconds):
            changes = site.second()
            far = [change for change in changes if max(change.before, change.step) > DegradationStep.RATE]
            for change in changes:
                configured = [DegradationStep.NONE, DegradationStep.RATE, *sorted(change.load.steps)]
                place, before = configured.index(change.step), configured.index(change.before)
                assert abs(place - before) == 1, "one step at a time, none left out"
                patience = AFTER_NS if place > before else BACK_NS
                at, _ = last.get(change.stream, (0, None))
                assert site.now_ns - at >= patience
                assert change.load.live
                assert place < before or change.load.busy >= 0.85
                last[change.stream] = (site.now_ns, change)
            if far:
                assert site.now_ns - settled >= SETTLE_NS
                settled = site.now_ns
                assert len({(change.step, change.step > change.before) for change in far}) == 1, "all take the same"
    for camera in cameras:
        camera.live = True
    site.carries = 100_000
    for _ in range(6 * (MAX_BACK_NS + BACK_NS) // SECOND):
        if not any(site.steps()):
            break
        site.second()
    assert set(site.steps()) == {DegradationStep.NONE}, "where there is room, all is as it was wanted"
