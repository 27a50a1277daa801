"""Dispatch between threads: an idle worker is woken up when there is a batch, and only then."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pipeline.fakes import LONG_S, EchoEngine, FakeImage
from tests.support.waiting import wait_until
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.frame import Frame
from vision_infer.core.trace import Trace
from vision_infer.pipeline.dispatch import Dispatch
from vision_infer.pipeline.idle import Idle
from vision_infer.schedule.batcher import Batch, Batcher
from vision_infer.schedule.lane_state import LaneSettings
from vision_infer.schedule.queues import QueuedItem

PLACES = 1000


def frame(stream: str, index: int) -> Frame:
    return Frame(stream, index, None, FakeImage(0, index), Trace())


@dataclass
class Workers:
    """Threads that take batches, and hold each until the test releases it."""

    dispatch: Dispatch
    count: int
    taken: list[tuple[str, int]] = field(default_factory=list)
    ending: bool = False
    _held: dict[int, tuple[Batch[Frame], threading.Event]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    @property
    def held(self) -> list[Batch[Frame]]:
        """The batches that are in the engine."""
        with self._lock:
            return [batch for batch, _ in self._held.values()]

    def hold(self, count: int) -> None:
        """Wait until this number of batches is in the engine, and all other workers are idle."""
        wait_until(lambda: len(self.held) == count, f"{count} batches")
        wait_until(lambda: self.resting == self.count - count, "the other workers to rest")

    @property
    def resting(self) -> int:
        """Return the workers that are idle and were not woken up."""
        with self.dispatch._lock:
            return len(self.dispatch._idle)

    @property
    def settled(self) -> bool:
        """Return whether no batch can be taken: there is no capacity, or no idle worker."""
        with self.dispatch._lock:
            batcher, held = self.dispatch._batcher, len(self.held)
            return batcher.flying == held and (held == self.count or batcher.due == 0)

    def let_go(self) -> None:
        """Release every batch that is held now."""
        with self._lock:
            held, self._held = self._held, {}
        for _, gate in held.values():
            gate.set()

    def start(self) -> None:
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(self.count)]
        for thread in self._threads:
            thread.start()
        wait_until(lambda: self.resting == self.count, "workers that rest")

    def end(self) -> None:
        self.ending = True
        self.let_go()
        self.dispatch.close()
        self.join()

    def join(self) -> None:
        """Wait until each worker has ended."""
        for thread in self._threads:
            thread.join(LONG_S)
        assert not any(thread.is_alive() for thread in self._threads), "a worker waits for ever"

    def _run(self) -> None:
        while (found := self.dispatch.take()) is not None:
            assert found.batch is not None
            assert found.engine is not None
            gate = threading.Event()
            with self._lock:
                self._held[id(found.batch)] = (found.batch, gate)
                self.taken += [(entry.stream, entry.queued.sequence) for entry in found.batch.entries]
            assert self.ending or gate.wait(LONG_S)
            self.dispatch.done(found.batch, found.engine, 1000)


@contextmanager
def workers(count: int, *lanes: LaneSettings, batcher: type[Batcher[Frame]] = Batcher, devices: int = 1) -> Iterator[Workers]:
    """Idle workers, and a stream in each lane with the lane's name; at the end each worker has to end."""
    dispatch = Dispatch(batcher(count), SYSTEM_CLOCK)
    for one in lanes:
        dispatch.add_lane(one, EchoEngine(one.in_flight, one.batch_sizes))
        for number in range(1, devices):
            dispatch.add_replica(replace(one, device=f"cuda:{number}"), EchoEngine(one.in_flight, one.batch_sizes))
        dispatch.join(one.name, one.name, PLACES, 1.0)
    made = Workers(dispatch, count)
    made.start()
    yield made
    made.end()


def offer(made: Workers, *sequences: int, lane: str = "main") -> None:
    for sequence in sequences:
        made.dispatch.offer(lane, lane, sequence, frame(lane, sequence))


def settings_of(name: str = "main", in_flight: int = 2, sizes: tuple[int, ...] = (1,), max_wait_ns: int = 0) -> LaneSettings:
    return LaneSettings(name, sizes, in_flight, max_wait_ns)


def test_a_second_worker_takes_the_second_frame_while_the_first_is_in_the_engine() -> None:
    with workers(2, settings_of()) as two:
        offer(two, 0)
        two.hold(1)
        offer(two, 1)
        two.hold(2)


@pytest.mark.parametrize("together", [False, True])
def test_simultaneous_frames_go_to_as_many_workers_as_there_is_capacity_for(together: bool) -> None:
    with workers(4, settings_of(in_flight=3)) as four:
        if together:
            four.dispatch.offer_all("main", "main", [(number, frame("main", number)) for number in range(5)])
        else:
            offer(four, *range(5))
        four.hold(3)
        four.let_go()
        four.hold(2)  # a worker that returns takes the next waiting frame


def test_frames_of_one_batch_wake_up_one_worker() -> None:
    with workers(4, settings_of(in_flight=4, sizes=(1, 8))) as four, four.dispatch._lock:  # so that no worker comes meanwhile
        for sequence in range(8):
            four.dispatch._batcher.offer("main", "main", QueuedItem(frame("main", sequence), sequence, 0))
            four.dispatch._call()
        assert four.dispatch._idle.coming == 1
        four.dispatch._batcher.offer("main", "main", QueuedItem(frame("main", 8), 8, 0))
        four.dispatch._call()
        assert four.dispatch._idle.coming == 2
        assert len(four.dispatch._idle) == 2


class OneByOne(Batcher[Frame]):
    """Leaves slots of its batches empty, as if a stream would get ahead of another lane."""

    def _fill(self, lane: Any, free: Any, others_ns: float) -> Batch[Frame]:
        del others_ns
        return super()._fill(lane, free, -math.inf)


def test_a_worker_that_leaves_frames_wakes_up_the_next() -> None:
    with workers(3, settings_of(in_flight=3, sizes=(1, 8)), batcher=OneByOne) as three:
        three.dispatch.offer_all("main", "main", [(number, frame("main", number)) for number in range(4)])  # one batch, it seems
        three.hold(3)


def test_swapping_an_engine_waits_only_for_its_last_batch() -> None:
    with workers(2, settings_of()) as two:
        offer(two, 0)
        two.hold(1)
        swapped: list[bool] = []
        swap = threading.Thread(
            target=lambda: swapped.append(two.dispatch.swap_engine(settings_of(), EchoEngine(2), 10 * LONG_S)), daemon=True
        )
        swap.start()
        wait_until(lambda: bool(two.dispatch._freed._waiters))  # type: ignore[attr-defined]
        assert not swapped
        two.let_go()
        swap.join(LONG_S)
        assert swapped == [True]


def test_no_worker_is_woken_up_without_capacity() -> None:
    with workers(3, settings_of(in_flight=1)) as three:
        offer(three, 0)
        three.hold(1)
        offer(three, 1)
        assert three.resting == 2
        three.let_go()
        three.hold(1)


def test_each_lane_has_its_own_capacity() -> None:
    with workers(3, settings_of("one", 1), settings_of("other", 1)) as three:
        offer(three, 0, 1, lane="one")
        three.hold(1)
        offer(three, 0, 1, lane="other")
        three.hold(2)
        three.let_go()
        three.hold(2)


def test_a_partial_batch_goes_when_its_wait_is_over() -> None:
    with workers(2, settings_of(sizes=(1, 8), max_wait_ns=20_000_000)) as two:
        offer(two, 0, 1)
        wait_until(lambda: len(two.held) == 1)  # nothing wakes it up: the idle worker looks again by itself
        assert [len(batch.entries) for batch in two.held] == [2]


def test_the_end_comes_once_all_waiting_frames_are_taken() -> None:
    with workers(2, settings_of(in_flight=1)) as two:
        offer(two, 0, 1, 2)
        two.hold(1)
        two.dispatch.close()
        for _ in range(3):
            wait_until(lambda: len(two.held) == 1)
            two.let_go()
        two.join()  # the idle one, too
    assert [sequence for _, sequence in two.taken] == [0, 1, 2]


@settings(max_examples=40)
@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([(1,), (1, 2), (2, 4)])), min_size=1, max_size=3),
    st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5)), max_size=4), max_size=6),
    st.integers(1, 3),
)
def test_no_frame_waits_while_a_worker_is_idle_and_there_is_capacity(
    count: int, shapes: list[tuple[int, tuple[int, ...]]], bursts: list[list[tuple[int, int]]], devices: int
) -> None:
    lanes = [settings_of(str(number), in_flight, sizes) for number, (in_flight, sizes) in enumerate(shapes)]
    offered = {one.name: 0 for one in lanes}
    with workers(count, *lanes, devices=devices) as some:
        for burst in bursts:
            for number, frames in burst:
                name = lanes[number % len(lanes)].name
                offer(some, *range(offered[name], offered[name] + frames), lane=name)
                offered[name] += frames
            wait_until(lambda: some.settled, "workers that take what they can")
            while some.held:
                some.let_go()
                wait_until(lambda: some.settled, "workers that go on")
    assert sorted(some.taken) == [(name, sequence) for name in sorted(offered) for sequence in range(offered[name])]


def test_nothing_is_lost_between_offers_takes_and_the_end() -> None:
    names, frames = [f"lane-{number}" for number in range(4)], 300
    with workers(3, *(settings_of(name, 2, (1, 2, 4)) for name in names)) as three:
        threads = [
            threading.Thread(target=lambda name=name: offer(three, *range(frames), lane=name), daemon=True) for name in names
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + LONG_S
        while len(three.taken) < len(names) * frames:
            assert time.monotonic() < end, f"{len(three.taken)} frames were taken"
            three.let_go()
    for name in names:
        assert sorted(sequence for lane, sequence in three.taken if lane == name) == list(range(frames))


def test_the_last_idle_thread_is_woken_up_first() -> None:
    lock = threading.Lock()
    idle = Idle(lock)
    came: list[int] = []

    def rest(number: int) -> None:
        with lock:
            idle.rest(None)
            came.append(number)

    for number in range(3):
        threading.Thread(target=rest, args=(number,), daemon=True).start()
        wait_until(lambda: len(idle) == number + 1)  # noqa: B023 - it is asked at once
    for count in range(1, 4):
        with lock:
            idle.call()
            assert idle.coming == 1
        wait_until(lambda: len(came) == count)  # noqa: B023 - it is asked at once
    assert came == [2, 1, 0]
    with lock:
        idle.call()  # no worker is idle
        idle.call_all()
    assert idle.coming == len(idle) == 0


def test_an_idle_thread_continues_when_its_time_is_over() -> None:
    lock = threading.Lock()
    idle = Idle(lock)
    with lock:
        idle.rest(0.0)
        assert lock.locked()
        assert idle.coming == len(idle) == 0
