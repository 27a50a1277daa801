"""Nested phases become one fraction that never decreases; the remaining time is estimated when possible."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.hand_clock import HandClock
from vision_infer.engine.tensorrt.build_progress import BuildProgress, Phases, report_lines


def test_an_inner_phase_counts_as_a_part_of_a_step() -> None:
    seen: list[BuildProgress] = []
    phases = Phases(seen.append, HandClock(0))
    phases.start("whole", None, 2)
    phases.start("first half", "whole", 4)
    phases.step("first half", 0)
    assert seen[-1].fraction == pytest.approx(1 / 8)
    phases.finish("first half")
    assert seen[-1].fraction == pytest.approx(1 / 2)
    phases.step("whole", 0)
    assert seen[-1].fraction == pytest.approx(1 / 2)
    phases.start("second half", "whole", 2)
    phases.start("a tenth", "second half", 10)
    phases.step("a tenth", 4)
    assert seen[-1].fraction == pytest.approx(1 / 2 + 1 / 8)
    phases.end()
    assert (seen[-1].fraction, seen[-1].left_s) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("expected_s", "estimates_by_steps", "expected"),
    [
        (None, True, [None, None, 6.0]),
        (None, False, [None, None, None]),
        (10.0, False, [9.5, 8.0, 6.0]),
        (3.0, True, [2.5, 1.0, 6.0]),
    ],
)
def test_the_remaining_time(expected_s: float | None, estimates_by_steps: bool, expected: list[float | None]) -> None:
    seen: list[BuildProgress] = []
    clock = HandClock(0)
    phases = Phases(seen.append, clock, expected_s, estimates_by_steps=estimates_by_steps)
    phases.start("whole", None, 100)
    for now_s, step in ((0.5, 0), (2.0, 3), (4.0, 39)):
        clock.now = int(now_s * 1e9)
        phases.step("whole", step)
    assert [one.left_s if one.left_s is None else round(one.left_s, 6) for one in seen[1:]] == expected


CALL = st.tuples(st.sampled_from(["start", "step", "finish"]), st.integers(0, 4), st.integers(0, 4), st.integers(0, 9))


@given(st.lists(CALL, max_size=60))
def test_progress_never_decreases_or_leaves_its_bounds(calls: list[tuple[str, int, int, int]]) -> None:
    seen: list[BuildProgress] = []
    phases = Phases(seen.append, HandClock(0))
    for what, phase, parent, number in calls:
        if what == "start":
            phases.start(f"p{phase}", None if parent >= phase else f"p{parent}", number)
        elif what == "step":
            phases.step(f"p{phase}", number)
        else:
            phases.finish(f"p{phase}")
    phases.end()
    fractions = [one.fraction for one in seen]
    assert fractions == sorted(fractions)
    assert all(0 <= one <= 1 for one in fractions)


def test_lines_report_the_progress_every_ten_seconds() -> None:
    lines: list[str] = []
    report = report_lines("tensorrt-cuda-fp16", lines.append)
    for elapsed in range(0, 41, 4):
        report(BuildProgress("tactics", elapsed / 40, float(elapsed), None if elapsed < 20 else 40.0 - elapsed))
    assert lines == [
        "building tensorrt-cuda-fp16: 30 % after 12 s",
        "building tensorrt-cuda-fp16: 60 % after 24 s, about 16 s left",
        "building tensorrt-cuda-fp16: 90 % after 36 s, about 4 s left",
    ]
