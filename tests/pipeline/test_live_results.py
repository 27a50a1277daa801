"""The additional fields of a live stream's results: time, age, clock, and the drops before."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import replace
from datetime import datetime

import jsonschema
import pytest

from tests.pipeline.fakes import EchoEngine, FakeSink, FakeSource, run_all, wait_for
from tests.pipeline.live_fakes import Camera, Rig, dropped
from tests.support.hand_clock import HandClock
from tests.support.waiting import wait_until
from vision_infer.config.zones import LineSettings, ZoneSettings
from vision_infer.core.drop import DropReason
from vision_infer.core.result import RESULT_SCHEMA, LiveAccount, Result, utc
from vision_infer.pipeline.hooks.frame import HookFrame
from vision_infer.pipeline.status import StreamState

CHECKER = jsonschema.Draft202012Validator(RESULT_SCHEMA, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
LIVE_FIELDS = {"captured_at", "age_ms", "clock", "dropped_before", "events"}
YARD = ZoneSettings(polygon=((0, 0), (256, 0), (256, 256), (0, 256)), min_s=0)
CORNER = ZoneSettings(polygon=((200, 200), (250, 200), (250, 250)), min_s=0)
GATE = LineSettings(from_=(58, 250), to=(58, 0))


def results(rig: Rig, stream: str = "s0") -> list[Result]:
    return [result for name, _, result in rig.sink.written if result is not None and name == stream]


def account(result: Result) -> LiveAccount:
    assert result.live is not None
    return result.live


def test_the_age_is_from_capture_to_emission_and_the_time_is_in_utc() -> None:
    clock = HandClock()
    camera = Camera(0, clock=clock)
    with Rig(clock=clock, engine=EchoEngine(run=lambda batch: clock.move(0.125))) as rig:
        rig.add(camera)
        captured = []
        for _ in range(3):
            captured.append(clock.wall_ns())
            rig.give(camera)
            clock.move(0.04)
    for result, wall_ns in zip(results(rig), captured, strict=True):
        live = account(result)
        assert (live.captured_wall_ns, live.age_ns, live.clock) == (wall_ns, 125_000_000, "arrival")
        row = json.loads(result.to_json())
        CHECKER.validate(row)
        assert (row["captured_at"], row["age_ms"], row["clock"]) == (utc(wall_ns), 125.0, "arrival")
        assert row["dropped_before"] == {}
        moment = datetime.fromisoformat(row["captured_at"])
        assert moment.timestamp() == pytest.approx(wall_ns / 1e9, abs=0.001)
    assert rig.supervisor.statuses()[0].age_ms["max"] == 125.0


def test_the_ages_of_the_last_minute_are_those_of_the_stream() -> None:
    clock = HandClock()
    slow_s = [0.5]
    camera = Camera(0, clock=clock)
    with Rig(clock=clock, engine=EchoEngine(run=lambda batch: clock.move(slow_s[0]))) as rig:
        rig.add(camera)
        rig.give(camera)
        slow_s[0] = 0.01
        clock.move(90)
        rig.give(camera, 10)
        ages = rig.status().age_ms
        assert ages["max"] == 10.0
        assert ages["p50"] == pytest.approx(10, rel=0.02)
        clock.move(90)
        assert rig.status().age_ms == {}


def test_the_reported_drops_add_up_to_all_drops() -> None:
    camera = Camera(0)
    stopped, go, fails = threading.Event(), threading.Event(), threading.Event()

    def run(batch: list[tuple[int, int]]) -> None:
        if batch == [(0, 3)]:
            stopped.set()
            wait_for(go)
        if fails.is_set():
            raise RuntimeError("lost")

    with Rig(engine=EchoEngine(run=run)) as rig:
        rig.add(camera)
        camera.drop(DropReason.TO_KEYFRAME, 7)
        rig.give(camera, 3)
        camera.give()
        wait_for(stopped)
        camera.drop(DropReason.STALE, 2)
        camera.give(6)
        camera.call(go.set)
        wait_until(lambda: rig.status().results == 5)
        camera.drop(DropReason.NOT_REFERENCED)
        camera.end()
        rig.give(camera, 2)
        fails.set()
        camera.give()
        wait_until(lambda: rig.status().dropped.get("failed"))
        fails.clear()
        rig.give(camera, 2)
        status = rig.status()
    reported: Counter[str] = Counter()
    for result in results(rig):
        reported.update(account(result).dropped_before)
        CHECKER.validate(json.loads(result.to_json()))
    assert reported == status.dropped == {"to_keyframe": 7, "stale": 2, "superseded": 5, "not_referenced": 1, "failed": 1}
    assert status.decoded == status.results + dropped(status)
    assert account(results(rig)[0]).dropped_before == {"to_keyframe": 7}
    assert account(results(rig)[3]).dropped_before == {"superseded": 5, "stale": 2}
    assert {reason.value for reason in DropReason} >= set(reported)


def only_even(frame: HookFrame, result: Result) -> Result | None:
    return result if result.frame % 2 == 0 else None


def test_rows_dropped_by_a_hook_are_reported_with_the_next_row() -> None:
    camera = Camera(0)
    with Rig() as rig:
        rig.add(camera, hook="tests.pipeline.test_live_results:only_even")
        rig.give(camera, 6)
        status = rig.status()
    assert [result.frame for result in results(rig)] == [0, 2, 4]
    assert [dict(account(result).dropped_before) for result in results(rig)] == [{}, {"hook": 1}, {"hook": 1}]
    assert status.dropped == {"hook": 3}
    assert status.hook is not None
    assert (status.hook.errors, status.hook.error) == (0, "")


def without_detections(frame: HookFrame, result: Result) -> Result:
    return replace(result, detections=result.detections[:0])


def test_a_hook_changes_detections_and_the_live_fields_stay() -> None:
    camera = Camera(0)
    with Rig() as rig:
        rig.add(camera, hook="tests.pipeline.test_live_results:without_detections")
        rig.give(camera, 2)
    for result in results(rig):
        assert len(result.detections) == 0
        assert account(result).age_ns > 0


def test_events_of_zones_and_lines_are_in_the_rows() -> None:
    clock = HandClock()
    camera = Camera(0, clock=clock)
    with Rig(clock=clock) as rig:
        rig.add(camera, track=0.3, zones={"yard": YARD}, lines={"gate": GATE})
        for _ in range(60):
            rig.give(camera)
            clock.move(0.04)
    rows = [json.loads(result.to_json()) for result in results(rig)]
    for row in rows:
        CHECKER.validate(row)
    events = [event for row in rows for event in row.get("events", [])]
    assert [(event["kind"], event["place"]) for event in events] == [("enter", "yard"), ("cross", "gate"), ("leave", "yard")]
    assert "events" not in rows[0]


@pytest.mark.parametrize("end", ["remove", "close", "camera", "change"])
def test_objects_leave_their_zones_when_the_stream_ends(end: str) -> None:
    """The last row has no detections, and a leave event for the object that is still in the zone."""
    clock = HandClock()
    camera = Camera(0, path="clip.mp4", clock=clock)
    with Rig(clock=clock) as rig:
        command = rig.add(camera, track=0.3, zones={"yard": YARD})
        for _ in range(20):
            rig.give(camera)
            clock.move(0.04)
        counted = rig.status().results
        if end == "change":
            rig.change(command, weight=2.0)
        if end == "remove":
            rig.supervisor.remove("s0")
        elif end == "camera":
            camera.end()
            rig.wait_state(StreamState.ENDED)
    written = results(rig)
    entered = next(event for result in written for event in result.events)
    assert counted == 20
    assert len(written) == 21
    *_, before, last = written
    assert (last.frame, last.pts_s, last.size, len(last.detections)) == (before.frame, before.pts_s, before.size, 0)
    CHECKER.validate(json.loads(last.to_json()))
    (left,) = last.events
    assert (left.kind, left.place, left.track_id) == ("leave", "yard", entered.track_id)
    assert left.id not in ("", entered.id)
    assert account(last).captured_wall_ns == pytest.approx(account(before).captured_wall_ns, abs=1e6)


def test_a_stream_whose_zones_are_empty_ends_without_another_row() -> None:
    camera = Camera(0)
    with Rig() as rig:
        rig.add(camera, track=0.3, zones={"corner": CORNER})
        rig.give(camera, 5)
    assert len(results(rig)) == 5


def test_zones_are_followed_over_a_lost_connection() -> None:
    """The connection is lost for a moment: the object has not moved, and leaves the zone only at the end."""
    clock = HandClock()
    camera = Camera(0, clock=clock)
    with Rig(clock=clock) as rig:
        rig.add(camera, track=0.3, zones={"yard": YARD})
        for number in range(20):
            rig.give(camera)
            clock.move(0.04)
            if number == 10:
                camera.end()
        # The camera numbers the frames of the second connection from 0, so the object jumps back ten pixels.
        assert rig.status().occupancy == {"yard": 1}
    assert [event.kind for result in results(rig) for event in result.events] == ["enter", "leave"]


def test_rows_of_recorded_streams_have_no_live_fields() -> None:
    source, shared = FakeSource(0, count=5), FakeSink()
    run_all(EchoEngine(), [source], shared)
    assert len(shared.written) == 5
    for _, _, result in shared.written:
        assert result is not None
        assert result.live is None
        row = json.loads(result.to_json())
        CHECKER.validate(row)
        assert not LIVE_FIELDS & set(row)


def test_sinks_get_frames_on_which_the_engine_failed_without_a_result() -> None:
    """The sinks get the frame in order, without a result."""

    def run(batch: list[tuple[int, int]]) -> None:
        if batch == [(0, 2)]:
            raise RuntimeError("lost")

    source, shared = FakeSource(0, count=5, broken=frozenset({3})), FakeSink()
    supervisor = run_all(EchoEngine(run=run), [source], shared, keep_going=True)
    assert [(index, result is None) for _, index, result in shared.written] == [
        (0, False),
        (1, False),
        (2, True),
        (3, True),
        (4, False),
    ]
    assert supervisor.records()[0].dropped == {DropReason.FAILED: 2}
