"""A frame that waited for the engine until it was too old is not inferred."""

from __future__ import annotations

from tests.pipeline.fakes import EchoEngine, FakeImage, make_lane
from tests.support.hand_clock import HandClock
from vision_infer.core.frame import Frame
from vision_infer.core.trace import Trace
from vision_infer.pipeline.dispatch import Assignment, Dispatch
from vision_infer.schedule.batcher import Batcher

SECOND = 10**9


def frame(stream: str, index: int, captured_ns: int) -> Frame:
    return Frame(stream, index, None, FakeImage(0, index), Trace(captured_ns=captured_ns))


def dispatch(clock: HandClock) -> Dispatch:
    made = Dispatch(Batcher(1), clock)
    lane = make_lane(EchoEngine())
    made.add_lane(lane.settings, lane.engine)
    return made


def taken(from_: Dispatch) -> Assignment:
    found = from_.take()
    assert found is not None
    return found


def test_frames_that_waited_too_long_are_removed_and_younger_ones_go() -> None:
    clock = HandClock(100 * SECOND)
    made = dispatch(clock)
    for name in ("busy", "camera", "other"):
        made.join(name, "main", None, 1.0, SECOND // 2)
    made.offer("busy", "main", 0, frame("busy", 0, clock.now))
    first = taken(made)
    assert first.batch is not None
    assert first.engine is not None
    made.offer("camera", "main", 0, frame("camera", 0, clock.now - SECOND // 10))
    clock.now += SECOND // 2  # the engine takes long
    made.offer("other", "main", 0, frame("other", 0, clock.now))
    made.done(first.batch, first.engine, SECOND // 2)
    second = taken(made)
    assert [(entry.stream, entry.queued.sequence) for entry in second.outdated] == [("camera", 0)]
    assert second.batch is not None
    assert [entry.stream for entry in second.batch.entries] == ["other"]


def test_outdated_frames_are_reported_without_a_batch() -> None:
    clock = HandClock(100 * SECOND)
    made = dispatch(clock)
    made.join("camera", "main", None, 1.0, SECOND // 2)
    made.offer("camera", "main", 3, frame("camera", 3, clock.now))
    clock.now += SECOND
    found = taken(made)
    assert found.batch is None
    assert found.engine is None
    assert [(entry.stream, entry.queued.sequence) for entry in found.outdated] == [("camera", 3)]
    made.close()
    assert made.take() is None


def test_without_a_limit_or_a_capture_time_no_frame_is_too_old() -> None:
    clock = HandClock(100 * SECOND)
    made = dispatch(clock)
    made.join("file", "main", 4, 1.0)
    made.join("crops", "main", 4, 1.0, SECOND // 2)
    made.offer("file", "main", 0, frame("file", 0, clock.now))
    made.offer("crops", "main", 0, frame("crops", 0, 0))
    clock.now += 10 * SECOND
    one = taken(made)
    assert one.batch is not None
    assert one.engine is not None
    made.done(one.batch, one.engine, 1)
    two = taken(made)
    assert two.batch is not None
    assert not one.outdated
    assert not two.outdated
    assert {one.batch.entries[0].stream, two.batch.entries[0].stream} == {"file", "crops"}
