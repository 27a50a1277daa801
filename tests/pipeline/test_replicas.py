"""One lane on two devices: results stay in order, and a device that fails costs only the batch that it has."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.pipeline.fakes import LONG_S, EchoEngine, FakeImage, FakeSink, FakeSource, add, close, finish, make_lane, wait_for
from tests.pipeline.live_fakes import lane_of
from tests.support.hand_clock import HandClock
from tests.support.waiting import wait_until
from vision_infer.core.drop import DropReason
from vision_infer.core.errors import DeviceLostError, EngineError
from vision_infer.core.frame import Frame
from vision_infer.core.trace import Trace
from vision_infer.engine.gpu.accelerator import DeviceMemoryError
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.dispatch import REMOVE_AFTER, Dispatch
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.lanes.lane_table import LaneTable
from vision_infer.pipeline.status import ReplicaRemoval
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.schedule.batcher import Batcher
from vision_infer.stream.source import Source, SourceSpec

FRAMES = 200
Batch = list[tuple[int, int]]


def two_devices(first: EchoEngine, second: EchoEngine, name: str = "main") -> Lane:
    first.device_name, second.device_name = "cuda:0", "cuda:1"
    lane = make_lane(first) if name == "main" else lane_of(name, first)
    lane.add_engine(second)
    return lane


def supervise(lanes: list[Lane], sources: list[FakeSource], **options: Any) -> Supervisor:
    by_name = {source.name: source for source in sources}

    def open_stream(spec: SourceSpec, decode_threads: int, stopping: threading.Event) -> Source:
        return by_name[spec.name]

    return Supervisor(lanes, open_stream=open_stream, **options)


class Gate:
    """Holds a device's batches until it is opened."""

    def __init__(self) -> None:
        self.inside, self.go = threading.Event(), threading.Event()
        self.held: Batch = []

    def __call__(self, batch: Batch) -> None:
        if not self.go.is_set():
            self.held = batch
            self.inside.set()
            wait_for(self.go)


def dies_at(count: int, error: Exception) -> Callable[[Batch], None]:
    """Return a ``run`` for an engine that fails from its batch number ``count`` on."""
    before = iter(range(count))

    def run(batch: Batch) -> None:
        if next(before, None) is None:
            raise error

    return run


def test_results_stay_in_order_while_one_device_is_slow() -> None:
    gate = Gate()
    slow, fast, shared = EchoEngine(run=gate), EchoEngine(batch_sizes=(1, 2)), FakeSink()
    sources = [FakeSource(0, FRAMES), FakeSource(1, FRAMES)]
    supervisor = supervise([two_devices(slow, fast)], sources, shared=[shared])
    for source in sources:
        supervisor.add(add(source))
    wait_for(gate.inside)
    ((stream, _),) = gate.held
    other = f"s{1 - stream}"
    shared_before = shared.results
    wait_until(lambda: len(shared_before(other)) == FRAMES, "the stream without a frame on the slow device")
    gate.go.set()
    finish(supervisor)
    assert shared.results("s0") == shared.results("s1") == list(range(FRAMES))
    assert slow.batches
    (status,) = supervisor.lane_statuses()
    assert status.frames == sum(replica.frames for replica in status.replicas) == 2 * FRAMES
    assert [(one.device, one.batches, one.removed) for one in status.replicas] == [
        ("cuda:0", len(slow.batches), None),
        ("cuda:1", len(fast.batches), None),
    ]


@pytest.mark.parametrize("keep_going", [True, False])
@pytest.mark.parametrize("at", [0, 1, 7])
def test_a_device_that_dies_under_load_costs_its_batches_and_nothing_else(
    at: int, keep_going: bool, caplog: pytest.LogCaptureFixture
) -> None:
    removed: list[ReplicaRemoval] = []
    dying = EchoEngine(2, (1, 2, 4), run=dies_at(at, DeviceLostError("cuda:0 is gone", "Look at dmesg.")))
    other, shared = EchoEngine(2, (1, 2, 4)), FakeSink()
    sources = [FakeSource(number, FRAMES) for number in range(4)]
    lane = two_devices(dying, other)
    supervisor = supervise([lane], sources, shared=[shared], keep_going=keep_going, on_removed=removed.append)
    for source in sources:
        supervisor.add(add(source))
    finish(supervisor)
    assert supervisor.error is None
    lost = {frame for batch in dying.batches[at:] for frame in batch}
    assert lost
    assert len(dying.batches) <= at + dying.in_flight, "no batch went to it after it was gone"
    for record in supervisor.records():
        number = int(record.name[1:])
        missing = {index for stream, index in lost if stream == number}
        assert shared.results(record.name) == [index for index in range(FRAMES) if index not in missing]
        assert record.dropped.get(DropReason.FAILED, 0) == len(missing)
    assert removed == [ReplicaRemoval("main", "cuda:0", "echo-cpu-none", "cuda:0 is gone. Look at dmesg.")]
    (status,) = supervisor.lane_statuses()
    first, second = status.replicas
    assert (first.removed, second.removed) == ("cuda:0 is gone. Look at dmesg.", None)
    assert (status.failures, status.failing) == (first.failures, False)
    assert status.in_flight == other.in_flight
    expected = "main: echo-cpu-none on cuda:0 is no longer used, the lane continues on its other devices: cuda:0 is gone"
    assert [line.levelno for line in caplog.records if line.getMessage().startswith(expected)] == [logging.ERROR]


def test_a_device_that_fails_repeatedly_is_removed() -> None:
    bad = EchoEngine(run=dies_at(0, EngineError("bad", "worse")))
    other, shared, source = EchoEngine(), FakeSink(), FakeSource(0, FRAMES)
    supervisor = supervise([two_devices(bad, other)], [source], shared=[shared], keep_going=True)
    supervisor.add(add(source))
    finish(supervisor)
    assert len(bad.batches) == REMOVE_AFTER
    assert len(shared.results()) == FRAMES - REMOVE_AFTER
    (record,) = supervisor.records()
    assert record.dropped == {DropReason.FAILED: REMOVE_AFTER}


class TwoDevices:
    """A lane on two devices whose batches are run in order; the first device fails on request."""

    def __init__(self) -> None:
        self.clock, self.failing, self.count = HandClock(), True, 0
        self.error: EngineError = DeviceMemoryError("cuda:0 is out of memory", "Close other programs.")
        self.first = EchoEngine()
        self.dispatch = Dispatch(Batcher(1), self.clock)
        LaneTable([two_devices(self.first, EchoEngine())], self.dispatch, self.clock)
        self.dispatch.join("s0", "main", 100, 1.0)

    @property
    def removed(self) -> str:
        """Why the first device is not used."""
        return self.dispatch.load("main")[0].replicas[0].removed

    def run(self) -> None:
        """Run a batch on each device in use."""
        works = []
        for _ in range(1 if self.removed else 2):
            self.dispatch.offer("s0", "main", self.count, Frame("s0", self.count, None, FakeImage(0, 0), Trace()))
            works.append(self.dispatch.take())
            self.count += 1
        for work in works:
            assert work is not None
            assert work.batch is not None
            assert work.engine is not None
            failed = self.failing and work.engine is self.first
            self.dispatch.done(work.batch, work.engine, 0 if failed else 1000, self.error if failed else None)


def test_a_device_that_was_short_of_memory_is_used_again_after_some_time() -> None:
    """The time doubles, up to a limit, until a batch succeeds."""
    two = TwoDevices()
    for _ in range(REMOVE_AFTER):
        assert two.removed == ""
        two.run()
    for wait_s in (10, 20, 40, 80, 160, 300, 300):
        assert two.removed == f"cuda:0 is out of memory. Close other programs; it is used again in {wait_s} s"
        two.clock.move(wait_s - 0.1)
        assert two.dispatch.sample(two.clock.now) == []
        two.clock.move(0.1)
        assert two.dispatch.sample(two.clock.now) == [("main", "cuda:0")]
        assert two.removed == ""
        two.run()
    two.failing = False
    two.clock.move(300)
    assert two.dispatch.sample(two.clock.now) == [("main", "cuda:0")]
    two.run()
    two.failing = True
    for _ in range(REMOVE_AFTER):
        assert two.removed == ""
        two.run()
    assert two.removed.endswith("it is used again in 10 s")


def test_a_device_that_fails_for_another_reason_is_not_used_again() -> None:
    two = TwoDevices()
    two.error = EngineError("bad", "worse")
    for _ in range(REMOVE_AFTER):
        two.run()
    two.clock.move(10_000)
    assert two.dispatch.sample(two.clock.now) == []
    assert two.removed == "bad: worse"


def test_single_failures_do_not_remove_a_device() -> None:
    calls = iter(range(10_000))

    def run(batch: Batch) -> None:
        if next(calls) % REMOVE_AFTER:
            raise EngineError("bad", "worse")

    flaky, shared, source = EchoEngine(run=run), FakeSink(), FakeSource(0, FRAMES)
    supervisor = supervise([two_devices(flaky, EchoEngine())], [source], shared=[shared], keep_going=True)
    supervisor.add(add(source))
    finish(supervisor)
    (status,) = supervisor.lane_statuses()
    assert [one.removed for one in status.replicas] == [None, None]


def test_an_ordinary_failure_ends_a_run_that_does_not_keep_going() -> None:
    source = FakeSource(0, FRAMES)
    bad = EchoEngine(run=dies_at(0, EngineError("bad", "worse")))
    supervisor = supervise([two_devices(bad, EchoEngine())], [source])
    supervisor.add(add(source))
    assert supervisor.wait(LONG_S)
    close(supervisor)
    assert str(supervisor.error) == "bad: worse"


@pytest.mark.parametrize("keep_going", [True, False])
def test_the_last_device_fails_as_a_single_one(keep_going: bool) -> None:
    lost = [DeviceLostError("cuda:0 is gone"), EngineError("bad") if keep_going else DeviceLostError("cuda:1 is gone")]
    engines = [EchoEngine(run=dies_at(0, error)) for error in lost]
    source = FakeSource(0, FRAMES)
    supervisor = supervise([two_devices(engines[0], engines[1])], [source], keep_going=keep_going)
    supervisor.add(add(source))
    assert supervisor.wait(LONG_S)
    close(supervisor)
    assert (supervisor.error is None) is keep_going
    (status,) = supervisor.lane_statuses()
    assert [one.removed for one in status.replicas].count(None) == 1
    (record,) = supervisor.records()
    assert record.results == 0
    if keep_going:
        assert record.dropped == {DropReason.FAILED: FRAMES}
        assert status.failing


def test_a_lost_device_is_removed_from_every_lane() -> None:
    removed: list[ReplicaRemoval] = []
    source, gate = FakeSource(0, FRAMES), Gate()
    gone, other = EchoEngine(run=dies_at(0, DeviceLostError("cuda:0 is gone"))), EchoEngine()
    lanes = [two_devices(gone, other), two_devices(EchoEngine(run=gate), EchoEngine(), "two"), lane_of("alone", EchoEngine())]
    supervisor = supervise(lanes, [source], keep_going=True, on_removed=removed.append)
    supervisor.add(add(source))
    finish(supervisor)
    assert [(one.lane, one.device) for one in removed] == [("main", "cuda:0"), ("two", "cuda:0")]


def test_a_removed_device_returns_with_a_new_engine() -> None:
    reached, go = threading.Event(), threading.Event()

    def before(index: int) -> None:
        if index == 20:
            reached.set()
            wait_for(go)

    gone, new, shared = (
        EchoEngine(run=dies_at(0, DeviceLostError("gone"))),
        EchoEngine(in_flight=2, batch_sizes=(1, 8)),
        FakeSink(),
    )
    gate = Gate()
    source = FakeSource(0, FRAMES, before=before)
    supervisor = supervise([two_devices(gone, EchoEngine(run=gate))], [source], shared=[shared], keep_going=True)
    supervisor.add(add(source))
    wait_for(gate.inside)
    wait_until(lambda: supervisor.lane_statuses()[0].replicas[0].removed == "gone", "the removal")
    assert supervisor.swap_engine("main", new, LONG_S, replica=0) is gone
    assert supervisor.lane_statuses()[0].replicas[0].removed is None
    wait_until(lambda: bool(new.batches), "a batch of the new engine while the other device is busy")
    gate.go.set()
    go.set()
    finish(supervisor)
    assert len(shared.results()) == FRAMES - 1


class GpuEngine(EchoEngine):
    """An engine whose slots are on a GPU."""

    def __init__(self, gpu: int, **options: Any) -> None:
        super().__init__(**options)
        self.gpu = gpu


def test_streams_are_decoded_on_all_gpus_in_equal_numbers() -> None:
    gpus: dict[str, int | None] = {}
    go = threading.Event()
    sources = [FakeSource(number, 1, before=lambda _: wait_for(go)) for number in range(6)]

    def open_stream(spec: SourceSpec, threads: int, stopping: threading.Event) -> Source:
        gpus[spec.name] = spec.gpu
        return sources[int(spec.name[1:])]

    lane = two_devices(GpuEngine(0), GpuEngine(1))
    with Supervisor([lane], open_stream=open_stream) as supervisor:
        for source in sources:
            supervisor.add(AddStream(source.spec, "main"))
        wait_until(lambda: len(gpus) == 6, "six open streams")
        go.set()
        assert supervisor.wait(LONG_S)
    assert sorted(gpus.values(), key=str) == [0, 0, 0, 1, 1, 1]


def test_new_streams_are_not_decoded_on_a_gpu_that_is_gone() -> None:
    gpus: list[int | None] = []
    sources = [FakeSource(number, 3) for number in range(3)]

    def open_stream(spec: SourceSpec, threads: int, stopping: threading.Event) -> Source:
        gpus.append(spec.gpu)
        return sources[int(spec.name[1:])]

    lane = two_devices(GpuEngine(0, run=dies_at(0, DeviceLostError("gone"))), GpuEngine(1))
    with Supervisor([lane], open_stream=open_stream, keep_going=True) as supervisor:
        for source in sources:
            supervisor.add(AddStream(source.spec, "main"))
            assert supervisor.wait(LONG_S)
    assert gpus == [0, 1, 1]
