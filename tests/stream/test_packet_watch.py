"""Measurements from packets with given times."""

from __future__ import annotations

import random

import pytest

from vision_infer.stream.discovery.packet_watch import PacketWatch
from vision_infer.stream.live.capture_clock import MS, SECOND, PacketTimes

FRAME = 40 * MS


def watched(
    order: list[int], key_every: int = 25, late_ms: list[float] | None = None, waited_ns: int = 30 * MS, **more: bool
) -> PacketWatch:
    """Return a watch of packets of 1000 bytes at 25 per second, in this presentation order."""
    watch = PacketWatch(**{"all_key": False, "timed": True} | more)
    for number, place in enumerate(order):
        late = 0 if late_ms is None else round(late_ms[number] * MS)
        times = PacketTimes(SECOND + number * FRAME + late, waited_ns, place * FRAME)
        watch.packet(1000, number % key_every == 0, False, times)
    return watch


def test_frame_rate_and_bit_rate() -> None:
    watch = watched(list(range(101)))
    assert watch.rate == pytest.approx(25)
    assert watch.bit_rate == pytest.approx(25 * 8000)
    assert (watch.frames, watch.key_interval_frames, watch.b_frames) == (101, 25, False)
    assert watch.key_interval_s == pytest.approx(1)
    assert watch.watched_s == pytest.approx(4)
    assert watch.jitter_ms() == 0


def test_too_few_packets_give_no_measurement() -> None:
    watch = watched([0, 1, 2])
    assert (watch.rate, watch.bit_rate, watch.jitter_ms(), watch.key_interval_s) == (None, None, None, None)
    assert PacketWatch(all_key=False, timed=True).rate is None


def test_jitter_is_the_95th_percentile_of_the_delay() -> None:
    late = [0.0] * 80 + [30.0] * 15 + [500.0] * 5
    random.Random(0).shuffle(late)
    assert watched(list(range(100)), late_ms=late).jitter_ms() == pytest.approx(30)


def test_packets_that_were_already_there_do_not_count_as_jitter() -> None:
    assert watched(list(range(100)), waited_ns=0).jitter_ms() is None


def test_b_frames_are_detected_by_their_order_and_do_not_count_as_jitter() -> None:
    order = [0] + [place for group in range(0, 60, 3) for place in (group + 3, group + 1, group + 2)]
    watch = watched(order)
    assert watch.b_frames
    assert watch.rate == pytest.approx(25)
    assert watch.jitter_ms() == pytest.approx(0, abs=1)


def test_the_key_frame_interval_is_the_longest_one() -> None:
    watch = PacketWatch(all_key=False, timed=True)
    for number in range(100):
        watch.packet(1000, number in (0, 10, 70, 90), False, PacketTimes(number * FRAME, FRAME, number * FRAME))
    assert watch.key_interval_frames == 60


def test_each_jpeg_frame_is_a_key_frame() -> None:
    assert watched(list(range(10)), key_every=1000, all_key=True).key_interval_frames == 1


def test_without_timestamps_arrivals_are_used() -> None:
    watch = PacketWatch(all_key=False, timed=False)
    for number in range(26):
        watch.packet(1000, False, number == 7, PacketTimes(number * FRAME, FRAME, None))
    assert watch.rate == pytest.approx(25)
    assert watch.damaged == 1
