"""Decisions about late packets, with a synthetic camera, socket and decoder and their delays."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vision_infer.stream.live.backlog import MS, SECOND, Action, Backlog

INTERVAL = 40 * MS
MAX_AGE = 500 * MS
GOP = 50


@dataclass
class Read:
    """The decision about a packet, and the age of its frame when it was decoded."""

    number: int
    action: Action
    age_ms: float
    at_ns: int


def play(
    count: int,
    decode_ns: Callable[[int], int],
    way: Callable[[int], int] = lambda number: MS,
    gop: int = GOP,
    disposable: Callable[[int], bool] = lambda number: False,
    read_ns: int = MS // 20,
) -> list[Read]:
    """Play a camera's packets through a socket of unlimited capacity.

    Args:
        decode_ns: The decoding time of a frame.
        way: Returns the network delay of a packet.
    """
    backlog = Backlog(MAX_AGE)
    now, arrival, out = 0, 0, []
    for number in range(count):
        taken = number * INTERVAL
        arrival = max(arrival, taken + way(number))
        waited = arrival > now + MS
        now = max(now + read_ns, arrival)
        action = backlog.packet(now, now - taken, number % gop == 0, disposable(number), waited)
        if action in (Action.INFER, Action.DECODE):
            now += decode_ns(number)
        out.append(Read(number, action, (now - taken) / MS, now))
    return out


def inferred(reads: list[Read]) -> list[int]:
    return [read.number for read in reads if read.action is Action.INFER]


def check_references(reads: list[Read], gop: int, disposable: Callable[[int], bool]) -> None:
    """Check that no decoded frame references a skipped one."""
    broken = True
    for read in reads:
        if read.number % gop == 0 and read.action in (Action.INFER, Action.DECODE):
            broken = False
        elif read.action in (Action.INFER, Action.DECODE):
            assert not broken, f"frame {read.number} needs one that was left out"
        elif not disposable(read.number):
            assert read.action is Action.DISCARD
            broken = True
        else:
            assert read.action in (Action.SKIP, Action.DISCARD)


@given(st.integers(0, 2**32), st.integers(0, 300), st.sampled_from([1, 5, 50, 10_000]))
def test_a_healthy_stream_loses_no_frame(seed: int, jitter_ms: int, gop: int) -> None:
    rng = random.Random(seed)
    reads = play(400, lambda _: rng.randint(1, 20) * MS, lambda _: int(rng.random() * jitter_ms * MS), gop, lambda n: n % 3 == 1)
    assert inferred(reads) == list(range(400))


@pytest.mark.parametrize("decode_ms", [0.5, 5, 15])
def test_the_burst_after_a_stall_is_decoded_and_not_skipped(decode_ms: float) -> None:
    """Decoding two seconds of video takes less time than the wait for the next key frame."""
    reads = play(400, lambda _: int(decode_ms * MS), lambda number: 2 * SECOND if number == 110 else MS)
    assert {read.action for read in reads} == {Action.INFER, Action.DECODE}
    left_out = [read.number for read in reads if read.action is Action.DECODE]
    assert left_out == list(range(110, 110 + len(left_out)))
    back = next(read.at_ns for read in reads if read.number > 110 and read.action is Action.INFER)
    stalled_until = 110 * INTERVAL + 2 * SECOND
    assert back - stalled_until <= (len(left_out) + 1) * (decode_ms + 0.1) * MS + 5 * MS


def test_a_frame_that_is_too_old_is_never_inferred() -> None:
    reads = play(3000, lambda number: 90 * MS if 500 < number < 1000 else MS, lambda n: 3 * SECOND if n % 700 == 0 else MS)
    assert all(read.age_ms <= MAX_AGE / MS + 90 for read in reads if read.action is Action.INFER)


@pytest.mark.parametrize("slower", [1.3, 2, 4])
@pytest.mark.parametrize("gop", [25, 50, 250])
def test_a_decoder_that_cannot_keep_up(slower: float, gop: int) -> None:
    """The ages stay bounded, and there are results after each key frame."""
    reads = play(20_000, lambda _: int(slower * INTERVAL), gop=gop)
    check_references(reads, gop, lambda _: False)
    decoded = [read for read in reads if read.action in (Action.INFER, Action.DECODE)]
    assert max(read.age_ms for read in decoded) <= MAX_AGE / MS + 2 * 200 * slower + 4 * slower * INTERVAL / MS
    half = len(decoded) // 2
    assert max(read.age_ms for read in decoded[half:]) <= max(read.age_ms for read in decoded[:half]) + 1, "it does not grow"
    fresh = set(inferred(reads))
    begun = {number // gop for number in fresh}
    until_late = min(gop, MAX_AGE / ((slower - 1) * INTERVAL))
    assert len(fresh) >= 0.5 * len(begun) * until_late, "at least half of those that can be in time"
    assert len(begun) >= 20_000 / gop / (slower + 1), "at every key frame that is not skipped"


def test_disposable_frames_are_skipped_first() -> None:
    """Half the frames can be skipped, and decoding keeps up with the others without waiting for a key frame."""
    disposable = lambda number: number % 2 == 1  # noqa: E731
    reads = play(5000, lambda _: int(1.2 * INTERVAL), disposable=disposable, gop=10_000)
    check_references(reads, 10_000, disposable)
    kinds = {read.action for read in reads}
    assert Action.SKIP in kinds
    assert Action.DISCARD not in kinds
    assert max(read.age_ms for read in reads) < 800


def test_a_stream_that_is_always_late_is_decoded() -> None:
    """All packets arrive a second late: all are decoded, although none is inferred."""
    reads = play(1000, lambda _: MS, lambda _: SECOND)
    assert {read.action for read in reads} == {Action.DECODE}
    busy = play(1000, lambda _: int(0.99 * INTERVAL), lambda _: SECOND)
    assert all(read.action is Action.DECODE for read in busy if read.number % GOP == 0)


def test_a_stream_with_a_growing_delay_recovers_within_a_burst() -> None:
    """Packets arrive at half the pace for a while, then the backlog arrives at once: no key frame is needed to continue."""
    reads = play(2000, lambda _: MS, lambda number: number * INTERVAL if number < 200 else MS, gop=10_000)
    assert {read.action for read in reads} == {Action.INFER, Action.DECODE}
    assert reads[-1].action is Action.INFER


def test_decoding_starts_at_a_key_frame() -> None:
    backlog = Backlog(MAX_AGE)
    actions = [backlog.packet(number * INTERVAL, 0, number == 7, False, True) for number in range(9)]
    assert actions == [Action.DISCARD] * 7 + [Action.INFER] * 2


def test_a_stream_without_key_frames_is_decoded() -> None:
    """With intra refresh, no frame is marked as a key frame."""
    backlog = Backlog(MAX_AGE)
    actions = [backlog.packet(number * INTERVAL, 0, False, False, True) for number in range(500)]
    first = actions.index(Action.INFER)
    assert first * INTERVAL == 10 * SECOND
    assert set(actions[first:]) == {Action.INFER}


def test_frames_of_unknown_age_are_decoded_and_not_inferred() -> None:
    """The server's backlog does not trigger any skipping."""
    backlog = Backlog(MAX_AGE)
    actions = [backlog.packet(number * MS, None, number == 0, True, False) for number in range(1000)]
    assert set(actions) == {Action.DECODE}


@settings(max_examples=30)
@example(19)  # two key frames within ten seconds are skipped: there are key frames, so the next one is waited for
@given(st.integers(0, 2**32))
def test_no_reference_is_ever_missing_and_the_stream_recovers(seed: int) -> None:
    """Random stalls, slow phases and jitter, then a healthy minute."""
    rng = random.Random(seed)
    gop = rng.choice([10, 50, 125])
    slow = {number for start in rng.sample(range(1500), 5) for number in range(start, start + rng.randint(10, 200))}
    stalls = set(rng.sample(range(1500), 4))
    every = rng.choice([1, 2, 3])

    def disposable(number: int) -> bool:
        return number % every != 0 and number % gop != 0

    reads = play(
        3000,
        lambda number: 80 * MS if number in slow else 2 * MS,
        lambda number: rng.randint(1, 4) * SECOND if number in stalls else rng.randint(0, 30) * MS,
        gop,
        disposable,
    )
    check_references(reads, gop, disposable)
    assert all(read.age_ms <= MAX_AGE / MS + 80 for read in reads if read.action is Action.INFER)
    assert {read.action for read in reads[2000:]} == {Action.INFER}
