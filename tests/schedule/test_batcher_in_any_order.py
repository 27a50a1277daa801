"""The batcher, its queues and the re-ordering under any order of events, against a simple model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vision_infer.schedule.batcher import Batch, Batcher
from vision_infer.schedule.lane_state import LaneSettings
from vision_infer.schedule.queues import BoundedQueue, Mailbox, QueuedItem
from vision_infer.schedule.reorder import Reorder

REPLICAS = st.lists(st.tuples(st.sampled_from([(1,), (1, 2, 4), (4,), (2, 3)]), st.integers(1, 3)), min_size=1, max_size=3)
LANES = st.lists(st.tuples(REPLICAS, st.sampled_from([0, 0, 5, 40])), min_size=1, max_size=3)
GPUS = (None, 1, 2)
"""The GPU of each replica; the first reads host memory."""
CAPACITY = 4
Frame = tuple[str, int]


@dataclass
class Model:
    """The expected state of a stream."""

    lane: str
    live: bool
    weight: float
    waiting: list[QueuedItem[Frame]] = field(default_factory=list)
    since_ns: int = 0
    sequence: int = 0
    in_engine: set[int] = field(default_factory=set)
    dropped: set[int] = field(default_factory=set)
    order: Reorder[Frame] = field(default_factory=Reorder)
    left: list[Frame] = field(default_factory=list)

    def drop(self, sequence: int) -> None:
        assert sequence not in self.dropped
        self.dropped.add(sequence)
        self.left += self.order.skip(sequence)


class Scheduling(RuleBasedStateMachine):
    """Streams join, offer and leave; batches are taken and finished in any order; time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 0
        self.streams: dict[str, Model] = {}
        self.gone: dict[str, Model] = {}
        self.flying: list[Batch[Frame]] = []
        self.padded = 0

    @initialize(in_flight=st.integers(1, 4), lanes=LANES)
    def start(self, in_flight: int, lanes: list[tuple[list[tuple[tuple[int, ...], int]], int]]) -> None:
        self.in_flight = in_flight
        self.lanes: dict[str, list[LaneSettings]] = {}
        self.homes: dict[str, int | None] = {}
        self.batcher: Batcher[Frame] = Batcher(in_flight, lambda item: self.homes[item[0]])
        for number, (replicas, wait_ns) in enumerate(lanes):
            name = f"lane-{number}"
            self.lanes[name] = [
                LaneSettings(name, sizes, limit, wait_ns, device=f"device-{at}", gpu=GPUS[at])
                for at, (sizes, limit) in enumerate(replicas)
            ]
            self.batcher.add_lane(self.lanes[name][0])
            for other in self.lanes[name][1:]:
                self.batcher.add_replica(other)

    @rule(lane=st.integers(0, 2), replica=st.integers(0, 2))
    def a_replica_goes_or_returns(self, lane: int, replica: int) -> None:
        replicas = self.lanes[f"lane-{lane % len(self.lanes)}"]
        number = replica % len(replicas)
        replicas[number] = replace(replicas[number], ready=not replicas[number].ready)
        self.batcher.change_lane(replicas[number], number)

    @rule(
        lane=st.integers(0, 2),
        live=st.booleans(),
        weight=st.sampled_from([0.1, 1.0, 3.0]),
        home=st.sampled_from([None, None, 1, 2, 3]),
    )
    def join(self, lane: int, live: bool, weight: float, home: int | None) -> None:
        if len(self.streams) == 6:
            return
        name = f"stream-{len(self.streams) + len(self.gone)}"
        where = f"lane-{lane % len(self.lanes)}"
        self.batcher.join(name, where, Mailbox() if live else BoundedQueue(CAPACITY), weight)
        self.streams[name] = Model(where, live, weight)
        self.homes[name] = home

    @rule(pick=st.integers(0, 5), frames=st.integers(1, 5))
    def offer(self, pick: int, frames: int) -> None:
        if not self.streams:
            return
        name, stream = list(self.streams.items())[pick % len(self.streams)]
        for _ in range(frames):
            if not stream.live and len(stream.waiting) == CAPACITY:
                return
            waiting = QueuedItem((name, stream.sequence), stream.sequence, self.now_ns)
            stream.sequence += 1
            if not stream.waiting:
                stream.since_ns = self.now_ns
            lost = self.batcher.offer(name, stream.lane, waiting)
            if stream.live and stream.waiting:
                assert lost is stream.waiting.pop()
                stream.drop(lost.sequence)
            else:
                assert lost is None
            stream.waiting.append(waiting)

    @rule(by_ns=st.integers(1, 50))
    def time_passes(self, by_ns: int) -> None:
        self.now_ns += by_ns

    @rule()
    def take(self) -> None:
        expected, free = self.can_take(), {lane: self.free(lane) for lane in self.lanes}
        batch = self.batcher.take(self.now_ns)
        if not expected:
            assert batch is None
            return
        assert batch is not None, "a frame waits, and there is a place for it"
        replica = self.lanes[batch.lane][batch.replica]
        gpus = {one.gpu for one in free[batch.lane]}
        assert batch.lane in self.ready_lanes()
        assert replica in free[batch.lane]
        assert 1 <= len(batch.entries) <= batch.size
        assert batch.size == min(size for size in replica.batch_sizes if size >= len(batch.entries))
        for entry in batch.entries:
            home = self.homes[entry.stream]
            assert home in (None, replica.gpu) or home not in gpus, "the image is copied, although its own GPU is free"
        for entry in batch.entries:
            stream = self.streams[entry.stream]
            assert stream.lane == batch.lane
            assert entry.queued is stream.waiting.pop(0), "the next in line; of a live stream that is the newest"
            stream.in_engine.add(entry.queued.sequence)
            if stream.waiting:
                stream.since_ns = stream.waiting[0].arrived_ns
        if len(self.lanes) == 1:
            elsewhere = gpus - {None, replica.gpu}
            left = sum(len(stream.waiting) for name, stream in self.streams.items() if self.homes[name] not in elsewhere)
            assert len(batch.entries) == replica.batch_sizes[-1] or left == 0, "a place was left empty while a frame waits"
        assert batch.padding == batch.size - len(batch.entries)
        self.padded += batch.padding
        self.flying.append(batch)

    @rule(pick=st.integers(0, 3), engine_ns=st.integers(0, 1000), failed=st.booleans())
    def finish(self, pick: int, engine_ns: int, failed: bool) -> None:
        if not self.flying:
            return
        batch = self.flying.pop(pick % len(self.flying))
        self.batcher.done(batch, 0 if failed else engine_ns)
        for entry in batch.entries:
            stream = self.streams.get(entry.stream) or self.gone[entry.stream]
            stream.in_engine.remove(entry.queued.sequence)
            if failed:
                stream.drop(entry.queued.sequence)
            else:
                stream.left += stream.order.put(entry.queued.sequence, entry.queued.item)

    @precondition(lambda self: self.streams)
    @rule(pick=st.integers(0, 5))
    def leave(self, pick: int) -> None:
        name = list(self.streams)[pick % len(self.streams)]
        stream = self.streams.pop(name)
        self.gone[name] = stream
        lost = self.batcher.leave(name)
        assert lost == stream.waiting
        stream.waiting.clear()
        for waiting in lost:
            stream.drop(waiting.sequence)
        assert self.batcher.leave(name) == []

    @rule()
    def sleep_until_woken(self) -> None:
        if not self.waits() or self.can_take():
            return
        wake_at_ns = self.batcher.wake_at_ns()
        assert wake_at_ns is not None
        assert wake_at_ns > self.now_ns, "else it would be asked over and over"
        assert self.batcher.take(wake_at_ns - 1) is None
        self.now_ns = wake_at_ns
        self.take()

    def free(self, lane: str) -> list[LaneSettings]:
        """Return the replicas that have capacity."""
        devices = [self.lanes[batch.lane][batch.replica].device for batch in self.flying]
        flying = [(batch.lane, batch.replica) for batch in self.flying]
        return [
            one
            for number, one in enumerate(self.lanes[lane])
            if one.ready and flying.count((lane, number)) < one.in_flight and devices.count(one.device) < self.in_flight
        ]

    def waits(self) -> bool:
        return any(stream.waiting and self.free(stream.lane) for stream in self.streams.values())

    def ready_lanes(self) -> set[str]:
        ready: set[str] = set()
        for name, replicas in self.lanes.items():
            free = self.free(name)
            waiting = [stream for stream in self.streams.values() if stream.lane == name and stream.waiting]
            if waiting and free:
                full = sum(len(stream.waiting) for stream in waiting) >= max(one.batch_sizes[-1] for one in free)
                if full or self.now_ns >= min(stream.since_ns for stream in waiting) + replicas[0].max_wait_ns:
                    ready.add(name)
        return ready

    def can_take(self) -> bool:
        return bool(self.ready_lanes())

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "batcher"):
            return
        assert self.batcher.waiting == sum(len(stream.waiting) for stream in self.streams.values())
        assert self.batcher.flying == len(self.flying)
        assert self.batcher.padded == self.padded
        assert self.batcher.streams == set(self.streams)
        assert self.batcher.due > 0 or not self.can_take(), "no worker would be woken up"
        if not self.waits():
            assert self.batcher.wake_at_ns() is None, "only an event can change anything"

    @invariant()
    def nothing_is_lost_doubled_or_out_of_order(self) -> None:
        for name, stream in (self.streams | self.gone).items():
            left = [sequence for _, sequence in stream.left]
            assert left == sorted(set(left)), "in order, each once"
            assert all(owner == name for owner, _ in stream.left)
            first_missing = min(stream.in_engine | {waiting.sequence for waiting in stream.waiting}, default=stream.sequence)
            assert left == [number for number in range(first_missing) if number not in stream.dropped], "as soon as it can"

    def teardown(self) -> None:
        if not hasattr(self, "batcher"):
            return
        for replicas in self.lanes.values():
            for number, replica in enumerate(replicas):
                replicas[number] = replace(replica, ready=True)
                self.batcher.change_lane(replicas[number], number)
        while self.flying or self.waits():
            while self.can_take():
                self.take()
            if self.flying:
                self.finish(0, 10, False)
            elif self.waits():
                self.sleep_until_woken()
        self.nothing_is_lost_doubled_or_out_of_order()
        for stream in self.streams.values():
            assert len(stream.left) + len(stream.dropped) == stream.sequence
            assert stream.live or len(stream.dropped) == 0 or stream.dropped.isdisjoint(seq for _, seq in stream.left)


TestScheduling = Scheduling.TestCase
TestScheduling.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
