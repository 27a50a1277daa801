"""The ages of frames of a stream without valid timestamps, with a passed-in time."""

from __future__ import annotations

import pytest

from tests.stream.test_capture_clock import EPOCH, INTERVAL, arrivals, camera
from vision_infer.stream.live.capture_clock import MS, SECOND, PacketTimes, UntimedClock


def ages_without_times(packets: list[tuple[int, int, int]], slow_from: int = 1000, decode_ns: int = 2 * INTERVAL) -> list[float]:
    """Return the estimated age of each frame when it was read, milliseconds."""
    clock, now, ages = UntimedClock(), EPOCH, []
    for number, (_, pts, arrival) in enumerate(packets):
        read = max(now, arrival)
        clock.packet(PacketTimes(read, read - now, None))
        ages.append((read - clock.captured(pts, read)) / MS)
        now = read + (decode_ns if number >= slow_from else MS)
    return ages


def test_a_packet_that_the_reader_waited_for_is_new() -> None:
    assert set(ages_without_times(arrivals(camera(200), lambda number: number % 7 * MS))) == {0.0}


def test_a_burst_after_a_stall_is_old() -> None:
    ages = ages_without_times(arrivals(camera(200), lambda number: 2 * SECOND if number == 100 else MS))
    assert ages[100] == pytest.approx(2000, abs=50)
    assert ages[120] == pytest.approx(1200, abs=100)
    assert ages[-1] == 0


def test_a_backlog_in_this_process_shows_as_age() -> None:
    ages = ages_without_times(arrivals(camera(200), lambda _: MS), slow_from=100)
    assert ages[-1] == pytest.approx(4000, rel=0.1)
    unknown = ages_without_times(arrivals(camera(200), lambda _: MS), slow_from=0)
    assert max(unknown) == 0, "a pace that was never seen makes nothing old"


def test_a_pause_makes_one_frame_old() -> None:
    taken = [(EPOCH + number * INTERVAL + (60 * SECOND if number >= 50 else 0), 0) for number in range(100)]
    ages = ages_without_times(arrivals(taken, lambda _: MS))
    assert [number for number, age in enumerate(ages) if age] == [50]


def test_a_burst_in_pieces_is_old() -> None:
    """The sender is interrupted between the frames, once for nearly a frame interval."""
    stalled, ends = 100, EPOCH + 100 * INTERVAL + 2 * SECOND

    def way(number: int) -> int:
        burst = ends + (number - stalled) * 5 * MS + (30 * MS if number > 110 else 0) - (EPOCH + number * INTERVAL)
        return max(MS, burst) if number >= stalled else MS

    packets = arrivals(camera(200), way)
    ages = ages_without_times(packets)
    true = [(arrival - taken) / MS for taken, _, arrival in packets]
    assert ages[stalled : stalled + 40] == pytest.approx(true[stalled : stalled + 40], abs=50)
    assert ages[-1] == 0


def test_a_lower_frame_rate_makes_one_frame_old() -> None:
    taken = [(EPOCH + number * INTERVAL + max(0, number - 50) * SECOND, 0) for number in range(100)]
    ages = ages_without_times(arrivals(taken, lambda _: MS))
    assert [number for number, age in enumerate(ages) if age] == [51]
