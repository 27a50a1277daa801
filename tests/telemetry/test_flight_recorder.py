"""The flight recorder: the outcome of each frame, in fixed memory."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest

from tests.pipeline.fakes import FakeImage
from tests.support.hand_clock import HandClock
from vision_infer.core.drop import DropReason
from vision_infer.core.frame import Frame
from vision_infer.core.trace import Trace
from vision_infer.telemetry.flight_recorder import MINUTE_NS, MINUTES_KEPT, OUTCOMES, RESULT, FlightRecorder

SECOND = 1_000_000_000
MS = 1_000_000
EVER = 1 << 62


@pytest.fixture
def clock() -> HandClock:
    return HandClock(5_000 * SECOND, 17 * SECOND)


def frame(index: int, captured_ns: int, trace: Trace | None = None) -> Frame:
    trace = trace or Trace(captured_ns=captured_ns, clock="arrival", decode_start_ns=captured_ns)
    return Frame("camera", index, index / 10, FakeImage(0, index), trace)


def test_a_frame_is_recorded_with_its_times_batch_engine_and_detections(clock: HandClock) -> None:
    recorder = FlightRecorder(clock)
    start = clock.now - 50 * MS
    trace = Trace(
        decode_start_ns=start + 1 * MS,
        decode_end_ns=start + 5 * MS,
        preprocess_start_ns=start + 10 * MS,
        preprocess_end_ns=start + 12 * MS,
        inference_start_ns=start + 12 * MS,
        inference_end_ns=start + 40 * MS,
        emitted_ns=start + 41 * MS,
        batch=4,
        captured_ns=start,
        clock="camera",
    )
    recorder.emitted(frame(7, start, trace), "onnxruntime-cpu-int8", 3)
    (reported,) = recorder.frames(0, EVER)
    assert (reported.outcome, reported.index, reported.captured_ns, reported.clock, reported.pts_s) == (
        RESULT,
        7,
        start,
        "camera",
        0.7,
    )
    assert (reported.batch, reported.engine, reported.detections) == (4, "onnxruntime-cpu-int8", 3)
    assert reported.at_ns == clock.now
    assert reported.times is not None
    assert {name: time - start for name, time in reported.times.items()} == {
        "decode_start_ns": 1 * MS,
        "decode_end_ns": 5 * MS,
        "preprocess_start_ns": 10 * MS,
        "preprocess_end_ns": 12 * MS,
        "inference_start_ns": 12 * MS,
        "inference_end_ns": 40 * MS,
        "emitted_ns": 41 * MS,
    }


@pytest.mark.parametrize("reason", DropReason)
def test_every_drop_is_recorded_with_its_reason(clock: HandClock, reason: DropReason) -> None:
    recorder = FlightRecorder(clock)
    recorder.dropped(reason, frame(1, clock.now))
    recorder.dropped(reason)
    reported = recorder.frames(0, EVER)
    assert [one.outcome for one in reported] == [reason.value, reason.value]
    assert [one.index for one in reported] == [1, None]
    assert reported[0].times == {"decode_start_ns": clock.now}
    assert reported[1].times is None
    assert recorder.minutes(clock.now, clock.now)[0].outcomes == {reason.value: 2}


def test_packets_are_counted_by_minute(clock: HandClock) -> None:
    recorder = FlightRecorder(clock)
    recorder.packets(90, 10)
    recorder.dropped(DropReason.PACED)
    recorder.packets(5, 1)
    clock.now += MINUTE_NS
    recorder.packets(7, 0)
    counts = [(one.packets_received, one.packets_lost, one.outcomes) for one in recorder.minutes(0, clock.now)]
    assert counts == [(95, 11, {"paced": 1}), (7, 0, {})]


def test_only_the_last_frames_are_kept_and_the_oldest_is_known(clock: HandClock) -> None:
    assert FlightRecorder(clock).frames_since_ns is None
    recorder = FlightRecorder(clock, frames=8)
    for index in range(20):
        clock.now += SECOND
        recorder.dropped(DropReason.PACED, frame(index, clock.now))
    assert [one.index for one in recorder.frames(0, EVER)] == list(range(12, 20))
    assert recorder.frames_since_ns == clock.now - 7 * SECOND
    assert sum(minute.outcomes["paced"] for minute in recorder.minutes(0, clock.now)) == 20


def test_a_time_range_is_selected_by_capture_time_newest_first(clock: HandClock) -> None:
    recorder = FlightRecorder(clock)
    first = clock.now
    for index in range(100):
        recorder.dropped(DropReason.PACED, frame(index, first + index * SECOND))
    found = recorder.frames(first + 10 * SECOND, first + 20 * SECOND)
    assert [one.index for one in found] == list(range(10, 20))
    assert [one.index for one in recorder.frames(first, EVER, limit=3)] == [97, 98, 99]
    assert recorder.frames(first - 10 * SECOND, first) == []


def test_the_last_day_is_known_by_minute_and_no_more(clock: HandClock) -> None:
    recorder = FlightRecorder(clock, frames=8)
    start = clock.now
    for minute in range(MINUTES_KEPT + 30):
        clock.now = start + minute * MINUTE_NS
        for _ in range(minute % 3 + 1):
            recorder.dropped(DropReason.STALE)
    minutes = recorder.minutes(0, clock.now)
    assert len(minutes) == MINUTES_KEPT
    assert (minutes[0].from_ns + 17 * SECOND) % MINUTE_NS == 0  # minutes of the wall clock
    assert [sum(minute.outcomes.values()) for minute in minutes] == [n % 3 + 1 for n in range(30, MINUTES_KEPT + 30)]
    assert [b.from_ns - a.from_ns for a, b in pairwise(minutes)] == [MINUTE_NS] * (MINUTES_KEPT - 1)


def test_a_minute_without_a_frame_is_left_out(clock: HandClock) -> None:
    recorder = FlightRecorder(clock)
    recorder.dropped(DropReason.STALE)
    clock.now += 3 * MINUTE_NS
    trace = Trace(captured_ns=clock.now - 250 * MS, emitted_ns=clock.now, decode_start_ns=clock.now)
    recorder.emitted(frame(0, 0, trace), "engine", 0)
    first, second = recorder.minutes(0, clock.now)
    assert second.from_ns - first.from_ns == 3 * MINUTE_NS
    assert second.outcomes == {RESULT: 1}
    assert (first.max_age_ms, second.max_age_ms) == (0, 250)


def test_values_out_of_range_are_clipped(clock: HandClock) -> None:
    recorder = FlightRecorder(clock)
    old = Trace(captured_ns=1, emitted_ns=clock.now, decode_start_ns=clock.now, batch=1000, clock="unknown")
    recorder.emitted(frame(0, 0, old), "engine", 1 << 20)
    for number in range(300):
        recorder.emitted(frame(number, clock.now), f"engine-{number}", 0)
    first, *_, last = recorder.frames(0, EVER)
    assert (first.batch, first.detections, first.clock) == (255, 65_535, "")
    assert last.engine == ""
    assert last.index == 299


def test_threads_can_write_and_read_at_the_same_time(clock: HandClock) -> None:
    recorder = FlightRecorder(clock, frames=64)
    rounds = 2000

    def write(reason: DropReason) -> None:
        for index in range(rounds):
            recorder.dropped(reason, frame(index, clock.now))

    threads = [threading.Thread(target=write, args=(reason,)) for reason in (DropReason.PACED, DropReason.FAILED)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert all(one.outcome in OUTCOMES for one in recorder.frames(0, EVER))
    assert recorder.minutes(clock.now, clock.now)[0].outcomes == {"paced": rounds, "failed": rounds}
