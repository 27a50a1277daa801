"""The batcher: frames of several streams become batches of a lane.

It is work-conserving: while the device has capacity for a batch and a frame waits, that frame goes, unless the lane is set to
wait (``max_wait_ns``) for a fuller batch. The stream with the smallest virtual time goes first; of several such streams,
the one that has waited longest (:mod:`vision_infer.schedule.shares`). A batch never mixes lanes.

A lane can have several *replicas*: engines for the same model on several devices. Each takes a batch whenever it is free. Of
several free replicas, one on the GPU that holds the image goes first, then the one that will be done first.

Two bounds keep the shares exact where several lanes share the device:

- *Riders.* A stream that is not due can fill the remaining slots of a batch. While a stream waits in another lane, a rider gets
  at most the cost of one full batch ahead of it. Otherwise it would ride along forever at the expense of the other lane.
- *Lag.* A lane that cannot run (its ``in_flight`` is used up, or it waits to fill) falls behind the others. A lag of more than a
  few batches is forgotten; otherwise the lane could occupy the device for hours once the other lanes change.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heapreplace
from typing import Generic, TypeVar

from vision_infer.schedule.lane_state import UNKNOWN_NS, DeviceState, LaneSettings, LaneState, ReplicaState, choose_replica
from vision_infer.schedule.queues import FrameQueue, QueuedItem
from vision_infer.schedule.shares import FairShares

T = TypeVar("T")

_LAG_BATCHES = 4
"""The credit that a lane keeps for the time when it could not run; enough to even out batches of different cost."""
_NO_GPUS: frozenset[int | None] = frozenset()


# Not frozen: creation would cost three times as much, and there is one for every frame.
@dataclass(slots=True)
class Entry(Generic[T]):
    """A frame in a batch."""

    stream: str
    queued: QueuedItem[T]


@dataclass(slots=True)
class Batch(Generic[T]):
    """Frames that go through a lane's engine together."""

    lane: str
    replica: int
    """The number of the replica that runs it."""
    entries: tuple[Entry[T], ...]
    size: int
    """The batch size at which the engine runs it, at least the number of slots in use. If those are more than the engine's
    largest batch, it runs several full batches, and a last one of this size."""
    estimated_ns: float
    """The charge of each slot."""
    slots: int
    """The number of slots in use, at least the number of entries."""
    padding: int
    """The number of slots that are padding."""


class Batcher(Generic[T]):
    """All lanes of some devices.

    Args:
        in_flight: The maximum number of batches on each device at the same time, over all lanes.
        gpu_of: Returns the GPU whose memory holds an item; None: host memory.
    """

    def __init__(self, in_flight: int, gpu_of: Callable[[T], int | None] = lambda _: None) -> None:
        if in_flight < 1:
            raise ValueError(f"in_flight must be at least 1, got {in_flight}")
        self._in_flight = in_flight
        self._gpu_of = gpu_of
        self._devices: dict[str, DeviceState] = {}
        self._flying = 0
        self._lanes: dict[str, LaneState[T]] = {}
        self.shares = FairShares()
        self.padded = 0
        """The number of slots that were padding so far."""

    def add_lane(self, settings: LaneSettings) -> None:
        """Open a lane with one replica."""
        if settings.name in self._lanes:
            raise ValueError(f"lane {settings.name!r} exists already")
        self._lanes[settings.name] = LaneState([])
        self.add_replica(settings)

    def add_replica(self, settings: LaneSettings) -> None:
        """Add a replica to a lane; its number is that of the replicas before it."""
        replicas = self._lanes[settings.name].replicas
        device = self._devices.setdefault(settings.device, DeviceState())
        replicas.append(ReplicaState(len(replicas), settings, device))

    def remove_lane(self, name: str) -> None:
        """Close a lane.

        Raises:
            ValueError: A stream has joined it, or a batch is in an engine.
        """
        lane = self._lanes[name]
        if lane.queues or lane.flying:
            raise ValueError(f"lane {name!r} is in use: {len(lane.queues)} streams, {lane.flying} batches in the engine")
        del self._lanes[name]
        self._forget_devices()

    def change_lane(self, settings: LaneSettings, replica: int = 0) -> None:
        """Give a replica of a lane other batch sizes and limits, from its next batch on; its frames continue to wait."""
        self._lanes[settings.name].replicas[replica].change(settings, self._devices.setdefault(settings.device, DeviceState()))
        self._forget_devices()

    def leave_lane(self, stream: str, lane: str) -> list[QueuedItem[T]]:
        """Remove a stream from one of its lanes, not the last; return the frames that waited there, which are lost."""
        state = self._lanes[lane]
        queue = state.queues.pop(stream)
        state.waiting -= len(queue)
        state.since_ns.pop(stream, None)
        return queue.clear()

    def join(self, stream: str, lane: str, queue: FrameQueue[T], weight: float = 1.0) -> None:
        """Add a stream to a lane. All lanes of a stream share its account."""
        queues = self._lanes[lane].queues
        if stream in queues:
            raise ValueError(f"stream {stream!r} is in lane {lane!r} already")
        if len(queue):
            raise ValueError(f"the queue of stream {stream!r} must be empty, it holds {len(queue)} frames")
        if stream not in self.streams:
            self.shares.join(stream, weight)
        queues[stream] = queue

    def leave(self, stream: str) -> list[QueuedItem[T]]:
        """Remove a stream from all lanes; return the frames that waited, which are lost."""
        lost: list[QueuedItem[T]] = []
        for lane in self._lanes.values():
            queue = lane.queues.pop(stream, None)
            if queue is not None:
                lane.waiting -= len(queue)
                lane.since_ns.pop(stream, None)
                lost += queue.clear()
        self.shares.leave(stream)
        return lost

    @property
    def streams(self) -> frozenset[str]:
        """The streams that have joined."""
        return frozenset(stream for lane in self._lanes.values() for stream in lane.queues)

    def offer(self, stream: str, lane: str, queued: QueuedItem[T]) -> QueuedItem[T] | None:
        """Queue a frame; return the frame that it replaces (the older one in a mailbox), or None."""
        state = self._lanes[lane]
        lost = state.queues[stream].put(queued)
        if lost is None:
            state.waiting += 1
        if stream not in state.since_ns:
            if len(self._lanes) == 1 or not any(stream in other.since_ns for other in self._lanes.values()):
                self._wake(stream, state)
            state.since_ns[stream] = queued.arrived_ns
        return lost

    def withdraw(self, too_old: Callable[[str, T], bool]) -> list[Entry[T]]:
        """Remove frames at the head of the queues that are too old; they are lost, and not charged.

        Args:
            too_old: Returns whether a frame of a stream is too old.
        """
        lost: list[Entry[T]] = []
        for lane in self._lanes.values():
            for stream in tuple(lane.since_ns):
                while (queued := lane.queues[stream].oldest()) is not None and too_old(stream, queued.item):
                    lost.append(Entry(stream, lane.pop(stream)))
        return lost

    def take(self, now_ns: int) -> Batch[T] | None:
        """Return the next batch; None when there is no capacity, no frame waits, or the lane still waits for more frames."""
        ready: list[tuple[str, LaneState[T], list[ReplicaState]]] = []
        held: list[LaneState[T]] = []
        for name, lane in self._lanes.items():
            if not lane.waiting:
                continue
            free = lane.free(self._in_flight)
            if free and lane.is_due(free, now_ns):
                ready.append((name, lane, free))
            else:
                held.append(lane)
        if not ready:
            return None
        others_ns = math.inf
        if len(ready) > 1:
            ready.sort(key=lambda one: (self._next_stream(one[1]), one[0]))
            others_ns = self._next_stream(ready[1][1])[0]
        batch = self._fill(ready[0][1], ready[0][2], others_ns)
        for lane in held:
            self._bound_lag(lane)
        return batch

    def wake_at_ns(self) -> int | None:
        """Return when to call :meth:`take` again because a wait runs out; None when only an event can change its answer."""
        times = [
            min(lane.since_ns.values()) + lane.max_wait_ns
            for lane in self._lanes.values()
            if lane.waiting and lane.free(self._in_flight)
        ]
        return min(times, default=None)

    def done(self, batch: Batch[T], engine_ns: int) -> None:
        """Count a batch that has left the engine, successful or not.

        Args:
            batch: The batch from :meth:`take`.
            engine_ns: Its engine time, padding included, which is divided equally among its slots in use. 0 when it failed before
                it ran: then the estimate remains, because frames without cost would always be next.
        """
        lane = self._lanes[batch.lane]
        replica = lane.replicas[batch.replica]
        self._flying -= 1
        replica.flying -= 1
        replica.device.flying -= 1
        if engine_ns <= 0:
            return
        each = engine_ns / batch.slots
        charge, average_ns = each, _averaged(lane.frame_ns, each)
        lane.frame_ns = average_ns
        if len(lane.replicas) > 1:  # a stream does not choose its replica: all streams of the lane are charged the average
            charge, replica.frame_ns = average_ns, _averaged(replica.frame_ns, each)
        for entry in batch.entries:
            slots = entry.queued.slots
            self.shares.correct(entry.stream, batch.estimated_ns * slots, charge * slots, each * slots)

    def lane_load(self, name: str) -> tuple[int, int]:
        """Return the number of frames that wait for a lane now, and of its batches in the engine."""
        lane = self._lanes[name]
        return lane.waiting, lane.flying

    @property
    def room(self) -> bool:
        """Whether a device has capacity for another batch."""
        return self._flying < self._in_flight * len(self._devices)

    @property
    def due(self) -> int:
        """The approximate number of calls of :meth:`take` that would return a batch now.

        It is 0 only if :meth:`take` would return None. A lane that still waits for more frames counts.
        """
        room = self._in_flight * len(self._devices) - self._flying
        if room < 1:
            return 0
        due = 0
        for lane in self._lanes.values():
            waiting = lane.waiting
            if not waiting:
                continue
            for replica in lane.replicas:
                capacity, largest = replica.capacity(self._in_flight), replica.settings.batch_sizes[-1]
                if capacity > 0 and waiting > 0:
                    batches = min(capacity, -(-waiting // largest))
                    due, waiting = due + batches, waiting - batches * largest
        return min(room, due)

    @property
    def flying(self) -> int:
        """The number of batches in the engines now."""
        return self._flying

    @property
    def waiting(self) -> int:
        """The number of frames that wait now."""
        return sum(lane.waiting for lane in self._lanes.values())

    def _forget_devices(self) -> None:
        """Forget the devices that no replica uses any longer: they have no capacity."""
        self._devices = {one.settings.device: one.device for lane in self._lanes.values() for one in lane.replicas}

    def _next_stream(self, lane: LaneState[T]) -> tuple[float, int, str]:
        return self.shares.next_of(lane.since_ns)

    def _wake(self, stream: str, lane: LaneState[T]) -> None:
        # A lane that is alone on the device cannot be behind the others: skip the search.
        behind = len(self._lanes) > 1 and lane.since_ns
        self.shares.wake(stream, self._next_stream(lane)[0] if behind else math.inf)

    def _fill(self, lane: LaneState[T], free: list[ReplicaState], others_ns: float) -> Batch[T]:
        """Fill a batch of a lane.

        Args:
            lane: The lane.
            free: Its replicas that can take the batch.
            others_ns: The smallest virtual time of the streams in other lanes that could go now.
        """
        # One heap serves the whole batch: only the stream that was just charged changes its rank. A batch of one needs no heap.
        many = lane.waiting > 1 and any(replica.settings.batch_sizes[-1] > 1 for replica in free)
        order = self.shares.ranking(lane.since_ns) if many else [self._next_stream(lane)]
        replica, elsewhere = free[0], _NO_GPUS
        if len(free) > 1:
            replica = choose_replica(free, self._home(lane, order[0][2]))
            # The images on these GPUs go to the other free replicas, which take the next batches.
            elsewhere = frozenset(other.settings.gpu for other in free) - {replica.settings.gpu, None}
        sizes = replica.settings.batch_sizes
        batch_ns = lane.batch_ns
        entries: list[Entry[T]] = []
        used = 0
        while order and used < sizes[-1]:
            virtual_ns, _, stream = order[0]
            if entries:  # the stream that is due has the first slot, riders have the others
                if virtual_ns > others_ns + self.shares.virtual_cost_ns(stream, batch_ns):
                    break  # a rider must not get further ahead of the streams in other lanes
                if (elsewhere and self._home(lane, stream) in elsewhere) or used + lane.slots(stream) > sizes[-1]:
                    heappop(order)
                    continue
            queued = lane.pop(stream)
            entries.append(Entry(stream, queued))
            used += queued.slots
            charged_ns = self.shares.charge(stream, lane.frame_ns * queued.slots, others_ns)
            since_ns = lane.since_ns.get(stream)
            if since_ns is None:
                heappop(order)
            else:
                heapreplace(order, (charged_ns, since_ns, stream))
        # The last batch that the engine runs is padded to its next size; a frame can have more tiles than its largest one.
        last = used if used <= sizes[-1] else (used - 1) % sizes[-1] + 1
        size = sizes[bisect_left(sizes, last)]
        self.padded += size - last
        self._flying += 1
        replica.flying += 1
        replica.device.flying += 1
        return Batch(replica.settings.name, replica.number, tuple(entries), size, lane.frame_ns, used, size - last)

    def _home(self, lane: LaneState[T], stream: str) -> int | None:
        """Return the GPU that holds the next frame of a stream that waits."""
        queued = lane.queues[stream].oldest()
        return None if queued is None else self._gpu_of(queued.item)

    def _bound_lag(self, lane: LaneState[T]) -> None:
        if lane.frame_ns == UNKNOWN_NS:
            return
        virtual_ns, _, stream = self._next_stream(lane)
        min_ns = self.shares.now_ns - self.shares.virtual_cost_ns(stream, _LAG_BATCHES * lane.batch_ns)
        if virtual_ns < min_ns:
            self.shares.advance(lane.since_ns, min_ns - virtual_ns)


def _averaged(average_ns: float, each_ns: float) -> float:
    return each_ns if average_ns == UNKNOWN_NS else average_ns + 0.125 * (each_ns - average_ns)
