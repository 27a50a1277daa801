"""Pacing: the rate is exact over time for any source, and bursts are not caught up."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_infer.schedule.pacing import Pacer

RATES = st.floats(0.2, 240)


def wanted(pacer: Pacer, times_ns: list[int]) -> list[int]:
    return [time_ns for time_ns in times_ns if pacer.wants(time_ns)]


def rounded(times_s: list[float], base_s: float) -> list[int]:
    return [round(round(time_s / base_s) * base_s * 1e9) for time_s in times_s]


@pytest.mark.parametrize(("source", "rate", "each"), [(30, 30, 1), (30, 15, 2), (60, 30, 2), (25, 5, 5), (50, 10, 5)])
@pytest.mark.parametrize("base_s", [1e-9, 1 / 90_000, 1e-3])
def test_whole_ratios_take_every_nth_frame_whatever_the_time_base(source: int, rate: int, each: int, base_s: float) -> None:
    times = rounded([number / source for number in range(1000)], base_s)
    assert wanted(Pacer(rate), times) == times[::each]


@pytest.mark.parametrize(
    ("source", "rate", "expected"), [(30, 12, 12), (25, 10, 10), (30, 29, 29), (25, 30, 25), (24, 23.976, 23.976)]
)
def test_other_ratios_are_exact_over_time(source: int, rate: float, expected: float) -> None:
    seconds = 1000
    times = rounded([number / source for number in range(source * seconds)], 1e-9)
    assert len(wanted(Pacer(rate), times)) == pytest.approx(expected * seconds, abs=2)


@settings(max_examples=150, deadline=None)
@given(RATES, RATES, st.floats(0, 0.5), st.integers(0, 9999))
def test_jitter_of_half_an_interval_changes_no_rate(source: float, rate: float, jitter: float, seed: int) -> None:
    """Half of the shorter of the two intervals, either way, which keeps the frames in order."""
    chance = Random(seed)
    reach_s = jitter * min(1 / source, 1 / rate)
    count = 1500
    times = rounded([1 + number / source + chance.uniform(-reach_s, reach_s) for number in range(count)], 1e-9)
    taken = wanted(Pacer(rate), times)
    points = (times[-1] - times[0]) / 1e9 * rate
    assert len(taken) == pytest.approx(min(count, points + 1), abs=3)


@settings(max_examples=200, deadline=None)
@given(RATES, st.lists(st.one_of(st.floats(0, 0.05), st.floats(0, 30), st.just(0.0)), min_size=1, max_size=300))
def test_bursts_and_gaps_never_exceed_the_rate(rate: float, steps_s: list[float]) -> None:
    """Between two selected frames there are as many intervals as frames, except for a late frame or two."""
    pacer = Pacer(rate)
    now_ns, times = 0, []
    for step_s in steps_s:
        now_ns += round(step_s * 1e9)
        times.append(now_ns)
    taken = wanted(pacer, times)
    assert taken[0] == times[0]
    interval_ns = 1e9 / rate
    for first, start_ns in enumerate(taken):
        for later in range(first + 1, len(taken)):
            assert later - first <= (taken[later] - start_ns) / interval_ns + 2.3


@given(RATES, st.lists(st.floats(0, 10), min_size=1, max_size=100))
def test_a_frame_an_interval_after_the_last_one_taken_is_always_taken(rate: float, steps_s: list[float]) -> None:
    pacer = Pacer(rate)
    interval_ns = round(1e9 / rate)
    now_ns, last_ns = 0, 0
    assert pacer.wants(0)
    for step_s in steps_s:
        now_ns += round(step_s * 1e9)
        taken = pacer.wants(now_ns)
        assert taken or now_ns < last_ns + interval_ns + min(10**6, interval_ns // 4)
        if taken:
            last_ns = now_ns


@given(RATES, st.floats(2.3, 1000))
def test_a_jump_back_sets_a_new_grid(rate: float, back: float) -> None:
    pacer = Pacer(rate)
    interval_ns = round(1e9 / rate)
    start_ns = 10**13
    assert pacer.wants(start_ns)
    jump_ns = start_ns - round(back * interval_ns)
    assert pacer.wants(jump_ns)
    assert not pacer.wants(jump_ns + interval_ns // 2)
    assert pacer.wants(jump_ns + interval_ns)


def test_a_small_step_back_selects_no_extra_frame() -> None:
    pacer = Pacer(10)
    assert pacer.wants(1_000_000_000)
    assert not pacer.wants(990_000_000)
    assert not pacer.wants(1_050_000_000)
    assert pacer.wants(1_100_000_000)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate_must_be_above_zero(rate: float) -> None:
    with pytest.raises(ValueError, match="frames_per_second must be a number above 0"):
        Pacer(rate)


def test_even_spacing() -> None:
    times = rounded([number / 30 for number in range(3000)], 1e-9)
    gaps = {round((later - earlier) * 30 / 1e9) for earlier, later in pairwise(wanted(Pacer(12), times))}
    assert gaps == {2, 3}
