"""Explanations of why a stream had results at a given time, or none, also over the API."""

from __future__ import annotations

import pytest

from tests.pipeline.fakes import FakeImage
from tests.service.fakes import Api, problem
from tests.support.hand_clock import HandClock
from vision_infer.core.drop import DropReason
from vision_infer.core.frame import Frame
from vision_infer.core.trace import Trace
from vision_infer.pipeline.status import Flight, StreamEvent, StreamState
from vision_infer.service.operations import why
from vision_infer.service.operations.why import explain
from vision_infer.telemetry.flight_recorder import OUTCOMES, FlightRecorder

SECOND = 1_000_000_000
MS = 1_000_000
BEGIN = 100_000 * SECOND


class Story:
    """A simulated history of a stream."""

    def __init__(self) -> None:
        self.clock = HandClock(BEGIN, 0)
        self.recorder = FlightRecorder(self.clock, frames=256)
        self.changes: list[StreamEvent] = []
        self.index = 0

    def state(self, state: StreamState, reason: str = "") -> None:
        self.changes.append(StreamEvent("camera", state, self.clock.now, reason, self.clock.now))

    def frames(self, count: int, reason: DropReason | None = None, detections: int = 0) -> None:
        for _ in range(count):
            self.clock.now += 100 * MS
            captured = self.clock.now - 40 * MS
            trace = Trace(captured_ns=captured, emitted_ns=0 if reason else self.clock.now, decode_start_ns=captured, batch=1)
            frame = Frame("camera", self.index, None, FakeImage(0, 0), trace)
            self.index += 1
            if reason is None:
                self.recorder.emitted(frame, "engine", detections)
            else:
                self.recorder.dropped(reason, frame)

    def why(self, at_ns: int) -> why.Verdict:
        return explain(Flight(self.recorder, tuple(self.changes), 10.0), at_ns, self.clock.now)


@pytest.fixture
def story() -> Story:
    return Story()


def test_every_outcome_has_a_meaning() -> None:
    assert set(OUTCOMES) - {"result"} == set(why._MEANINGS)


def test_results_are_explained_with_their_ages(story: Story) -> None:
    story.state(StreamState.LIVE)
    story.frames(30, detections=2)
    verdict = story.why(BEGIN + SECOND)
    assert " had results" in verdict.text
    assert "a median age of 40 ms" in verdict.text
    assert verdict.hint == ""


def test_frames_are_in_order_of_capture(story: Story) -> None:
    """A frame that is dropped at once has its outcome before an older one that waits for the engine."""
    story.state(StreamState.LIVE)
    for index, captured in ((2, 60 * MS), (1, 20 * MS), (3, 90 * MS)):
        trace = Trace(captured_ns=BEGIN + captured, emitted_ns=BEGIN + 100 * MS, decode_start_ns=BEGIN + captured, batch=1)
        story.recorder.emitted(Frame("camera", index, None, FakeImage(0, 0), trace), "engine", 0)
    assert [frame.index for frame in story.why(BEGIN).frames] == [1, 2, 3]


def test_results_without_objects_have_a_hint(story: Story) -> None:
    story.state(StreamState.LIVE)
    story.frames(30)
    verdict = story.why(BEGIN + SECOND)
    assert "; 0 of them contained objects" in verdict.text
    assert "confidence" in verdict.hint


@pytest.mark.parametrize("reason", DropReason)
def test_frames_without_results_are_explained_by_their_outcome(story: Story, reason: DropReason) -> None:
    story.state(StreamState.LIVE)
    story.frames(30, reason)
    verdict = story.why(BEGIN + SECOND)
    assert "none with a result" in verdict.text
    assert why._MEANINGS[reason.value][0] in verdict.text


@pytest.mark.parametrize("end", ["", "."])
def test_a_disconnected_camera_is_explained_with_its_reason_and_return(story: Story, end: str) -> None:
    story.state(StreamState.LIVE)
    story.frames(10)
    story.state(StreamState.BACKING_OFF, f"connection refused; next attempt in 4.0 s{end}")
    story.clock.now += 60 * SECOND
    story.state(StreamState.LIVE)
    story.frames(10)
    verdict = story.why(BEGIN + 31 * SECOND)
    assert verdict.text == (
        "The stream had been backing_off for 30.0 s: connection refused; next attempt in 4.0 s. "
        "The state changed to live 30.0 s later."
    )
    assert verdict.until is not None


def test_a_silent_camera_is_explained(story: Story) -> None:
    story.state(StreamState.LIVE)
    story.frames(10)
    story.clock.now += 20 * SECOND
    story.frames(10)
    assert "No frames arrived" in story.why(BEGIN + 10 * SECOND).text


def test_old_frames_are_explained_by_their_minute(story: Story) -> None:
    story.state(StreamState.LIVE)
    story.frames(200, DropReason.STALE)
    story.clock.now += 3600 * SECOND
    story.frames(300, detections=1)
    old = story.why(BEGIN + 5 * SECOND)
    assert old.frames == ()
    assert old.minute is not None
    assert "none with a result" in old.text
    assert why._MEANINGS["stale"][0] in old.text


def test_a_minute_with_results_lists_the_drops(story: Story) -> None:
    story.state(StreamState.LIVE)
    story.frames(20, detections=1)
    story.frames(20, DropReason.PACED)
    story.clock.now += 3600 * SECOND
    story.frames(300)
    assert "20 of 40 frames had results, with a maximum age of 40 ms, 20 paced" in story.why(BEGIN + 1 * SECOND).text


def test_the_future_and_the_unknown_past_are_explained(story: Story) -> None:
    story.state(StreamState.LIVE)
    story.frames(3)
    assert "in the future" in story.why(story.clock.now + SECOND).text
    assert "No data" in story.why(BEGIN - 3600 * SECOND).text


def test_lost_packets_are_reported_with_figures_and_what_to_do(story: Story) -> None:
    story.state(StreamState.LIVE)
    story.frames(20, detections=1)
    story.recorder.packets(980, 20)
    verdict = story.why(story.clock.now)
    assert verdict.text.endswith("In this minute, 20 of 1000 packets were lost (2.0%).")
    assert "transport: tcp" in verdict.hint
    story.frames(10, DropReason.DAMAGED)
    assert story.why(story.clock.now).hint.count("transport: tcp") == 1


def test_a_minute_in_which_packets_contained_no_frame_is_explained(story: Story) -> None:
    story.state(StreamState.LIVE)
    story.recorder.packets(5, 0)
    assert "No frames arrived in this minute" in story.why(story.clock.now).text


def test_frames_excluded_by_the_rate_are_ignored_if_the_engine_dropped_others() -> None:
    story = Story()
    story.state(StreamState.LIVE)
    for _ in range(10):
        story.frames(2, DropReason.PACED)
        story.frames(1, DropReason.SUPERSEDED)
    text = story.why(story.clock.now - SECOND).text
    assert "newer frames replaced them" in text
    assert "configured rate" not in text


def flight_record(clock: HandClock) -> Flight:
    recorder = FlightRecorder(clock)
    captured = clock.monotonic_ns() - 50 * MS
    trace = Trace(captured_ns=captured, clock="camera", decode_start_ns=captured + MS, emitted_ns=captured + 40 * MS, batch=2)
    recorder.emitted(Frame("front", 3, 0.3, FakeImage(0, 0), trace), "engine", 1)
    recorder.dropped(DropReason.STALE)
    secret = StreamEvent("front", StreamState.LIVE, captured - SECOND, "rtsp://user:secret@camera/1", 0)
    return Flight(recorder, (secret,), None, "ffmpeg", "the codec vp9 is not supported over RTP")


def test_frames_and_minutes_over_the_api() -> None:
    api = Api()
    api.backend.flight_record = flight_record(api.clock)
    name = api.backend.streams()[0].name
    answer = api.get(f"/api/v1/streams/{name}/frames").json()
    emitted, stale = answer["frames"]
    assert emitted["outcome"] == "result"
    assert emitted["age_ms"] == 40.0
    assert emitted["since_capture_ms"] == {"decode_start": 1.0, "result": 40.0}
    assert (emitted["batch"], emitted["engine"], emitted["detections"], emitted["clock"]) == (2, "engine", 1, "camera")
    assert (stale["outcome"], stale["index"], stale["captured"]) == ("stale", None, None)
    assert answer["minutes"][-1]["outcomes"] == {"result": 1, "stale": 1}
    assert answer["changes"][0]["state"] == "live"
    assert "secret" not in str(answer)


def test_why_over_the_api() -> None:
    api = Api()
    api.backend.flight_record = flight_record(api.clock)
    name = api.backend.streams()[0].name
    path = f"/api/v1/streams/{name}/why"
    answer = api.get(path).json()
    assert " had results" in answer["explanation"]
    assert answer["state"]["state"] == "live"
    assert (answer["ingest"], answer["ingest_reason"]) == ("ffmpeg", "the codec vp9 is not supported over RTP")
    assert "No data" in api.get(path, params={"at": "2001-01-01T00:00:00Z"}).json()["explanation"]
    for wrong in ("yesterday", "2001-01-01T00:00:00", "1e400"):
        problem(api.get(path, params={"at": wrong}), 422, "invalid")
    problem(api.get("/api/v1/streams/nobody/why"), 404, "unknown-stream")
    api.backend.flight_record = None
    problem(api.get(path), 503, "unavailable")
