"""A failure affects only what depends on it, and everything ends."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.pipeline.conftest import Sinks
from tests.pipeline.fakes import (
    LONG_S,
    EchoEngine,
    FakeSink,
    FakeSource,
    add,
    close,
    finish,
    make_supervisor,
    run_all,
    wait_for,
)
from vision_infer.analyze.track import Tracker
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import EngineError, OutputError, StreamError, VisionInferError
from vision_infer.core.frame import Frame
from vision_infer.pipeline import steps
from vision_infer.pipeline.status import StreamState


def fails_at(at: int, error: Exception) -> Any:
    def before(index: int) -> None:
        if index == at:
            raise error

    return before


@pytest.mark.parametrize("at", [0, 1, 7, 20])
def test_a_broken_source_does_not_affect_the_others(at: int) -> None:
    broken = FakeSource(1, before=fails_at(at, StreamError("s1.mp4: reading stopped", "it may be damaged")))
    sources = [FakeSource(0), broken, FakeSource(2)]
    shared = FakeSink()
    supervisor = run_all(EchoEngine(2, (1, 2)), sources, shared)
    assert shared.results("s0") == shared.results("s2") == list(range(20))
    assert shared.results("s1") == list(range(at))
    first, second, third = supervisor.records()
    assert (first.state, third.state) == (StreamState.ENDED, StreamState.ENDED)
    assert second.state is StreamState.FAILED
    assert str(second.error) == "s1.mp4: reading stopped: it may be damaged"
    assert (second.decoded, second.results) == (at, at)
    assert broken.closed.is_set()
    assert supervisor.error is None


def test_an_unexpected_error_is_a_stream_error() -> None:
    shared = FakeSink()
    broken = FakeSource(1, before=fails_at(3, ZeroDivisionError("oh")))
    supervisor = run_all(EchoEngine(), [FakeSource(0), broken], shared)
    error = supervisor.records()[1].error
    assert type(error) is StreamError
    assert "ZeroDivisionError" in error.message
    assert shared.results("s0") == list(range(20))
    assert shared.results("s1") == [0, 1, 2]


@pytest.mark.parametrize("error", [StreamError("none.mp4: no such file", "Check the path."), RuntimeError("oh")])
def test_a_source_that_does_not_open(error: Exception) -> None:
    shared = FakeSink()
    closed = FakeSource(0, open_error=error)
    supervisor = run_all(EchoEngine(), [closed, FakeSource(1)], shared, max_active=1)
    first, second = supervisor.records()
    assert first.state is StreamState.FAILED
    assert isinstance(first.error, StreamError)
    assert (first.decoded, first.results) == (0, 0)
    assert second.state is StreamState.ENDED
    assert shared.results() == list(range(20))


def test_gaps_of_a_source_that_breaks_are_counted() -> None:
    source = FakeSource(0)

    def before(index: int) -> None:
        source.gaps = index
        if index == 5:
            raise StreamError("broken")

    source.before = before
    supervisor = run_all(EchoEngine(), [source], FakeSink())
    assert supervisor.statuses()[0].gaps == 5


def test_an_image_that_cannot_be_written_costs_only_its_frame() -> None:
    """In batches with other frames, next to another stream; the gaps of the source are counted separately."""
    sources = [FakeSource(0, broken=frozenset({0, 5, 6, 19})), FakeSource(1)]
    sources[0].gaps = 2
    shared = FakeSink()
    supervisor = run_all(EchoEngine(2, (1, 2, 4)), sources, shared)
    whole = [index for index in range(20) if index not in (0, 5, 6, 19)]
    assert shared.results("s0") == whole
    assert shared.results("s1") == list(range(20))
    record, status = supervisor.records()[0], supervisor.statuses()[0]
    assert record.state is StreamState.ENDED
    assert record.dropped == {DropReason.FAILED: 4}
    assert (record.decoded, record.results) == (20, 16)
    assert status.gaps == 2 + 4


@pytest.mark.parametrize("error", [EngineError("echo-cpu-none failed", "Try again."), RuntimeError("out of memory")])
@pytest.mark.parametrize("drawing", [False, True])
def test_an_engine_failure_ends_the_run(error: Exception, drawing: bool) -> None:
    def run(batch: list[tuple[int, int]]) -> None:
        if (1, 6) in batch:
            raise error

    shared = FakeSink(drawing)
    engine = EchoEngine(2, (1, 2), run)
    sources = [FakeSource(number, count=10_000) for number in range(3)]
    supervisor = run_all(engine, sources, shared, {"every": 2}, max_active=2)
    assert isinstance(supervisor.error, EngineError)
    assert "echo-cpu-none" in supervisor.error.message
    assert shared.closes == [False]
    states = [record.state for record in supervisor.records()]
    assert states == [StreamState.STOPPED] * 3
    assert 6 not in shared.results("s1")
    for record in supervisor.records():
        inferred = record.results + record.dropped.get(DropReason.FAILED, 0) + record.dropped.get(DropReason.STOPPED, 0)
        left_out = record.dropped.get(DropReason.PACED, 0)
        passed = len([1 for name, _, result in shared.written if drawing and name == record.name and result is None])
        assert record.decoded == inferred + left_out + passed
    assert [engine.lend(1) for _ in range(2)]  # every buffer was returned


def test_streams_that_are_added_after_a_failure_do_not_keep_the_run_alive() -> None:
    """The engine fails on the first frame while the others are still being added."""

    def run(batch: list[tuple[int, int]]) -> None:
        raise EngineError("broken")

    sources = [FakeSource(number) for number in range(3)]
    supervisor = make_supervisor(EchoEngine(run=run), sources)
    supervisor.add(add(sources[0]))
    assert supervisor.wait(LONG_S)
    for source in sources[1:]:
        supervisor.add(add(source))
    assert supervisor.wait(LONG_S)
    close(supervisor)
    assert [record.state for record in supervisor.records()] == [StreamState.STOPPED] * 3
    assert not sources[1].opened.is_set()


def nonsense(outputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {"boxes": outputs["boxes"][..., :3], "scores": outputs["scores"], "class_ids": outputs["class_ids"]}


@pytest.mark.parametrize("change", [nonsense, lambda outputs: {}, lambda outputs: {**outputs, "scores": np.zeros((0, 1))}])
@pytest.mark.parametrize("drawing", [False, True])
def test_invalid_engine_outputs_end_the_run(change: Any, drawing: bool) -> None:
    shared = FakeSink(drawing)
    sources = [FakeSource(number, count=500) for number in range(3)]
    supervisor = run_all(EchoEngine(2, (1, 2), outputs=change), sources, shared, {"every": 3}, max_active=2)
    assert isinstance(supervisor.error, VisionInferError)
    assert supervisor.error.hint
    assert shared.closes == [False]
    assert StreamState.RUNNING not in [record.state for record in supervisor.records()]


def sink_fails_at(at: int, error: Exception) -> Any:
    def before(frame: Frame) -> None:
        if frame.index == at:
            raise error

    return before


@pytest.mark.parametrize("error", [OutputError("a.mp4: cannot be written", "choose another place"), ValueError("oh")])
@pytest.mark.parametrize("drawing", [False, True])
@pytest.mark.parametrize("at", [0, 3, 99])
def test_a_failing_sink_ends_only_its_stream(sinks: Sinks, error: Exception, drawing: bool, at: int) -> None:
    broken, other, healthy = FakeSink(drawing, sink_fails_at(at, error)), FakeSink(), FakeSink(drawing)
    sinks["broken"], sinks["other"], sinks["healthy"] = broken, other, healthy
    sources = [FakeSource(0, count=100), FakeSource(1, count=100)]
    shared = FakeSink()
    supervisor = make_supervisor(EchoEngine(2), sources, shared=[shared])
    supervisor.add(add(sources[0], "broken", "other"))
    supervisor.add(add(sources[1], "healthy"))
    finish(supervisor)
    first, second = supervisor.records()
    assert first.state is StreamState.FAILED
    assert isinstance(first.error, OutputError)
    assert second.state is StreamState.ENDED
    assert healthy.results() == shared.results("s1") == list(range(100))
    assert broken.results() == list(range(at))
    assert len(other.results()) == at
    assert len(broken.closes) == len(other.closes) == 1
    assert healthy.closes == [True]
    assert supervisor.error is None


@pytest.mark.parametrize("error", [OutputError("rows.jsonl: cannot be written"), OSError("oh")])
@pytest.mark.parametrize("drawing", [False, True])
def test_a_failing_shared_sink_ends_the_run(sinks: Sinks, error: Exception, drawing: bool) -> None:
    shared = FakeSink(drawing, sink_fails_at(5, error))
    sinks["own"] = own = FakeSink()
    sources = [FakeSource(number, count=100_000) for number in range(3)]
    supervisor = make_supervisor(EchoEngine(2), sources, shared=[shared], max_active=2)
    supervisor.add(add(sources[0], "own"))
    for source in sources[1:]:
        supervisor.add(add(source))
    finish(supervisor)
    assert isinstance(supervisor.error, OutputError)
    assert shared.closes == [False]
    assert own.closes == [False]
    assert own.results() == list(range(len(own.results())))
    assert all(record.state in (StreamState.FAILED, StreamState.STOPPED) for record in supervisor.records())


def test_a_shared_sink_that_cannot_be_finished() -> None:
    shared, second = FakeSink(close_error=OutputError("rows.jsonl: no space left")), FakeSink()
    source = FakeSource(0)
    supervisor = make_supervisor(EchoEngine(), [source], shared=[shared, second])
    supervisor.add(add(source))
    assert supervisor.wait(LONG_S)
    with pytest.raises(OutputError, match="no space left"):
        close(supervisor)
    assert second.closes == [True]
    close(supervisor)
    assert str(supervisor.error).startswith("rows.jsonl")


@pytest.mark.parametrize("error", [OutputError("own.mp4: cannot be finished"), KeyError("oh")])
@pytest.mark.parametrize("drawing", [False, True])
def test_a_sink_that_cannot_be_finished_fails_its_stream(sinks: Sinks, error: Exception, drawing: bool) -> None:
    sinks["own"], sinks["next"] = own, after = FakeSink(drawing, close_error=error), FakeSink()
    source = FakeSource(0)
    supervisor = make_supervisor(EchoEngine(), [source])
    supervisor.add(add(source, "own", "next"))
    finish(supervisor)
    (record,) = supervisor.records()
    assert record.state is StreamState.FAILED
    assert isinstance(record.error, OutputError)
    assert own.results() == after.results() == list(range(20))
    assert after.closes


@pytest.mark.parametrize("error", [OutputError("own.mp4: exists already", "--overwrite"), TypeError("oh"), OSError(28, "full")])
def test_an_output_that_does_not_open_fails_its_stream(sinks: Sinks, error: Exception) -> None:
    sinks["first"], sinks["broken"] = first, _ = FakeSink(), error
    sources = [FakeSource(0, count=10_000), FakeSource(1)]
    shared = FakeSink()
    supervisor = make_supervisor(EchoEngine(), sources, shared=[shared], max_active=1)
    supervisor.add(add(sources[0], "first", "broken"))
    supervisor.add(add(sources[1]))
    finish(supervisor)
    one, two = supervisor.records()
    assert one.state is StreamState.FAILED
    assert isinstance(one.error, OutputError)
    assert two.state is StreamState.ENDED
    assert first.closes == [False]
    assert sources[0].closed.is_set()
    assert shared.results("s1") == list(range(20))


def test_a_tracker_that_cannot_be_created_fails_its_stream(sinks: Sinks, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Tracker:
        raise VisionInferError("no memory for tracks")

    monkeypatch.setattr(steps, "Tracker", broken)
    sinks["own"] = own = FakeSink()
    supervisor = make_supervisor(EchoEngine(), [FakeSource(0), FakeSource(1)], shared=[FakeSink()])
    supervisor.add(add(FakeSource(0), "own", track=0.5))
    supervisor.add(add(FakeSource(1)))
    finish(supervisor)
    failed, other = supervisor.statuses()
    assert (failed.state, other.state) == (StreamState.FAILED, StreamState.ENDED)
    assert "no memory for tracks" in (failed.error or "")
    assert own.closes in ([], [False]), "it is not complete, or was not opened"


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_an_invalid_weight_fails_its_stream(sinks: Sinks, weight: float) -> None:
    sinks["own"] = own = FakeSink()
    source = FakeSource(0)
    supervisor = make_supervisor(EchoEngine(), [source])
    supervisor.add(add(source, "own", weight=weight))
    finish(supervisor)
    assert supervisor.records()[0].state is StreamState.FAILED
    assert own.closes == [False]


def test_duplicate_streams_and_unknown_lanes_are_refused() -> None:
    source = FakeSource(0)
    supervisor = make_supervisor(EchoEngine(), [source])
    supervisor.add(add(source))
    with pytest.raises(ValueError, match="s0"):
        supervisor.add(add(source))
    command = add(FakeSource(1))
    with pytest.raises(ValueError, match="other"):
        supervisor.add(type(command)(command.source, "other"))
    finish(supervisor)


def test_leaving_by_an_exception_stops_everything() -> None:
    blocked = threading.Event()
    source = FakeSource(0, count=10_000, before=lambda index: blocked.set() if index == 3 else None)
    shared = FakeSink()
    supervisor = make_supervisor(EchoEngine(), [source], shared=[shared])

    def use() -> None:
        with supervisor:
            supervisor.add(add(source))
            wait_for(blocked)
            raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        use()
    assert shared.closes == [False]
    assert source.closed.is_set()
