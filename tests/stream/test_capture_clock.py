"""Estimated capture times, for packets with synthetic arrival and capture times."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_infer.stream.live.capture_clock import MS, SECOND, CaptureClock, PacketTimes

INTERVAL = 40 * MS
EPOCH = 5_000 * SECOND


@dataclass
class Seen:
    """A packet as it was read, its true capture time, and the estimate."""

    taken_ns: int
    read_ns: int
    captured_ns: int
    settled: bool
    clock: str

    @property
    def wrong_ms(self) -> float:
        """The error of the estimate; positive if the frame is older than estimated."""
        return (self.captured_ns - self.taken_ns) / MS


def camera(count: int, pts_of: Callable[[int], int] = lambda number: number * INTERVAL) -> list[tuple[int, int]]:
    """Return the capture time and the PTS of each frame."""
    return [(EPOCH + number * INTERVAL, pts_of(number)) for number in range(count)]


def arrivals(taken: list[tuple[int, int]], way: Callable[[int], int]) -> list[tuple[int, int, int]]:
    """Return capture time, PTS and arrival: each arrives after ``way(number)``, and never before the previous one."""
    last, out = 0, []
    for number, (taken_ns, pts) in enumerate(taken):
        last = max(last, taken_ns + way(number))
        out.append((taken_ns, pts, last))
    return out


def watch(
    clock: CaptureClock,
    packets: list[tuple[int, int, int]],
    held: int = 0,
    started_ns: int = 0,
    camera_ns: Callable[[int], int | None] = lambda taken: None,
    dts: bool = True,
) -> Iterator[Seen]:
    """Read packets as fast as they arrive.

    Args:
        packets: The capture time, PTS and arrival of each packet.
        held: The number of packets by which the output is delayed, as by libavformat's parsers.
        started_ns: The time at which reading starts.
        camera_ns: Returns the camera's clock for a capture time.
    """
    now = started_ns
    for number, (taken, pts, arrival) in enumerate(packets):
        out = arrival
        if held:
            out = packets[number + held][2] if number + held < len(packets) else arrival + held * INTERVAL
        read = max(now, out)
        clock.packet(PacketTimes(read, read - now, pts, pts if dts else None, camera_ns(taken)))
        now = read
        yield Seen(taken, read, clock.captured(pts, read), clock.settled, clock.clock)


@pytest.mark.parametrize("held", [0, 1, 2])
@pytest.mark.parametrize("dts", [False, True])
def test_a_steady_camera(held: int, dts: bool) -> None:
    """The minimum network delay cannot be measured; the interval for which a parser holds a frame is measured."""
    clock = CaptureClock(held=held, interval_ns=INTERVAL)
    seen = list(watch(clock, arrivals(camera(500), lambda _: 2 * MS), held, EPOCH, dts=dts))
    assert all(1.9 < one.wrong_ms < 2.1 for one in seen)
    unknown = 3 if held == 2 else 2
    assert [one.settled for one in seen] == [False] * unknown + [True] * (500 - unknown)
    assert seen[9].read_ns - seen[9].captured_ns == pytest.approx(held * INTERVAL, abs=MS / 10)
    assert clock.clock_offset_ms is None


@pytest.mark.parametrize("held", [0, 1, 2])
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_jitter_shows_as_age(held: int, seed: int, max_ms: int) -> None:
    """After a second, the age of each frame is known to a few milliseconds, however late its packet arrives."""
    rng = random.Random(seed)
    packets = arrivals(camera(300), lambda _: int(rng.random() ** 2 * max_ms * MS))
    clock = CaptureClock(held=held, interval_ns=INTERVAL)
    seen = list(watch(clock, packets, held, EPOCH))
    assert all(-2.5 < one.wrong_ms < 5 + max_ms / 10 for one in seen[50:])
    assert all(one.captured_ns <= one.read_ns for one in seen)


def test_a_variable_frame_rate_with_a_parser() -> None:
    """The previous packet gives the arrival of this one: the frame interval is not used."""
    rng = random.Random(3)
    taken, at = [], EPOCH
    for _ in range(300):
        at += rng.choice([20, 40, 120]) * MS
        taken.append((at, at - EPOCH))
    clock = CaptureClock(held=1, interval_ns=10 * INTERVAL)  # the announced frame rate may be wrong
    seen = list(watch(clock, arrivals(taken, lambda _: MS), held=1, started_ns=EPOCH))
    assert all(abs(one.wrong_ms - 1) < 1 for one in seen[1:])


@pytest.mark.parametrize("held", [0, 1, 2])
def test_a_stall_and_the_burst_after_it(held: int) -> None:
    packets = arrivals(camera(300), lambda number: 2 * SECOND if number == 100 else MS)
    clock = CaptureClock(held=held, interval_ns=INTERVAL)
    seen = list(watch(clock, packets, held, EPOCH))
    ages = [(one.read_ns - one.captured_ns) / MS for one in seen]
    assert ages[101] == pytest.approx(1960, abs=50)
    assert ages[120] == pytest.approx(1200, abs=50)
    assert ages[160] < held * INTERVAL / MS + 5
    assert all(one.settled for one in seen[3:]), "its minimum was known before"


@pytest.mark.parametrize("held", [0, 1, 2])
@pytest.mark.parametrize("pace", [0.0, 0.02, 0.3, 0.6])
def test_a_backlog_on_opening_is_old(held: int, pace: float) -> None:
    """The server has buffered a second of video, and sends it as fast as the network allows."""
    opened = EPOCH + 25 * INTERVAL
    packets = []
    for number, (taken, pts) in enumerate(camera(200)):
        packets.append((taken, pts, max(taken + MS, opened + int(number * INTERVAL * pace))))
    clock = CaptureClock(held=held, interval_ns=INTERVAL)
    seen = list(watch(clock, packets, held, opened))
    settled = [number for number, one in enumerate(seen) if one.settled]
    assert not any(one.settled for one in seen[:22])
    assert settled[0] <= 25 / (1 - pace) + 3
    assert all(abs(one.wrong_ms) < 20 for one in seen if one.settled)


def test_a_single_old_key_frame_before_the_live_ones() -> None:
    """Some servers send the last key frame to each new client."""
    live = arrivals(camera(100), lambda _: MS)[40:]
    packets = [(EPOCH, 0, live[0][2] - 5 * MS), *live]
    seen = list(watch(CaptureClock(), packets, started_ns=live[0][2] - 6 * MS))
    assert not seen[0].settled
    assert not seen[1].settled, "it came right behind"
    assert seen[3].settled
    assert abs(seen[3].wrong_ms) < 2


@pytest.mark.parametrize("parts_per_million", [-150, 150])
def test_a_camera_that_drifts(parts_per_million: int) -> None:
    """Two hours: a quartz drifts by 20–100 parts per million, which is up to half a second."""
    count = 7200
    packets = [
        (at, int((at - EPOCH) * (1 + parts_per_million / 1e6)), at + MS) for at in range(EPOCH, EPOCH + count * SECOND, SECOND)
    ]
    seen = list(watch(CaptureClock(), packets, started_ns=EPOCH))
    assert all(abs(one.wrong_ms - 1) < 2 for one in seen)


@pytest.mark.parametrize("by_s", [-3600, -5, -1, -0.5, 1, 5, 3600])
@pytest.mark.parametrize("dts", [False, True])
def test_timestamps_that_jump(by_s: float, dts: bool) -> None:
    """Only a few frames after a jump count as old."""

    def pts(number: int) -> int:
        return number * INTERVAL + (int(by_s * SECOND) if number >= 100 else 0)

    seen = list(watch(CaptureClock(), arrivals(camera(500, pts), lambda _: MS), started_ns=EPOCH, dts=dts))
    # With B-frames, small steps back are normal: a jump is detected at the live edge only.
    late = 160 if -1 <= by_s < 0 and not dts else 1
    wrong = [number for number, one in enumerate(seen) if abs(one.wrong_ms) > 5]
    assert not [number for number in wrong if not 100 <= number < 100 + late]
    assert not [number for number in range(2, 500) if not seen[number].settled and not 100 <= number <= 102]


def test_a_single_invalid_timestamp() -> None:
    def pts(number: int) -> int:
        return number * INTERVAL + (86_400 * SECOND if number == 100 else 0)

    seen = list(watch(CaptureClock(), arrivals(camera(300, pts), lambda _: MS), started_ns=EPOCH))
    assert all(one.settled for one in seen[103:])
    assert all(abs(one.wrong_ms) < 5 for one in seen[103:])


def test_a_longer_network_path_is_a_new_base() -> None:
    packets = arrivals(camera(600), lambda number: 300 * MS if number >= 200 else MS)
    seen = list(watch(CaptureClock(), packets, started_ns=EPOCH))
    assert seen[250].wrong_ms == pytest.approx(1, abs=5), "it may be a backlog"
    assert seen[200 + 6 * 25].wrong_ms == pytest.approx(300, abs=5), "nothing waits there: the way is longer"


def test_a_backlog_in_this_process_shows_as_age() -> None:
    """Decoding keeps pace, 300 ms late: the reader never waits for a packet."""
    clock = CaptureClock()
    late = 0
    for taken, pts, arrival in arrivals(camera(1000), lambda _: MS):
        late = 300 * MS if pts > 100 * INTERVAL else 0
        read = arrival + late
        clock.packet(PacketTimes(read, 0 if late else 30 * MS, pts, pts))
        assert abs(clock.captured(pts, read) - taken) < 10 * MS


@pytest.mark.parametrize("slower", [0.01, 0.1, 0.5])
def test_packets_slower_than_real_time_get_older(slower: float) -> None:
    packets = arrivals(camera(1000), lambda number: MS + int(max(0, number - 100) * INTERVAL * slower))
    seen = list(watch(CaptureClock(), packets, started_ns=EPOCH))
    leaked = 1000 * INTERVAL * 200e-6 / MS
    assert all(one.wrong_ms < 2 + leaked * (1 + slower) for one in seen)


def test_timestamps_that_run_fast_do_not_count_as_a_backlog_forever() -> None:
    """The PTS of the camera run twice as fast as the time."""
    seen = list(
        watch(CaptureClock(), arrivals(camera(400, lambda number: 2 * number * INTERVAL), lambda _: MS), started_ns=EPOCH)
    )
    assert not any(one.settled for one in seen[:100])
    assert all(one.settled for one in seen[140:])
    assert all(abs(one.wrong_ms) < 5 for one in seen[140:])


def test_b_frames() -> None:
    """The PTS are not in order; a reference frame that arrives early determines the times of the earlier ones."""
    order = [0, 3, 1, 2, 6, 4, 5]
    for cycle in range(1, 60):
        order += [cycle * 6 + step for step in (3, 1, 2, 6, 4, 5)]
    packets, last = [], EPOCH
    for place, number in enumerate(order):
        last = max(last, EPOCH + (max(order[: place + 1])) * INTERVAL + MS)
        packets.append((EPOCH + number * INTERVAL, number * INTERVAL, last))
    clock = CaptureClock()
    now, wrong, settled = EPOCH, [], []
    for taken, pts, arrival in packets:
        clock.packet(PacketTimes(arrival, arrival - now, pts, None))
        now = arrival
        wrong.append((clock.captured(pts, arrival) - taken) / MS)
        settled.append(clock.settled)
    assert all(settled[2:])
    assert all(abs(one - 1) < 1 for one in wrong)


def test_packets_without_timestamps_are_as_old_as_their_arrival() -> None:
    clock = CaptureClock(held=1, interval_ns=INTERVAL)
    clock.packet(PacketTimes(EPOCH, 5, None))
    assert clock.captured(None, EPOCH) == EPOCH - INTERVAL
    assert not clock.settled


# The camera's own clock.


@pytest.mark.parametrize("offset_ms", [0, 1, 80, 450])
def test_the_cameras_clock_is_used_if_it_is_steady_and_plausible(offset_ms: int) -> None:
    clock = CaptureClock()
    packets = arrivals(camera(100), lambda _: 20 * MS)
    seen = list(watch(clock, packets, started_ns=EPOCH, camera_ns=lambda taken: taken + 20 * MS - offset_ms * MS))
    assert clock.clock_offset_ms == pytest.approx(offset_ms, abs=1)
    assert {one.clock for one in seen[:8]} == {"arrival"}
    assert {one.clock for one in seen[10:]} == {"camera"}
    assert all(one.wrong_ms == pytest.approx(20 - offset_ms, abs=1) for one in seen[10:])


@pytest.mark.parametrize("offset_ms", [-3_600_000, -50, 600, 7_200_000])
def test_a_camera_clock_with_a_wrong_time_is_not_used(offset_ms: int) -> None:
    clock = CaptureClock()
    packets = arrivals(camera(100), lambda _: MS)
    seen = list(watch(clock, packets, started_ns=EPOCH, camera_ns=lambda taken: taken + MS - offset_ms * MS))
    assert {one.clock for one in seen} == {"arrival"}
    assert clock.clock_offset_ms == pytest.approx(offset_ms, abs=1), "it is shown in any case"


def test_an_unsteady_camera_clock_is_not_used() -> None:
    rng = random.Random(2)
    clock = CaptureClock()
    packets = arrivals(camera(200), lambda _: 100 * MS)
    seen = list(watch(clock, packets, started_ns=EPOCH, camera_ns=lambda taken: taken + int(rng.uniform(0, 90) * MS)))
    assert {one.clock for one in seen} == {"arrival"}


def test_the_cameras_clock_stays_in_use_if_arrivals_jitter() -> None:
    rng = random.Random(5)
    clock = CaptureClock()
    packets = arrivals(camera(200), lambda _: 5 * MS + int(rng.random() * 60 * MS))
    seen = list(watch(clock, packets, started_ns=EPOCH, camera_ns=lambda taken: taken))
    assert {one.clock for one in seen[100:]} == {"camera"}
    assert all(one.captured_ns == one.taken_ns for one in seen[100:])


def test_the_camera_choice_always_uses_the_cameras_clock() -> None:
    clock = CaptureClock("camera")
    packets = arrivals(camera(50), lambda _: MS)
    seen = list(watch(clock, packets, started_ns=EPOCH, camera_ns=lambda taken: taken - 3 * SECOND))
    assert {one.clock for one in seen} == {"camera"}
    assert all(one.wrong_ms == -3000 for one in seen)
    ahead = list(watch(CaptureClock("camera"), packets, started_ns=EPOCH, camera_ns=lambda taken: taken + 3 * SECOND))
    assert all(one.captured_ns == one.read_ns for one in ahead), "nothing is taken after it came"


def test_the_arrival_choice_never_uses_the_cameras_clock() -> None:
    clock = CaptureClock("arrival")
    seen = list(watch(clock, arrivals(camera(50), lambda _: 20 * MS), started_ns=EPOCH, camera_ns=lambda taken: taken))
    assert {one.clock for one in seen} == {"arrival"}
    assert clock.clock_offset_ms == pytest.approx(20, abs=1)


@given(
    st.lists(st.tuples(st.integers(0, 10 * SECOND), st.integers(-(10**13), 10**13), st.booleans()), min_size=1, max_size=200),
    st.integers(0, 3),
)
def test_no_frame_is_captured_after_its_arrival(steps: list[tuple[int, int, bool]], held: int) -> None:
    clock = CaptureClock(held=held, interval_ns=INTERVAL)
    now = EPOCH
    for passed, pts, has_dts in steps:
        now += passed
        clock.packet(PacketTimes(now, passed, pts, pts if has_dts else None, now - 7 * MS))
        assert clock.captured(pts, now) <= now
        assert clock.captured(None, now) <= now
