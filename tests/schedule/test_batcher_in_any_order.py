"""The batcher, its queues and the re-ordering under any order of events, against a simple model."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vision_infer.schedule.batcher import Batch, Batcher
from vision_infer.schedule.lane_state import LaneSettings
from vision_infer.schedule.queues import BoundedQueue, Mailbox, QueuedItem
from vision_infer.schedule.reorder import Reorder

SETTINGS = st.tuples(
    st.sampled_from([(1,), (1, 2, 4), (4,), (2, 3)]),
    st.integers(1, 3),
    st.sampled_from([0, 0, 5, 40]),
)
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

    @initialize(in_flight=st.integers(1, 4), lanes=st.lists(SETTINGS, min_size=1, max_size=3))
    def start(self, in_flight: int, lanes: list[tuple[tuple[int, ...], int, int]]) -> None:
        self.in_flight = in_flight
        self.lanes = {f"lane-{number}": LaneSettings(f"lane-{number}", *given) for number, given in enumerate(lanes)}
        self.batcher: Batcher[Frame] = Batcher(in_flight)
        for lane in self.lanes.values():
            self.batcher.add_lane(lane)

    @rule(lane=st.integers(0, 2), live=st.booleans(), weight=st.sampled_from([0.1, 1.0, 3.0]))
    def join(self, lane: int, live: bool, weight: float) -> None:
        if len(self.streams) == 6:
            return
        name = f"stream-{len(self.streams) + len(self.gone)}"
        where = f"lane-{lane % len(self.lanes)}"
        self.batcher.join(name, where, Mailbox() if live else BoundedQueue(CAPACITY), weight)
        self.streams[name] = Model(where, live, weight)

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
        expected = self.can_take()
        batch = self.batcher.take(self.now_ns)
        if not expected:
            assert batch is None
            return
        assert batch is not None, "a frame waits, and there is a place for it"
        lane = self.lanes[batch.lane]
        assert batch.lane in self.ready_lanes()
        assert 1 <= len(batch.entries) <= batch.size
        assert batch.size == min(size for size in lane.batch_sizes if size >= len(batch.entries))
        for entry in batch.entries:
            stream = self.streams[entry.stream]
            assert stream.lane == batch.lane
            assert entry.queued is stream.waiting.pop(0), "the next in line; of a live stream that is the newest"
            stream.in_engine.add(entry.queued.sequence)
            if stream.waiting:
                stream.since_ns = stream.waiting[0].arrived_ns
        if len(self.lanes) == 1:
            left = sum(len(stream.waiting) for stream in self.streams.values())
            assert len(batch.entries) == lane.batch_sizes[-1] or left == 0, "a place was left empty while a frame waits"
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
        if len(self.flying) == self.in_flight or not self.waits() or self.can_take():
            return
        wake_at_ns = self.batcher.wake_at_ns()
        assert wake_at_ns is not None
        assert wake_at_ns > self.now_ns, "else it would be asked over and over"
        assert self.batcher.take(wake_at_ns - 1) is None
        self.now_ns = wake_at_ns
        self.take()

    def open(self, lane: str) -> bool:
        return sum(batch.lane == lane for batch in self.flying) < self.lanes[lane].in_flight

    def waits(self) -> bool:
        return any(stream.waiting and self.open(stream.lane) for stream in self.streams.values())

    def ready_lanes(self) -> set[str]:
        ready: set[str] = set()
        for name, lane in self.lanes.items():
            waiting = [stream for stream in self.streams.values() if stream.lane == name and stream.waiting]
            if waiting and self.open(name):
                full = sum(len(stream.waiting) for stream in waiting) >= lane.batch_sizes[-1]
                if full or self.now_ns >= min(stream.since_ns for stream in waiting) + lane.max_wait_ns:
                    ready.add(name)
        return ready

    def can_take(self) -> bool:
        return len(self.flying) < self.in_flight and bool(self.ready_lanes())

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "batcher"):
            return
        assert self.batcher.waiting == sum(len(stream.waiting) for stream in self.streams.values())
        assert self.batcher.flying == len(self.flying)
        assert self.batcher.padded == self.padded
        assert self.batcher.streams == set(self.streams)
        if not (len(self.flying) < self.in_flight and self.waits()):
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
