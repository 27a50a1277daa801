"""The histogram: every quantile within 1 % of the exact one, the mean exact, in fixed memory."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_infer.telemetry.histogram import RELATIVE_ERROR, Histogram

DURATION = st.one_of(
    st.integers(100, 10**13),
    st.floats(2, 13).map(lambda power: max(100, min(10**13, round(10**power)))),
    st.integers(100, 200),
)
QUANTILE = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]))


def recorded(durations_ns: list[int]) -> Histogram:
    histogram = Histogram()
    for duration_ns in durations_ns:
        histogram.record(duration_ns)
    return histogram


def exact(durations_ns: list[int], quantile: float) -> int:
    return sorted(durations_ns)[max(1, math.ceil(quantile * len(durations_ns))) - 1]


def counts(histogram: Histogram) -> tuple[int, int, int, int, list[float]]:
    quantiles = [histogram.quantile_ns(part / 20) for part in range(21)]
    return histogram.count, histogram.sum_ns, histogram.min_ns, histogram.max_ns, quantiles


@given(st.lists(DURATION, min_size=1, max_size=200), QUANTILE)
def test_a_quantile_is_within_one_per_cent_of_the_exact_one(durations_ns: list[int], quantile: float) -> None:
    found = recorded(durations_ns).quantile_ns(quantile)
    assert found == pytest.approx(exact(durations_ns, quantile), rel=RELATIVE_ERROR + 1e-9)


@given(st.lists(st.integers(0, 10**15), min_size=1, max_size=100))
def test_mean_and_extremes_are_exact_whatever_the_range(durations_ns: list[int]) -> None:
    histogram = recorded(durations_ns)
    assert histogram.count == len(durations_ns)
    assert histogram.sum_ns == sum(durations_ns)
    assert histogram.mean_ns() == sum(durations_ns) / len(durations_ns)
    assert (histogram.min_ns, histogram.max_ns) == (min(durations_ns), max(durations_ns))
    quantiles = counts(histogram)[4]
    assert quantiles == sorted(quantiles)
    assert quantiles[0] >= min(durations_ns)
    assert quantiles[-1] <= max(durations_ns)


@given(st.lists(DURATION, max_size=60), st.lists(DURATION, max_size=60))
def test_merging_is_recording_everything_in_one(first: list[int], second: list[int]) -> None:
    merged = recorded(first)
    merged.merge(recorded(second))
    assert counts(merged) == counts(recorded(first + second))


def test_an_empty_histogram_is_zero() -> None:
    histogram = Histogram()
    assert histogram.mean_ns() == histogram.quantile_ns(0.5) == 0.0
    assert (histogram.count, histogram.min_ns, histogram.max_ns) == (0, 0, 0)


def test_values_outside_the_range_count_in_the_outer_buckets() -> None:
    histogram = recorded([-5, 0, 100, 10**14])
    assert histogram.count == 4
    assert histogram.min_ns == 0
    assert histogram.quantile_ns(0.0) <= 100
    assert histogram.quantile_ns(1.0) >= 10**13


@pytest.mark.parametrize("quantile", [-0.1, 1.1, float("nan")])
def test_a_quantile_must_be_between_zero_and_one(quantile: float) -> None:
    with pytest.raises(ValueError, match="a quantile must be between 0 and 1"):
        Histogram().quantile_ns(quantile)


def test_its_memory_does_not_grow() -> None:
    histogram = Histogram()
    before = sys.getsizeof(histogram._buckets)
    for number in range(20_000):
        histogram.record(37 * number * number)
    assert sys.getsizeof(histogram._buckets) == before
    assert before < 16_384
