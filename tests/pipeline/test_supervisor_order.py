"""No frame is lost or duplicated, and every stream keeps its order, in any order of finished batches."""

from __future__ import annotations

import random
import threading

import pytest

from tests.pipeline.conftest import Sinks
from tests.pipeline.fakes import (
    LONG_S,
    EchoEngine,
    FakeImage,
    FakeSink,
    FakeSource,
    add,
    finish,
    make_supervisor,
    run_all,
    wait_for,
)
from vision_infer.core.drop import DropReason
from vision_infer.pipeline.status import StreamEvent, StreamState


@pytest.mark.parametrize("drawing", [False, True])
@pytest.mark.parametrize(("workers", "batch"), [(1, (1,)), (3, (1,)), (2, (1, 2, 4)), (4, (4, 8))])
def test_no_frame_is_lost_or_duplicated(workers: int, batch: tuple[int, ...], drawing: bool) -> None:
    engine = EchoEngine(workers, batch)
    sources = [FakeSource(number, count=10 + 17 * number) for number in range(6)]
    shared = FakeSink(drawing)
    supervisor = run_all(engine, sources, shared)
    for source, record in zip(sources, supervisor.records(), strict=True):
        assert shared.results(source.name) == list(range(source.count))
        assert (record.decoded, record.results, record.detections) == (source.count,) * 3
        assert record.dropped == {}
        assert record.state is StreamState.ENDED
        assert source.closed.is_set()
    assert supervisor.error is None
    assert shared.closes == [True]
    real = sum(source.count for source in sources)
    assert sum(len(batch) for batch in engine.batches) == real + supervisor.padded
    assert {len(batch) for batch in engine.batches} <= set(batch)


def test_batches_can_finish_in_reverse_order() -> None:
    """Four workers hold one frame each; they are released from the last to the first."""
    gates = [threading.Event() for _ in range(20)]
    arrived = threading.Semaphore(0)

    def run(batch: list[tuple[int, int]]) -> None:
        arrived.release()
        wait_for(gates[batch[0][1]], f"the gate of {batch}")

    engine = EchoEngine(4, run=run)
    source, shared = FakeSource(0, count=20), FakeSink()
    supervisor = make_supervisor(engine, [source], shared=[shared])
    supervisor.add(add(source))
    for first in range(0, 20, 4):
        for _ in range(4):
            assert arrived.acquire(timeout=LONG_S)
        assert shared.indices() == list(range(first))
        for index in (first + 3, first + 2, first + 1):
            gates[index].set()
        # The three are done or almost done; none may leave before the first.
        assert shared.indices() == list(range(first))
        gates[first].set()
        shared.wait_written(first + 4)
    finish(supervisor)
    assert shared.results() == list(range(20))


def test_random_delays_keep_every_order() -> None:
    """Each batch waits until a random later one has started, or until there can be no more."""
    chance = random.Random(7)
    started = threading.Condition()
    count = [0]

    def run(batch: list[tuple[int, int]]) -> None:
        with started:
            count[0] += 1
            started.notify_all()
            target = count[0] + chance.randrange(3)
            started.wait_for(
                lambda: count[0] >= target, timeout=0.002
            )  # a chance to be overtaken; the test does not rely on the sleep

    engine = EchoEngine(4, (1, 2, 3), run)
    sources = [FakeSource(number, count=60) for number in range(3)]
    shared = FakeSink()
    run_all(engine, sources, shared)
    for source in sources:
        assert shared.results(source.name) == list(range(60))


@pytest.mark.parametrize("every", [1, 2, 5, 7, 100])
@pytest.mark.parametrize("drawing", [False, True])
def test_every_nth_frame_is_inferred_and_a_drawing_sink_gets_every_frame(sinks: Sinks, every: int, drawing: bool) -> None:
    source = FakeSource(0, count=31)
    sinks["rows"], sinks["video"] = rows, video = FakeSink(), FakeSink(needs_images=drawing)
    supervisor = make_supervisor(EchoEngine(2, (1, 2)), [source])
    supervisor.add(add(source, "rows", "video", every=every))
    finish(supervisor)
    inferred = list(range(0, 31, every))
    (record,) = supervisor.records()
    assert rows.results() == video.results() == inferred
    assert video.indices() == (list(range(31)) if drawing else inferred)
    assert (record.decoded, record.results) == (31, len(inferred))
    left_out = 31 - len(inferred)
    assert record.dropped == ({} if drawing or not left_out else {DropReason.PACED: left_out})
    assert rows.closes == video.closes == [True]


def test_a_window_bounds_the_images_in_memory() -> None:
    """The sink is blocked: the decoder continues until the window is full."""
    go = threading.Event()
    decoded = threading.Condition()
    reached = [0]

    def before(index: int) -> None:
        with decoded:
            reached[0] = index
            decoded.notify_all()

    source = FakeSource(0, count=200, before=before)
    shared = FakeSink(needs_images=True, before=lambda frame: wait_for(go, "the sink's gate"))
    engine = EchoEngine(2, (1, 2, 4))
    supervisor = make_supervisor(engine, [source], shared=[shared])
    window = 4 + 2 * 2 * 4
    supervisor.add(add(source))
    with decoded:
        assert decoded.wait_for(lambda: reached[0] >= window, LONG_S)
        assert not decoded.wait_for(lambda: reached[0] > window + 1, timeout=0.2)  # time for an error to show
    # The window, the frame that waits for a credit, and the one before it in the generator.
    assert len(FakeImage.alive) <= window + 2
    assert window <= supervisor.statuses()[0].decoded <= window + 1
    go.set()
    finish(supervisor)
    assert shared.results() == list(range(200))


@pytest.mark.parametrize("drawing", [False, True])
def test_images_are_freed_during_a_run(drawing: bool) -> None:
    """All results are written and the source waits: no thread holds an image."""
    go, waiting = threading.Event(), threading.Event()

    def before(index: int) -> None:
        if index == 50:
            waiting.set()
            wait_for(go, "the source's gate")

    source, shared = FakeSource(0, count=60, before=before), FakeSink(needs_images=drawing)
    supervisor = make_supervisor(EchoEngine(3, (1, 2)), [source], shared=[shared])
    supervisor.add(add(source))
    wait_for(waiting)
    shared.wait_written(50)
    alive = threading.Event()
    for _ in range(100):  # the threads return from the sink to their next wait
        if len(FakeImage.alive) <= 2:
            break
        alive.wait(0.05)
    assert len(FakeImage.alive) <= 2  # referenced by the stopped generator and its reader
    go.set()
    finish(supervisor)
    assert shared.results() == list(range(60))


def test_more_streams_than_the_limit_take_turns() -> None:
    """At most two are open at a time, in the order in which they were added."""
    lock = threading.Lock()
    now, most, opened = set[int](), [0], list[str]()

    def before_of(number: int, count: int = 8) -> FakeSource:
        def before(index: int) -> None:
            with lock:
                if index == 0:
                    now.add(number)
                    most[0] = max(most[0], len(now))
                if index == count:
                    now.discard(number)

        return FakeSource(number, count=count, before=before)

    sources = [before_of(number) for number in range(7)]
    shared = FakeSink()

    def on_event(event: StreamEvent) -> None:
        if event.state is StreamState.OPENING:
            opened.append(event.stream)

    supervisor = run_all(EchoEngine(2), sources, shared, max_active=2, on_event=on_event)
    assert most[0] <= 2
    assert opened == [source.name for source in sources]
    assert all(shared.results(source.name) == list(range(8)) for source in sources)
    assert [record.state for record in supervisor.records()] == [StreamState.ENDED] * 7
