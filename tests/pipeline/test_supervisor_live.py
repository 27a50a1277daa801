"""Live streams: the newest frame wins, every other is counted, and nobody waits for a slow engine."""

from __future__ import annotations

import threading

import pytest

from tests.pipeline.fakes import LONG_S, EchoEngine, FakeSink, FakeSource, add, finish, make_supervisor, run_all, wait_for
from vision_infer.core.drop import DropReason
from vision_infer.pipeline.status import StreamState


def test_the_newest_frame_waits_and_the_older_are_superseded() -> None:
    """The engine holds the first frame until the camera has given all others: of them the last is left."""
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
    """It gives a thousand frames while the engine stands still: far more than any window."""
    all_given, go = threading.Event(), threading.Event()
    source = FakeSource(0, count=1000, live=True, before=lambda index: all_given.set() if index == 1000 else None)
    shared = FakeSink()
    supervisor = make_supervisor(EchoEngine(run=lambda batch: wait_for(go)), [source], shared=[shared])
    supervisor.add(add(source))
    wait_for(all_given, "the camera")
    go.set()
    finish(supervisor)
    assert shared.results()[-1] == 999


@pytest.mark.parametrize("workers", [1, 3])
def test_counts_add_up_with_recorded_streams_beside(workers: int) -> None:
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
        assert seen[-1] == 149  # the newest always comes through
    assert shared.results("s3") == list(range(150))


def test_a_live_stream_that_is_stopped_accounts_for_all() -> None:
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


def test_an_engine_that_fails_ends_live_streams_too() -> None:
    def run(batch: list[tuple[int, int]]) -> None:
        raise RuntimeError("gone")

    sources = [FakeSource(number, count=1_000_000, live=True) for number in range(2)]
    supervisor = run_all(EchoEngine(2, run=run), sources, FakeSink())
    assert supervisor.error is not None
    for record in supervisor.records():
        assert record.decoded == record.results + sum(record.dropped.values())


def test_what_is_drawn_of_a_live_stream_is_in_order_and_the_rest_is_counted() -> None:
    """Every second frame is inferred, the others are drawn as they are. A burst is more than the window lets in: the camera
    never waits, so what is superseded or finds no place is missing, and counted."""
    source, shared = FakeSource(0, count=120, live=True), FakeSink(needs_images=True)
    supervisor = make_supervisor(EchoEngine(2), [source], shared=[shared])
    supervisor.add(add(source, every=2))
    assert supervisor.wait(LONG_S)
    finish(supervisor)
    (record,) = supervisor.records()
    seen = shared.indices()
    assert seen == sorted(set(seen))
    assert len(seen) + sum(record.dropped.values()) == record.decoded == 120
    assert set(record.dropped) <= {DropReason.SUPERSEDED, DropReason.BACKLOGGED}
