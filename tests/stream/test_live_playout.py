"""When it is a picture's turn."""

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
    """Reads packets that arrive at given times, and waits for the turn of each."""

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


def test_it_goes_on_evenly_where_the_file_begins_again() -> None:
    player = Player()
    for _ in range(3):
        for number in range(25):
            player.read(10 * SECOND + number * INTERVAL)
    assert player.gaps() == {INTERVAL}


def test_variable_frame_rates_are_kept() -> None:
    times = [0, 40, 70, 200, 201, 400, 640, 650, 900, 1000]
    player = Player()
    for time in times:
        player.read(time * MS)
    assert player.due == [START + time * MS for time in times]


def test_pictures_are_late_where_we_are_slow() -> None:
    """Twice as slow as real time: the clock goes on, as a camera would."""
    player = Player()
    for number in range(100):
        player.read(number * INTERVAL, decode_ns=2 * INTERVAL)
    assert player.due == [START + number * INTERVAL for number in range(100)]
    assert player.now - player.due[-1] == pytest.approx(100 * INTERVAL, rel=0.05)


def test_segments_come_in_bursts_and_are_played_evenly() -> None:
    """Each holds two seconds and comes when it is complete, some later; what was short once is in reserve from then on."""
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
def test_a_discontinuity_is_played_over(jump_s: float) -> None:
    player = Player()
    for number in range(100):
        player.read(number * INTERVAL + (int(jump_s * SECOND) if number >= 50 else 0))
    assert player.gaps() == {INTERVAL}


def test_a_pause_that_belongs_to_the_stream_is_kept() -> None:
    """A picture each five seconds is no jump."""
    player = Player(Playout(5 * SECOND))
    for number in range(10):
        player.read(number * 5 * SECOND)
    assert player.gaps() == {5 * SECOND}


def test_without_times_it_goes_by_the_rate() -> None:
    player = Player()
    for _ in range(50):
        player.read(None)
    assert player.gaps() == {INTERVAL}


def test_b_frames_are_due_by_their_own_time() -> None:
    """Decoded early, shown in order: a reference frame's turn comes after that of the frames before it."""
    playout = Playout(INTERVAL)
    for dts in range(7):  # of the pictures 0, 3, 1, 2, 6, 4, 5
        due = playout.packet_due((dts - 1) * INTERVAL, START + dts * INTERVAL, False)
        assert due == START + dts * INTERVAL
    assert playout.frame_due(4 * INTERVAL) == START + 5 * INTERVAL


@given(st.lists(st.tuples(st.none() | st.integers(-(10**12), 10**12), st.integers(0, 3 * SECOND)), min_size=1, max_size=200))
def test_turns_never_go_back_and_nothing_waits_long(steps: list[tuple[int | None, int]]) -> None:
    player = Player()
    for dts, later in steps:
        before = player.now
        player.read(dts, player.now + later)
        assert player.now - before - later <= SECOND + INTERVAL + MS, "a jump is not waited for"
    assert player.due == sorted(player.due)
