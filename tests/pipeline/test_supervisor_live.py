"""Live streams: the newest frame wins, every other frame is counted, and the camera never waits for a slow engine."""

from __future__ import annotations

import threading

import pytest

from tests.pipeline.fakes import LONG_S, EchoEngine, FakeSink, FakeSource, add, finish, make_supervisor, run_all, wait_for
from vision_infer.core.drop import DropReason
from vision_infer.pipeline.status import StreamState


def test_the_newest_frame_waits_and_older_frames_are_superseded() -> None:
    """The engine holds the first frame until the camera has sent all others: only the last of them remains."""
    busy, go = threading.Event(), threading.Event()

    def run(batch: list[tuple[int, int]]) -> None:
        busy.set()
        wait_for(go, "the engine's gate")

    def before(index: int) -> None:
        if index == 1:
            wait_for(busy)
        if index == 50:
            go.set()

    source, shared = FakeSource(0, count=50, live=True, before=before), FakeSink()
    supervisor = run_all(EchoEngine(run=run), [source], shared)
    (record,) = supervisor.records()
    assert shared.results() == [0, 49]
    assert record.dropped == {DropReason.SUPERSEDED: 48}
    assert (record.decoded, record.results) == (50, 2)
    assert record.state is StreamState.ENDED


def test_a_camera_does_not_wait_for_the_engine() -> None:
    """The camera sends a thousand frames while the engine is blocked: far more than any window."""
    all_sent, go = threading.Event(), threading.Event()
    source = FakeSource(0, count=1000, live=True, before=lambda index: all_sent.set() if index == 1000 else None)
    shared = FakeSink()
    supervisor = make_supervisor(EchoEngine(run=lambda batch: wait_for(go)), [source], shared=[shared])
    supervisor.add(add(source))
    wait_for(all_sent, "the camera")
    go.set()
    finish(supervisor)
    assert shared.results()[-1] == 999


@pytest.mark.parametrize("workers", [1, 3])
def test_counts_add_up_next_to_recorded_streams(workers: int) -> None:
    cameras = [FakeSource(number, count=150, live=True) for number in range(3)]
    file = FakeSource(3, count=150)
    shared = FakeSink()
    supervisor = run_all(EchoEngine(workers, (1, 2)), [*cameras, file], shared)
    for record in supervisor.records():
        assert record.decoded == record.results + sum(record.dropped.values()) == 150
        assert set(record.dropped) <= {DropReason.SUPERSEDED}
        seen = shared.results(record.name)
        assert seen == sorted(set(seen))
        assert len(seen) == record.results
        assert seen[-1] == 149  # the newest frame always gets a result
    assert shared.results("s3") == list(range(150))


def test_a_stopped_live_stream_accounts_for_every_frame() -> None:
    reached = threading.Event()
    source = FakeSource(0, count=1_000_000, live=True, before=lambda index: reached.set() if index == 20 else None)
    shared = FakeSink()
    supervisor = make_supervisor(EchoEngine(2), [source], shared=[shared])
    supervisor.add(add(source))
    wait_for(reached)
    supervisor.stop()
    finish(supervisor)
    (record,) = supervisor.records()
    assert record.state is StreamState.STOPPED
    assert record.decoded == record.results + sum(record.dropped.values())
    seen = shared.results()
    assert seen == sorted(set(seen))


def test_an_engine_failure_ends_live_streams_too() -> None:
    def run(batch: list[tuple[int, int]]) -> None:
        raise RuntimeError("gone")

    sources = [FakeSource(number, count=1_000_000, live=True) for number in range(2)]
    supervisor = run_all(EchoEngine(2, run=run), sources, FakeSink())
    assert supervisor.error is not None
    for record in supervisor.records():
        assert record.decoded == record.results + sum(record.dropped.values())


def test_a_sink_that_draws_gets_a_live_stream_in_order_and_dropped_frames_are_counted() -> None:
    """The sink holds its first frame until the camera has sent a burst that is larger than the window."""
    all_sent = threading.Event()
    source = FakeSource(0, count=120, live=True, before=lambda index: all_sent.set() if index == 120 else None)
    shared = FakeSink(needs_images=True, before=lambda frame: wait_for(all_sent))
    supervisor = make_supervisor(EchoEngine(2), [source], shared=[shared])
    supervisor.add(add(source))
    assert supervisor.wait(LONG_S)
    finish(supervisor)
    (record,) = supervisor.records()
    seen = shared.indices()
    assert seen == sorted(set(seen))
    assert len(seen) + sum(record.dropped.values()) == record.decoded == 120
    assert set(record.dropped) <= {DropReason.SUPERSEDED, DropReason.BACKLOGGED}
