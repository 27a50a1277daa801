"""Another engine for a lane, and another lane for a stream, while frames pass: none is lost."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from tests.pipeline.fakes import (
    LONG_S,
    EchoEngine,
    FakeSink,
    FakeSource,
    add,
    close,
    finish,
    make_lane,
    make_supervisor,
    wait_for,
)
from vision_infer.analyze.select import Selector
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.stream.source import SourceSpec

FRAMES = 200


def paced(reached: threading.Event, go: threading.Event, at: int) -> Any:
    """Return a ``before`` for a source: it reports a frame, and waits there."""

    def before(index: int) -> None:
        if index == at:
            reached.set()
            wait_for(go)

    return before


@pytest.mark.parametrize(("old", "new"), [((1, (1,)), (1, (1,))), ((2, (1, 2, 4)), (1, (1,))), ((1, (1,)), (3, (1, 2, 8)))])
def test_a_lane_continues_with_another_engine(old: tuple[int, tuple[int, ...]], new: tuple[int, tuple[int, ...]]) -> None:
    reached, go = threading.Event(), threading.Event()
    source, other = FakeSource(0, FRAMES, before=paced(reached, go, 60)), FakeSource(1, FRAMES)
    first, second, shared = EchoEngine(*old), EchoEngine(*new), FakeSink()
    supervisor = make_supervisor(first, [source, other], shared=[shared])
    supervisor.add(add(source))
    supervisor.add(add(other))
    wait_for(reached)
    assert supervisor.swap_engine("main", second, LONG_S) is first
    batches = len(first.batches)
    go.set()
    finish(supervisor)
    assert shared.results("s0") == shared.results("s1") == list(range(FRAMES))
    assert len(first.batches) == batches  # no batch after it was returned
    assert second.batches
    (status,) = supervisor.lane_statuses()
    assert status.batch_sizes == new[1]


def test_the_old_engine_comes_back_when_its_last_batch_is_done() -> None:
    busy, go, swapped = threading.Event(), threading.Event(), threading.Event()

    def run(batch: list[tuple[int, int]]) -> None:
        busy.set()
        wait_for(go)

    source, shared = FakeSource(0, 20), FakeSink()
    first = EchoEngine(run=run)
    supervisor = make_supervisor(first, [source], shared=[shared])
    supervisor.add(add(source))
    wait_for(busy)
    assert supervisor.swap_engine("main", EchoEngine(), 0.01) is None  # it is still busy
    found: list[object] = []

    def swap() -> None:
        found.append(supervisor.swap_engine("main", EchoEngine(), LONG_S))
        swapped.set()

    threading.Thread(target=swap, daemon=True).start()
    go.set()
    wait_for(swapped)
    finish(supervisor)
    assert shared.results() == list(range(20))


def test_an_engine_that_does_not_fit_is_refused() -> None:
    other = EchoEngine()
    other.card = other.card.model_copy(update={"labels": ("cat",)})
    supervisor = make_supervisor(EchoEngine(), [])
    with pytest.raises(ValueError, match="labels"):
        supervisor.swap_engine("main", other)
    close(supervisor)


def test_a_live_stream_keeps_its_connection_in_another_lane() -> None:
    reached, go = threading.Event(), threading.Event()
    source, shared = FakeSource(0, FRAMES, live=True, before=paced(reached, go, 60)), FakeSink()
    opened: list[str] = []

    def open_stream(spec: SourceSpec, decode_threads: int, stopping: threading.Event) -> FakeSource:
        opened.append(spec.name)
        return source

    lanes = [make_lane(EchoEngine()), Lane("other", EchoEngine(), Selector(confidence=0.1, iou=None))]
    with Supervisor(lanes, [shared], open_stream=open_stream) as supervisor:
        command = add(source)
        supervisor.add(command)
        wait_for(reached)
        shared.wait_written(1)
        supervisor.change(replace(command, lane="other"))
        go.set()
        assert supervisor.wait(LONG_S)
        (record,) = supervisor.records()
    assert opened == ["s0"]
    assert record.decoded == record.results + sum(record.dropped.values()) == FRAMES
    assert shared.indices() == sorted(set(shared.indices()))
    assert shared.indices()[-1] == FRAMES - 1
    assert {status.name: status.frames > 0 for status in supervisor.lane_statuses()} == {"main": True, "other": True}
