"""Recent measurements: the last minute, in fixed memory."""

from __future__ import annotations

import threading

import pytest

from vision_infer.telemetry.rolling import RollingHistogram, RollingRate

MS, S = 10**6, 10**9


def test_without_measurements_there_are_no_quantiles() -> None:
    assert RollingHistogram().quantiles_ms(5 * S) == {}


def test_quantiles_are_those_of_recent_values() -> None:
    rolling = RollingHistogram()
    for number in range(1000):
        rolling.record(1000 * S + number * 50 * MS, (number + 1) * MS)  # over 50 s: more than one slot
    found = rolling.quantiles_ms(1050 * S)
    assert set(found) == {"p50", "p95", "p99", "max"}
    assert found["p50"] == pytest.approx(500, rel=0.02)
    assert found["p95"] == pytest.approx(950, rel=0.02)
    assert found["p99"] == pytest.approx(990, rel=0.02)
    assert found["max"] == 1000


def test_values_older_than_a_minute_are_forgotten() -> None:
    rolling = RollingHistogram()
    rolling.record(1000 * S, 900 * MS)
    rolling.record(1030 * S, 10 * MS)
    assert rolling.quantiles_ms(1040 * S)["max"] == 900
    assert rolling.quantiles_ms(1061 * S)["max"] == 10
    assert rolling.quantiles_ms(1100 * S) == {}


def test_a_slot_is_forgotten_as_a_whole_after_its_time() -> None:
    rolling = RollingHistogram(slots=3, slot_ns=10 * S)
    rolling.record(99 * S, 7 * MS)
    assert rolling.quantiles_ms(119 * S)["max"] == 7  # slots 9, 10 and 11
    assert rolling.quantiles_ms(120 * S) == {}


def test_memory_is_bounded() -> None:
    rolling = RollingHistogram(slots=4, slot_ns=S)
    for second in range(10_000):
        rolling.record(second * S, MS)
    assert len(rolling._parts) == 4
    assert rolling.quantiles_ms(9_999 * S)["max"] == 1


def test_reading_while_another_thread_records_never_fails() -> None:
    rolling = RollingHistogram(slots=3, slot_ns=10)
    ended = threading.Event()

    def record() -> None:
        for number in range(3_000):
            rolling.record(number, MS)
        ended.set()

    thread = threading.Thread(target=record)
    thread.start()
    looks = 0
    while not ended.is_set() or looks < 10:
        found = rolling.quantiles_ms(0)
        assert not found or found["max"] == 1
        looks += 1
    thread.join()


def test_a_rate_is_that_of_the_last_ten_seconds() -> None:
    rate = RollingRate(2)
    assert list(rate.per_second) == [0, 0]
    rate.sample(0, 0, 100)
    assert list(rate.per_second) == [0, 0]
    for second in range(1, 21):
        rate.sample(second * S, second * 30, 100 + second * 5)
    assert list(rate.per_second) == [30, 5]
    for second in range(21, 40):
        rate.sample(second * S, 600, 200)
    assert list(rate.per_second) == [0, 0]


def test_two_samples_at_the_same_time_change_nothing() -> None:
    rate = RollingRate(1)
    rate.sample(S, 10)
    rate.sample(S, 20)
    assert list(rate.per_second) == [0]


def test_the_total_contains_all_values_and_never_decreases() -> None:
    rolling = RollingHistogram(slots=2, slot_ns=S)
    assert rolling.total().count == 0
    for second in range(10):
        rolling.record(second * S, second * 1_000_000)
        total = rolling.total()
        assert (total.count, total.max_ns) == (second + 1, second * 1_000_000)
    assert rolling.total().sum_ns == 45_000_000
