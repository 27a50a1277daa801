"""Stopping early: decoded frames are finished and written, and everything ends."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.pipeline.conftest import Sinks
from tests.pipeline.fakes import LONG_S, EchoEngine, FakeSink, FakeSource, add, close, finish, make_supervisor, run_all, wait_for
from vision_infer.core.drop import DropReason
from vision_infer.pipeline.status import StreamEvent, StreamState


def at(index: int, reached: threading.Event) -> Any:
    return lambda now: reached.set() if now == index else None


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("drawing", [False, True])
@pytest.mark.parametrize("reached_at", [0, 1, 30])
def test_decoded_frames_are_finished_when_a_stream_stops(sinks: Sinks, drawing: bool, every: int, reached_at: int) -> None:
    reached = threading.Event()
    source = FakeSource(0, count=1_000_000, before=at(reached_at, reached))
    sinks["own"] = own = FakeSink(drawing)
    supervisor = make_supervisor(EchoEngine(2, (1, 2)), [source])
    supervisor.add(add(source, "own", every=every))
    wait_for(reached)
    supervisor.stop()
    finish(supervisor)
    (record,) = supervisor.records()
    assert record.state is StreamState.STOPPED
    assert record.error is None
    assert own.closes == [False]
    assert source.closed.is_set()
    assert record.dropped.get(DropReason.STOPPED, 0) <= 1
    paced = record.dropped.get(DropReason.PACED, 0)
    stopped = record.dropped.get(DropReason.STOPPED, 0)
    assert len(own.written) + paced + stopped == record.decoded
    inferred = own.results()
    assert inferred == list(range(0, len(inferred) * every, every))
    if drawing:
        assert own.indices() == list(range(len(own.written)))


def test_stopping_while_the_window_is_full_and_the_sink_slow() -> None:
    """The decoder waits for a credit; stopping wakes it up, and the frames in the window are still written."""
    go, full = threading.Event(), threading.Event()
    window = 4 + 2
    source = FakeSource(0, count=1000, before=lambda index: full.set() if index >= window else None)
    shared = FakeSink(True, before=lambda frame: wait_for(go, "the sink's gate"))
    supervisor = make_supervisor(EchoEngine(), [source], shared=[shared])
    supervisor.add(add(source))
    wait_for(full)
    for _ in range(5):  # stopping again does not let more frames in
        supervisor.stop()
        supervisor.remove("s0")
    assert not supervisor.wait(0)
    go.set()
    finish(supervisor)
    assert shared.results() == list(range(len(shared.written)))
    assert window <= len(shared.written) <= window + 1
    assert supervisor.records()[0].decoded <= window + 2


def test_waiting_streams_are_stopped_without_being_opened() -> None:
    go, begun = threading.Event(), threading.Event()

    def before(index: int) -> None:
        begun.set()
        wait_for(go)

    sources = [FakeSource(0, before=before), FakeSource(1), FakeSource(2)]
    supervisor = make_supervisor(EchoEngine(), sources, max_active=1)
    for source in sources:
        supervisor.add(add(source))
    wait_for(begun)
    assert [status.state for status in supervisor.statuses()] == [
        StreamState.RUNNING,
        StreamState.WAITING,
        StreamState.WAITING,
    ]
    supervisor.remove("s1")
    assert supervisor.statuses()[1].state is StreamState.STOPPED
    supervisor.stop()
    go.set()
    finish(supervisor)
    assert [record.state for record in supervisor.records()] == [StreamState.STOPPED] * 3
    assert not sources[1].opened.is_set()
    assert not sources[2].opened.is_set()


def test_removing_a_stream_does_not_affect_the_others() -> None:
    reached = threading.Event()
    removed, kept = FakeSource(0, count=1_000_000, before=at(10, reached)), FakeSource(1, count=200)
    late = FakeSource(2)
    shared = FakeSink()
    supervisor = make_supervisor(EchoEngine(2), [removed, kept, late], shared=[shared], max_active=2)
    for source in (removed, kept, late):
        supervisor.add(add(source))
    wait_for(reached)
    supervisor.remove("s0")
    supervisor.remove("nobody")
    finish(supervisor)
    states = [record.state for record in supervisor.records()]
    assert states == [StreamState.STOPPED, StreamState.ENDED, StreamState.ENDED]
    assert shared.results("s1") == list(range(200))
    assert shared.results("s2") == list(range(20))
    assert shared.results("s0") == list(range(len(shared.results("s0"))))
    assert shared.closes == [True]
    supervisor.remove("s1")  # an ended stream stays ended
    assert supervisor.records()[1].state is StreamState.ENDED


def test_streams_can_be_added_while_others_run() -> None:
    go = threading.Event()
    first, second = FakeSource(0, before=lambda index: wait_for(go) if index == 5 else None), FakeSource(1)
    shared = FakeSink()
    supervisor = make_supervisor(EchoEngine(), [first, second], shared=[shared])
    supervisor.add(add(first))
    shared.wait_written(5)
    supervisor.add(add(second))
    shared.wait_written(25)
    assert not supervisor.wait(0)
    go.set()
    finish(supervisor)
    assert shared.results("s0") == shared.results("s1") == list(range(20))


def test_closing_stops_all_streams_and_can_be_repeated() -> None:
    reached = threading.Event()
    source = FakeSource(0, count=1_000_000, before=at(5, reached))
    shared = FakeSink()
    supervisor = make_supervisor(EchoEngine(), [source], shared=[shared])
    supervisor.add(add(source))
    wait_for(reached)
    close(supervisor)
    close(supervisor)
    assert shared.closes == [False]
    assert supervisor.records()[0].state is StreamState.STOPPED


def test_a_supervisor_without_streams_ends_at_once() -> None:
    shared = FakeSink()
    supervisor = make_supervisor(EchoEngine(3), [], shared=[shared])
    assert supervisor.wait(LONG_S)
    close(supervisor)
    assert shared.closes == [True]


def test_stopping_at_any_moment_from_several_threads() -> None:
    """Many short runs; three threads stop, remove and close at different times."""
    for turn in range(40):
        reached = threading.Event()
        sources = [FakeSource(number, count=1_000_000, before=at(turn % 9, reached)) for number in range(3)]
        shared = FakeSink(turn % 2 == 0)
        supervisor = make_supervisor(EchoEngine(2, (1, 2)), sources, shared=[shared], max_active=1 + turn % 3)
        for source in sources:
            supervisor.add(add(source, every=1 + turn % 2))
        wait_for(reached)
        threads = [
            threading.Thread(target=supervisor.stop),
            threading.Thread(target=supervisor.remove, args=("s1",)),
            threading.Thread(target=supervisor.statuses),
        ]
        for thread in threads:
            thread.start()
        finish(supervisor)
        for thread in threads:
            thread.join(LONG_S)
        assert shared.closes == [False]
        for source in sources:
            seen = shared.results(source.name)
            assert seen == list(range(0, len(seen) * (1 + turn % 2), 1 + turn % 2))


def test_events_report_every_state_change() -> None:
    sources = [FakeSource(0), FakeSource(1, open_error=OSError("no way")), FakeSource(2)]
    events: list[StreamEvent] = []
    run_all(EchoEngine(), sources, FakeSink(), max_active=1, on_event=events.append)
    lives = {name: [event.state for event in events if event.stream == name] for name in ("s0", "s1", "s2")}
    assert lives["s0"] == lives["s2"] == [StreamState.OPENING, StreamState.RUNNING, StreamState.ENDED]
    assert lives["s1"] == [StreamState.OPENING, StreamState.FAILED]
    assert [event.at_ns for event in events] == sorted(event.at_ns for event in events)
    (failed,) = [event for event in events if event.state is StreamState.FAILED]
    assert "no way" in failed.reason
    assert "\n" not in failed.reason


def test_the_source_is_shown_without_its_password() -> None:
    class Camera(FakeSource):
        @property
        def spec(self) -> Any:
            spec = super().spec
            return type(spec)(spec.name, spec.kind, ("rtsp://user:secret@camera/1",))

    supervisor = run_all(EchoEngine(), [Camera(0)], FakeSink())
    assert supervisor.statuses()[0].source == "rtsp://user:***@camera/1"


def test_statistics_add_up() -> None:
    sources = [FakeSource(number, count=30) for number in range(3)]
    shared = FakeSink()
    supervisor = run_all(EchoEngine(2, (2, 4)), sources, shared, {"every": 3})
    account = supervisor.account().summary()
    assert sum(stage["share"] for stage in account.values()) == pytest.approx(1, abs=0.01)
    assert {histogram.count for name, histogram in supervisor.account().histograms.items()} == {30}
    work = supervisor.work()
    for busy in (work.decode, work.preprocess, work.inference, work.postprocess, work.write):
        assert 0 <= busy.busy_ns <= busy.present_ns
    assert 0 < supervisor.first_open_ns < supervisor.last_written_ns
    for _, _, result in shared.written:
        assert result is not None
        spent = result.latency
        parts = (spent.decode_ns, spent.queue_ns, spent.preprocess_ns, spent.inference_ns, spent.postprocess_ns)
        assert sum(parts) == spent.total_ns
        assert min(spent.decode_ns, spent.preprocess_ns, spent.postprocess_ns) >= 0
    for status, record in zip(supervisor.statuses(), supervisor.records(), strict=True):
        assert status.dropped == {"paced": 20}
        assert (status.decoded, status.results, status.detections, status.gaps) == (30, 10, 10, 0)
        assert status.frames_expected == 30
        assert record.present_ns >= record.decode_ns > 0
