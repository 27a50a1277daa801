"""Simulated devices for the batcher: engines that only take time, streams that only offer numbers, and a clock."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from vision_infer.schedule.batcher import Batch, Batcher
from vision_infer.schedule.lane_state import LaneSettings
from vision_infer.schedule.queues import BoundedQueue, Mailbox, QueuedItem

MS = 1_000_000
MAX_EVENTS = 100_000


@dataclass(frozen=True)
class Network:
    """The cost of a lane's engine: for a batch and for each slot, with a random ``spread`` (0–1)."""

    batch_ns: int
    frame_ns: int
    sizes: tuple[int, ...]
    spread: float = 0.0

    @property
    def full_ns(self) -> int:
        """The maximum cost of a batch."""
        return round((self.batch_ns + self.sizes[-1] * self.frame_ns) * (1 + self.spread))

    def cost(self, size: int, chance: Random) -> int:
        """The engine time of a batch."""
        return max(1, round((self.batch_ns + size * self.frame_ns) * chance.uniform(1 - self.spread, 1 + self.spread)))


@dataclass
class Stream:
    """A stream on the device, and its measurements."""

    lane: str
    queue: Mailbox[int] | BoundedQueue[int]
    backlogged: bool
    sequence: int = 0
    waits_from_ns: int | None = None
    """The engine time of the device when the stream started to wait for its next turn."""
    longest_ns: int = 0
    """The maximum engine time of the device while a frame of the stream waited for its turn."""
    engine_ns: float = 0.0
    served: int = 0


class Device:
    """Several models on one device, driven from event to event.

    Args:
        slower: Further devices with a replica of every lane, by the factor of their costs.
    """

    def __init__(
        self,
        in_flight: int,
        networks: Mapping[str, Network],
        seed: int,
        limits: Mapping[str, int] | None = None,
        slower: Sequence[float] = (),
    ) -> None:
        self.batcher: Batcher[int] = Batcher(in_flight)
        self.networks = dict(networks)
        self._factors = (1.0, *slower)
        self.batches = [0] * len(self._factors)
        """The number of batches of each device."""
        self.streams: dict[str, Stream] = {}
        self.now_ns = 0
        self.spent_ns = 0
        self._chance = Random(seed)
        self._flights: list[tuple[int, int, Batch[int], int]] = []
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = itertools.count()
        for name, network in networks.items():
            settings = LaneSettings(name, network.sizes, (limits or {}).get(name, in_flight))
            self.batcher.add_lane(settings)
            for number in range(1, len(self._factors)):
                self.batcher.add_replica(replace(settings, device=f"device-{number}"))

    def at(self, time_ns: int, action: Callable[[], None]) -> None:
        """Schedule a call."""
        heapq.heappush(self._events, (max(time_ns, self.now_ns), next(self._count), action))

    def join(self, name: str, lane: str, weight: float, *, backlogged: bool = False, live: bool = False) -> None:
        """Add a stream; a backlogged one always has more waiting frames than the device can take."""
        most = 2 * self.networks[lane].sizes[-1] + 1
        queue: Mailbox[int] | BoundedQueue[int] = Mailbox() if live else BoundedQueue(most)
        self.streams[name] = Stream(lane, queue, backlogged)
        self.batcher.join(name, lane, queue, weight)
        self._refill()

    def leave(self, name: str) -> None:
        """Remove a stream."""
        self.batcher.leave(name)
        del self.streams[name]

    def offer(self, name: str) -> None:
        """Offer a frame of the stream, unless its queue is full or it has left."""
        stream = self.streams.get(name)
        if stream is None or stream.queue.full:
            return
        if stream.waits_from_ns is None:
            stream.waits_from_ns = self.spent_ns
        self.batcher.offer(name, stream.lane, QueuedItem(0, stream.sequence, self.now_ns))
        stream.sequence += 1

    def waits_ns(self) -> dict[str, int]:
        """Return for each stream the maximum engine time during a wait for a turn, including the current wait."""
        return {
            name: max(one.longest_ns, 0 if one.waits_from_ns is None else self.spent_ns - one.waits_from_ns)
            for name, one in self.streams.items()
        }

    def run(self, until: Callable[[], bool]) -> None:
        """Process events until the condition holds or there are no more events."""
        self._start()
        for _ in range(MAX_EVENTS):
            if until() or not (self._flights or self._events):
                return
            if self._events and (not self._flights or self._events[0][0] <= self._flights[0][0]):
                self.now_ns, _, action = heapq.heappop(self._events)
                action()
            else:
                self._finish()
            self._start()
        raise AssertionError(f"{MAX_EVENTS} events, and not complete: a stream starves")

    def _finish(self) -> None:
        self.now_ns, _, batch, cost = heapq.heappop(self._flights)
        self.batcher.done(batch, cost)
        self.spent_ns += cost
        for entry in batch.entries:
            stream = self.streams.get(entry.stream)
            if stream is not None:
                stream.engine_ns += cost / len(batch.entries)
                stream.served += 1

    def _start(self) -> None:
        self._refill()
        while (batch := self.batcher.take(self.now_ns)) is not None:
            cost = round(self.networks[batch.lane].cost(batch.size, self._chance) * self._factors[batch.replica])
            self.batches[batch.replica] += 1
            heapq.heappush(self._flights, (self.now_ns + cost, next(self._count), batch, cost))
            for name in {entry.stream for entry in batch.entries}:
                stream = self.streams[name]
                assert stream.waits_from_ns is not None
                stream.longest_ns = max(stream.longest_ns, self.spent_ns - stream.waits_from_ns)
                stream.waits_from_ns = self.spent_ns if len(stream.queue) else None
            self._refill()

    def _refill(self) -> None:
        for name, stream in self.streams.items():
            while stream.backlogged and not stream.queue.full:
                self.offer(name)
