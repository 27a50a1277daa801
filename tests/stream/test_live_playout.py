"""The due times of frames."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_infer.stream.live.playout import MS, SECOND, Playout

INTERVAL = 40 * MS
START = 7_000 * SECOND


@dataclass
class Player:
    """Reads packets that arrive at given times, and waits until each is due."""

    playout: Playout = field(default_factory=lambda: Playout(INTERVAL))
    now: int = START
    due: list[int] = field(default_factory=list)

    def read(self, dts: int | None, arrival: int = 0, decode_ns: int = MS) -> None:
        waited = arrival > self.now
        self.now = max(self.now, arrival)
        due = self.playout.packet_due(dts, self.now, waited)
        self.due.append(due)
        self.now = max(self.now, due)
        assert self.playout.frame_due(dts) <= self.now
        self.now += decode_ns

    def gaps(self) -> set[int]:
        return {later - earlier for earlier, later in zip(self.due, self.due[1:], strict=False)}


def test_a_file_is_played_in_real_time() -> None:
    player = Player()
    for number in range(1000):
        player.read(number * INTERVAL)
    assert player.due == [START + number * INTERVAL for number in range(1000)]
    assert player.playout.frame_due(999 * INTERVAL) == START + 999 * INTERVAL


def test_playback_continues_evenly_when_the_file_restarts() -> None:
    player = Player()
    for _ in range(3):
        for number in range(25):
            player.read(10 * SECOND + number * INTERVAL)
    assert player.gaps() == {INTERVAL}


def test_variable_frame_rates_are_preserved() -> None:
    times = [0, 40, 70, 200, 201, 400, 640, 650, 900, 1000]
    player = Player()
    for time in times:
        player.read(time * MS)
    assert player.due == [START + time * MS for time in times]


def test_frames_are_late_if_this_process_is_slow() -> None:
    """At half the real-time pace, the clock continues, as with a camera."""
    player = Player()
    for number in range(100):
        player.read(number * INTERVAL, decode_ns=2 * INTERVAL)
    assert player.due == [START + number * INTERVAL for number in range(100)]
    assert player.now - player.due[-1] == pytest.approx(100 * INTERVAL, rel=0.05)


def test_segments_that_arrive_in_bursts_are_played_evenly() -> None:
    """Each segment of two seconds arrives when it is complete, some later; after a delay, the buffer keeps it as a reserve."""
    player = Player()
    for segment in range(30):
        arrival = START + segment * 2 * SECOND + (segment * 37 % 11) * 50 * MS
        for number in range(50):
            player.read((segment * 50 + number) * INTERVAL, arrival)
    assert min(player.gaps()) == INTERVAL
    shifts = [gap - INTERVAL for gap in (b - a for a, b in zip(player.due, player.due[1:], strict=False)) if gap != INTERVAL]
    assert sum(shifts) <= 500 * MS
    assert len(shifts) <= 4, "soon there is enough"


@pytest.mark.parametrize("jump_s", [-3600, -0.5, 2, 3600])
def test_playback_continues_over_a_discontinuity(jump_s: float) -> None:
    player = Player()
    for number in range(100):
        player.read(number * INTERVAL + (int(jump_s * SECOND) if number >= 50 else 0))
    assert player.gaps() == {INTERVAL}


def test_a_low_frame_rate_is_not_a_discontinuity() -> None:
    """One frame every five seconds is not a jump."""
    player = Player(Playout(5 * SECOND))
    for number in range(10):
        player.read(number * 5 * SECOND)
    assert player.gaps() == {5 * SECOND}


def test_without_timestamps_the_frame_rate_is_used() -> None:
    player = Player()
    for _ in range(50):
        player.read(None)
    assert player.gaps() == {INTERVAL}


def test_b_frames_are_due_at_their_own_time() -> None:
    """Frames are decoded early and displayed in order: a reference frame is due after the frames that precede it."""
    playout = Playout(INTERVAL)
    for dts in range(7):  # of the frames 0, 3, 1, 2, 6, 4, 5
        due = playout.packet_due((dts - 1) * INTERVAL, START + dts * INTERVAL, False)
        assert due == START + dts * INTERVAL
    assert playout.frame_due(4 * INTERVAL) == START + 5 * INTERVAL


@given(st.lists(st.tuples(st.none() | st.integers(-(10**12), 10**12), st.integers(0, 3 * SECOND)), min_size=1, max_size=200))
def test_due_times_never_go_back_and_no_wait_is_long(steps: list[tuple[int | None, int]]) -> None:
    player = Player()
    for dts, later in steps:
        before = player.now
        player.read(dts, player.now + later)
        assert player.now - before - later <= SECOND + INTERVAL + MS, "a jump is not waited for"
    assert player.due == sorted(player.due)
