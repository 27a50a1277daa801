"""The batcher: frames of several streams become batches of a lane.

It is work-conserving: while the device has room for a batch and a frame waits, that frame goes, unless the lane asks to wait
(``max_wait_ns``) for a fuller batch. Among the frames that wait, the stream with the least virtual time goes first and the
oldest frame breaks the tie (:mod:`vision_infer.schedule.shares`); a batch never mixes lanes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from vision_infer.schedule.queues import FrameQueue, Waiting
from vision_infer.schedule.shares import FairShares

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """What the batcher knows of a lane: one engine with one input size."""

    name: str
    batch_sizes: tuple[int, ...]
    """the sizes that the engine runs, ascending; a batch between two of them is padded to the larger"""
    in_flight: int
    """batches that the engine takes at the same time"""
    max_wait_ns: int = 0
    """how long the oldest frame may wait for the batch to fill"""

    def __post_init__(self) -> None:
        sizes = self.batch_sizes
        if not sizes or sizes[0] < 1 or list(sizes) != sorted(set(sizes)):
            raise ValueError(f"batch_sizes must rise from at least 1, got {sizes}")
        if self.in_flight < 1:
            raise ValueError(f"in_flight must be at least 1, got {self.in_flight}")
        if self.max_wait_ns < 0:
            raise ValueError(f"max_wait_ns must not be negative, got {self.max_wait_ns}")


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """A frame in a batch."""

    stream: str
    waiting: Waiting[T]


@dataclass(frozen=True, slots=True)
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
    waiting: int = 0
    flying: int = 0
    frame_ns: float = 0.0


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

    def join(self, stream: str, lane: str, queue: FrameQueue[T], weight: float = 1.0) -> None:
        """Let a stream's frames into a lane; further lanes of the same stream share its account."""
        if stream not in self.streams:
            self.shares.join(stream, weight)
        queues = self._lanes[lane].queues
        if stream in queues:
            raise ValueError(f"stream {stream!r} is in lane {lane!r} already")
        queues[stream] = queue

    def leave(self, stream: str) -> list[Waiting[T]]:
        """Take a stream out of all lanes; returns what it had waiting, which is lost."""
        lost: list[Waiting[T]] = []
        for lane in self._lanes.values():
            queue = lane.queues.pop(stream, None)
            if queue is not None:
                lane.waiting -= len(queue)
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
        queue = to.queues[stream]
        if len(queue) == 0:
            self.shares.wake(stream)
        lost = queue.put(waiting)
        if lost is None:
            to.waiting += 1
        return lost

    def take(self, now_ns: int) -> Batch[T] | None:
        """The next batch, or None when there is no room, nothing waits, or the lane still waits for more."""
        if self._flying >= self._in_flight:
            return None
        best: tuple[float, int, str] | None = None
        for name, lane in self._lanes.items():
            if self._ready(lane, now_ns):
                head = self._next_stream(lane)
                if best is None or (head[0], head[1]) < (best[0], best[1]):
                    best = (head[0], head[1], name)
        if best is None:
            return None
        return self._fill(self._lanes[best[2]])

    def wake_at_ns(self) -> int | None:
        """When :meth:`take` has to be asked again because a wait runs out; None when only an event can change its answer."""
        if self._flying >= self._in_flight:
            return None
        times = [
            self._oldest_ns(lane) + lane.settings.max_wait_ns
            for lane in self._lanes.values()
            if lane.waiting and lane.flying < lane.settings.in_flight
        ]
        return min(times, default=None)

    def done(self, batch: Batch[T], engine_ns: int) -> None:
        """A batch has left the engine, successful or not.

        Args:
            batch: as :meth:`take` gave it.
            engine_ns: the engine time that it cost; shared equally among its frames, padding included.
        """
        lane = self._lanes[batch.lane]
        lane.flying -= 1
        self._flying -= 1
        each = engine_ns / len(batch.entries)
        lane.frame_ns = each if lane.frame_ns == 0.0 else lane.frame_ns + 0.125 * (each - lane.frame_ns)
        for entry in batch.entries:
            self.shares.correct(entry.stream, batch.estimated_ns, each)

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
        if lane.waiting == 0 or lane.flying >= settings.in_flight:
            return False
        if settings.max_wait_ns == 0 or lane.waiting >= settings.batch_sizes[-1]:
            return True
        return now_ns - self._oldest_ns(lane) >= settings.max_wait_ns

    def _oldest_ns(self, lane: _Lane[T]) -> int:
        return min(head.arrived_ns for queue in lane.queues.values() if (head := queue.oldest()) is not None)

    def _next_stream(self, lane: _Lane[T]) -> tuple[float, int, str]:
        return min(
            (self.shares.virtual_ns(stream), head.arrived_ns, stream)
            for stream, queue in lane.queues.items()
            if (head := queue.oldest()) is not None
        )

    def _fill(self, lane: _Lane[T]) -> Batch[T]:
        sizes = lane.settings.batch_sizes
        entries: list[Entry[T]] = []
        while lane.waiting and len(entries) < sizes[-1]:
            stream = self._next_stream(lane)[2]
            entries.append(Entry(stream, lane.queues[stream].pop()))
            lane.waiting -= 1
            self.shares.charge(stream, lane.frame_ns)
        size = next(size for size in sizes if size >= len(entries))
        self.padded += size - len(entries)
        lane.flying += 1
        self._flying += 1
        return Batch(lane.settings.name, tuple(entries), size, lane.frame_ns)
