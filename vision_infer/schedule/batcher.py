"""The batcher: frames of several streams become batches of a lane.

It is work-conserving: while the device has room for a batch and a frame waits, that frame goes, unless the lane asks to wait
(``max_wait_ns``) for a fuller batch. Among the frames that wait, the stream with the least virtual time goes first and the
one that has waited longest breaks the tie (:mod:`vision_infer.schedule.shares`); a batch never mixes lanes.

Two bounds keep the shares true where several lanes share the device:

- *Riders.* A stream that is not due may fill the places that are left in a batch, but while another lane has someone
  waiting it gets no further ahead of them than its cost of one full batch. Else it would ride along for ever at their cost.
- *Lag.* A lane that may not run (its own ``in_flight`` is used up, or it waits to fill) falls behind the others. More than a
  few batches of that are forgotten, or it could hold the device for hours once the others change.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from typing import Generic, TypeVar

from vision_infer.schedule.queues import FrameQueue, Waiting
from vision_infer.schedule.shares import FairShares

T = TypeVar("T")

_UNKNOWN_NS = 1.0
"""what a frame is charged before the lane's first batch is done: every frame as much, so that streams take turns"""

_LAG_BATCHES = 4
"""credit that a lane may keep for the time when it was not allowed to run; what batches of uneven cost need to even out"""


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """What the batcher knows of a lane: one engine with one input size."""

    name: str
    batch_sizes: tuple[int, ...]
    """the sizes that the engine runs, ascending; a batch between two of them is padded to the larger"""
    in_flight: int
    """batches that the engine takes at the same time"""
    max_wait_ns: int = 0
    """how long a stream may wait for the batch to fill, from its oldest frame on; a newer one in its mailbox does not renew it"""
    ready: bool = True
    """whether its engine is there; until then nothing goes"""

    def __post_init__(self) -> None:
        sizes = self.batch_sizes
        if not sizes or sizes[0] < 1 or list(sizes) != sorted(set(sizes)):
            raise ValueError(f"batch_sizes must rise from at least 1, got {sizes}")
        if self.in_flight < 1:
            raise ValueError(f"in_flight must be at least 1, got {self.in_flight}")
        if self.max_wait_ns < 0:
            raise ValueError(f"max_wait_ns must not be negative, got {self.max_wait_ns}")


# Not frozen: that would treble what it costs to make one, and one is made for every frame.
@dataclass(slots=True)
class Entry(Generic[T]):
    """A frame in a batch."""

    stream: str
    waiting: Waiting[T]


@dataclass(slots=True)
class Batch(Generic[T]):
    """Frames that go through a lane's engine together."""

    lane: str
    entries: tuple[Entry[T], ...]
    size: int
    """the engine's batch size that it runs at, at least the number of entries"""
    estimated_ns: float
    """what each frame was charged"""

    @property
    def padding(self) -> int:
        """Places of the engine's batch that are wasted."""
        return self.size - len(self.entries)


@dataclass(slots=True)
class _Lane(Generic[T]):
    settings: LaneSettings
    queues: dict[str, FrameQueue[T]] = field(default_factory=dict)
    since_ns: dict[str, int] = field(default_factory=dict)
    """the streams that have frames waiting, and since when"""
    waiting: int = 0
    flying: int = 0
    frame_ns: float = _UNKNOWN_NS
    """estimate of a frame's engine time"""

    @property
    def batch_ns(self) -> float:
        """Estimate of a full batch's engine time."""
        return self.frame_ns * self.settings.batch_sizes[-1]


class Batcher(Generic[T]):
    """All lanes of one device.

    Args:
        in_flight: batches that the device runs at the same time, over all lanes.
    """

    def __init__(self, in_flight: int) -> None:
        if in_flight < 1:
            raise ValueError(f"in_flight must be at least 1, got {in_flight}")
        self._in_flight = in_flight
        self._flying = 0
        self._lanes: dict[str, _Lane[T]] = {}
        self.shares = FairShares()
        self.padded = 0
        """places of batches wasted so far"""

    def add_lane(self, settings: LaneSettings) -> None:
        """Open a lane."""
        if settings.name in self._lanes:
            raise ValueError(f"lane {settings.name!r} exists already")
        self._lanes[settings.name] = _Lane(settings)

    def remove_lane(self, name: str) -> None:
        """Close a lane.

        Raises:
            ValueError: a stream is in it, or a batch on its way.
        """
        lane = self._lanes[name]
        if lane.queues or lane.flying:
            raise ValueError(f"lane {name!r} is in use: {len(lane.queues)} streams, {lane.flying} batches on their way")
        del self._lanes[name]

    def change_lane(self, settings: LaneSettings) -> None:
        """Give a lane other batch sizes and limits, from its next batch on; what waits in it goes on waiting."""
        self._lanes[settings.name].settings = settings

    def leave_lane(self, stream: str, lane: str) -> list[Waiting[T]]:
        """Take a stream out of one of its lanes, not the last; returns what it had waiting there, which is lost."""
        of = self._lanes[lane]
        queue = of.queues.pop(stream)
        of.waiting -= len(queue)
        of.since_ns.pop(stream, None)
        return queue.clear()

    def join(self, stream: str, lane: str, queue: FrameQueue[T], weight: float = 1.0) -> None:
        """Let a stream's frames into a lane; further lanes of the same stream share its account."""
        queues = self._lanes[lane].queues
        if stream in queues:
            raise ValueError(f"stream {stream!r} is in lane {lane!r} already")
        if len(queue):
            raise ValueError(f"the queue of stream {stream!r} must be empty, it holds {len(queue)} frames")
        if stream not in self.streams:
            self.shares.join(stream, weight)
        queues[stream] = queue

    def leave(self, stream: str) -> list[Waiting[T]]:
        """Take a stream out of all lanes; returns what it had waiting, which is lost."""
        lost: list[Waiting[T]] = []
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

    def full(self, stream: str, lane: str) -> bool:
        """Whether the stream has to hold its next frame back."""
        return self._lanes[lane].queues[stream].full

    def offer(self, stream: str, lane: str, waiting: Waiting[T]) -> Waiting[T] | None:
        """Let a frame wait for its turn; returns the frame that is lost for it (a mailbox's older one), or None."""
        to = self._lanes[lane]
        lost = to.queues[stream].put(waiting)
        if lost is None:
            to.waiting += 1
        if stream not in to.since_ns:
            if not any(stream in one.since_ns for one in self._lanes.values()):
                self._wake(stream, to)
            to.since_ns[stream] = waiting.arrived_ns
        return lost

    def withdraw(self, too_old: Callable[[str, T], bool]) -> list[Entry[T]]:
        """Take out what waits at the head of a queue and is too old; it is lost, and not charged.

        Args:
            too_old: says so of a stream and what it has waiting.
        """
        lost: list[Entry[T]] = []
        for lane in self._lanes.values():
            for stream in tuple(lane.since_ns):
                while (waiting := lane.queues[stream].oldest()) is not None and too_old(stream, waiting.item):
                    lost.append(Entry(stream, self._pop(lane, stream)))
        return lost

    def take(self, now_ns: int) -> Batch[T] | None:
        """The next batch, or None when there is no room, nothing waits, or the lane still waits for more."""
        if self._flying >= self._in_flight:
            return None
        ready: list[tuple[tuple[float, int, str], str]] = []
        held: list[_Lane[T]] = []
        for name, lane in self._lanes.items():
            if self._ready(lane, now_ns):
                ready.append((self._next_stream(lane), name))
            elif lane.waiting:
                held.append(lane)
        if not ready:
            return None
        if len(ready) > 1:
            ready.sort()
        due, name = ready[0]
        batch = self._fill(self._lanes[name], due[2], ready[1][0][0] if len(ready) > 1 else math.inf)
        for lane in held:
            self._bound_lag(lane)
        return batch

    def wake_at_ns(self) -> int | None:
        """When :meth:`take` has to be asked again because a wait runs out; None when only an event can change its answer."""
        if self._flying >= self._in_flight:
            return None
        times = [
            min(lane.since_ns.values()) + lane.settings.max_wait_ns
            for lane in self._lanes.values()
            if lane.waiting and lane.settings.ready and lane.flying < lane.settings.in_flight
        ]
        return min(times, default=None)

    def done(self, batch: Batch[T], engine_ns: int) -> None:
        """A batch has left the engine, successful or not.

        Args:
            batch: as :meth:`take` gave it.
            engine_ns: the engine time that it cost; shared equally among its frames, padding included. 0 when it failed
                before it ran: then the estimate stands, since frames that cost nothing would be next for ever.
        """
        lane = self._lanes[batch.lane]
        lane.flying -= 1
        self._flying -= 1
        if engine_ns <= 0:
            return
        each = engine_ns / len(batch.entries)
        lane.frame_ns = each if lane.frame_ns == _UNKNOWN_NS else lane.frame_ns + 0.125 * (each - lane.frame_ns)
        for entry in batch.entries:
            self.shares.correct(entry.stream, batch.estimated_ns, each)

    def lane_load(self, name: str) -> tuple[int, int]:
        """Frames that wait for a lane now, and its batches in the engine."""
        lane = self._lanes[name]
        return lane.waiting, lane.flying

    @property
    def room(self) -> bool:
        """Whether the device takes another batch."""
        return self._flying < self._in_flight

    @property
    def due(self) -> int:
        """Batches that what waits would make, as far as there is room: about how often :meth:`take` is worth asking now.

        It is 0 only where :meth:`take` has nothing to give. A lane that still waits for more counts.
        """
        room = self._in_flight - self._flying
        if room < 1:
            return 0
        due = 0
        for lane in self._lanes.values():
            settings = lane.settings
            if lane.waiting and settings.ready:
                batches = -(-lane.waiting // settings.batch_sizes[-1])
                due += max(0, min(settings.in_flight - lane.flying, batches))
        return min(room, due)

    @property
    def flying(self) -> int:
        """Batches in the engines now."""
        return self._flying

    @property
    def waiting(self) -> int:
        """Frames that wait now."""
        return sum(lane.waiting for lane in self._lanes.values())

    def _ready(self, lane: _Lane[T], now_ns: int) -> bool:
        settings = lane.settings
        if lane.waiting == 0 or not settings.ready or lane.flying >= settings.in_flight:
            return False
        if settings.max_wait_ns == 0 or lane.waiting >= settings.batch_sizes[-1]:
            return True
        return now_ns - min(lane.since_ns.values()) >= settings.max_wait_ns

    def _next_stream(self, lane: _Lane[T]) -> tuple[float, int, str]:
        return self.shares.least(lane.since_ns)

    def _standing(self, lane: _Lane[T]) -> list[tuple[float, int, str]]:
        """Where each stream stands that waits: the least is next."""
        virtual_ns = self.shares.virtual_ns
        return [(virtual_ns(stream), since_ns, stream) for stream, since_ns in lane.since_ns.items()]

    def _wake(self, stream: str, lane: _Lane[T]) -> None:
        # Alone on the device, a lane cannot be behind it: nothing to look for.
        behind = len(self._lanes) > 1 and lane.since_ns
        self.shares.wake(stream, self._next_stream(lane)[0] if behind else math.inf)

    def _fill(self, lane: _Lane[T], stream: str, others_ns: float) -> Batch[T]:
        """Fill a batch.

        Args:
            lane: whose batch.
            stream: the one that is due.
            others_ns: the least virtual time among those that wait in other lanes and could go now.
        """
        sizes = lane.settings.batch_sizes
        entries = [self._charged(lane, stream, others_ns)]
        if lane.waiting and sizes[-1] > 1:
            # One look at all that wait serves the whole batch: only who has just been charged gets another place.
            order = self._standing(lane)
            heapify(order)
            while order and len(entries) < sizes[-1]:
                virtual_ns, _, stream = order[0]
                if virtual_ns > others_ns + self.shares.virtual_cost_ns(stream, lane.batch_ns):
                    break
                entries.append(self._charged(lane, stream, others_ns))
                since_ns = lane.since_ns.get(stream)
                if since_ns is None:
                    heappop(order)
                else:
                    heapreplace(order, (self.shares.virtual_ns(stream), since_ns, stream))
        size = sizes[bisect_left(sizes, len(entries))]
        self.padded += size - len(entries)
        lane.flying += 1
        self._flying += 1
        return Batch(lane.settings.name, tuple(entries), size, lane.frame_ns)

    def _charged(self, lane: _Lane[T], stream: str, others_ns: float) -> Entry[T]:
        """Take what is next of a stream, which is charged for it."""
        entry = Entry(stream, self._pop(lane, stream))
        self.shares.charge(stream, lane.frame_ns, others_ns)
        return entry

    def _pop(self, lane: _Lane[T], stream: str) -> Waiting[T]:
        queue = lane.queues[stream]
        taken = queue.pop()
        lane.waiting -= 1
        following = queue.oldest()
        if following is None:
            del lane.since_ns[stream]
        else:
            lane.since_ns[stream] = following.arrived_ns
        return taken

    def _bound_lag(self, lane: _Lane[T]) -> None:
        if lane.frame_ns == _UNKNOWN_NS:
            return
        virtual_ns, _, stream = self._next_stream(lane)
        least_ns = self.shares.now_ns - self.shares.virtual_cost_ns(stream, _LAG_BATCHES * lane.batch_ns)
        if virtual_ns < least_ns:
            self.shares.advance(lane.since_ns, least_ns - virtual_ns)
