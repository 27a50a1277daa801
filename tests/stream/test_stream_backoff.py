"""The wait before a source is opened again."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_infer.stream.backoff import Backoff, after_refusals

FRACTIONS = st.floats(0, 1, exclude_max=True)


def test_the_ceiling_doubles_up_to_the_maximum() -> None:
    backoff = Backoff(draw=lambda: 1.0)
    assert [backoff.next_s() for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_after_a_success_the_first_ceiling_applies() -> None:
    backoff = Backoff(draw=lambda: 1.0)
    for _ in range(5):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() == 0.5


def test_waits_are_spread_from_zero_to_the_ceiling() -> None:
    """Cameras that disconnect together reconnect spread over the whole wait."""
    draw = random.Random(7).random
    waits = []
    for _ in range(2000):
        backoff = Backoff(8, 30, draw=draw)
        waits.append(backoff.next_s())
    assert 0 <= min(waits) < 0.4
    assert 7.6 < max(waits) < 8
    assert statistics.fmean(waits) == pytest.approx(4, rel=0.1)


def test_waits_after_a_refusal_are_long() -> None:
    least, most = after_refusals(draw=lambda: 0.0), after_refusals(draw=lambda: 1.0)
    assert [least.next_s() for _ in range(5)] == [60] * 5
    assert [most.next_s() for _ in range(5)] == [60, 120, 240, 300, 300]


@given(st.floats(0.01, 10), st.floats(1, 1000), st.floats(0, 1), st.lists(FRACTIONS, min_size=1, max_size=2000))
def test_each_wait_is_within_its_limits(first: float, times: float, least: float, drawn: list[float]) -> None:
    numbers = iter(drawn)
    backoff = Backoff(first, first * times, first * least, lambda: next(numbers))
    ceiling = first
    for _ in drawn:
        assert first * least <= backoff.next_s() <= ceiling * (1 + 1e-9)
        ceiling = min(2 * ceiling, first * times)


@pytest.mark.parametrize(("first", "longest", "least"), [(0, 1, 0), (2, 1, 0), (1, 2, 1.5), (1, 2, -1)])
def test_invalid_limits_are_rejected(first: float, longest: float, least: float) -> None:
    with pytest.raises(ValueError, match="back-off"):
        Backoff(first, longest, least)
