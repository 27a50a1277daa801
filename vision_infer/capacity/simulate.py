"""Simulate the service: its own scheduler with the measured costs of decoding, conversion and engines.

The batchers, mailboxes and pacers are the classes that the service uses; only the work between them is replaced by its
cost. Threads share the cores of the CPU: with more threads than cores, each one is slower. As in the pipeline, each stream and
each batch in flight has a thread, and one thread orders the results. Frames arrive in real time, and the age of a result counts
from the time at which its frame was due. Streams start at random points of their frame interval, their result interval and their
key-frame interval, because the cameras of a site are not synchronized.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vision_infer.capacity.shared_resource import SharedResource
from vision_infer.schedule.batcher import Batch, Batcher
from vision_infer.schedule.lane_state import LaneSettings
from vision_infer.schedule.pacing import Pacer
from vision_infer.schedule.queues import Mailbox, QueuedItem

MS = 1_000_000
NS = 1_000_000_000
_WARM_S = 1.0
_MAX_PACKETS = 64
"""The maximum number of packets in front of a decoder; more are dropped."""


@dataclass(frozen=True, slots=True)
class StepCosts:
    """The time of each step, in milliseconds of the resource that it uses."""

    decode_ms: float
    """The mean time of a stream's thread per frame."""
    convert_ms: float
    """The time per slot of a batch."""
    engine_ms: Mapping[int, float]
    """The time of a batch by its size, interpolated between sizes."""
    rest_ms: float
    """The time of the results thread per result."""
    slots: int = 1
    """The number of images that are converted and inferred per frame: its tiles."""
    in_flight: int = 1
    spread: tuple[float, ...] = (1.0,)
    """Evenly spaced quantiles of the engine's latency, relative to its median."""
    alone: float = 1.0
    """The factor by which a core is faster while the others are idle, for example because two threads share a core."""
    delay_ms: float = 0.0
    """The delay of each result between threads."""
    accelerator: bool = False
    """Whether the engine runs on an accelerator."""
    decoders: int = 0
    """The number of frames that decoding hardware can decode at once; 0: the CPU decodes."""
    decode_pattern: tuple[float, ...] = (1.0,)
    """The times of the successive frames of a key-frame interval, relative to ``decode_ms``: key frames take several times as
    long as others."""

    def batch_ms(self, size: int) -> float:
        """Return the median time of a batch."""
        known = sorted(self.engine_ms)
        if size in self.engine_ms:
            return self.engine_ms[size]
        below = max((measured for measured in known if measured < size), default=known[0])
        above = min((measured for measured in known if measured > size), default=known[-1])
        if below == above or size < below:
            return self.engine_ms[below] * size / below
        part = (size - below) / (above - below)
        return self.engine_ms[below] + part * (self.engine_ms[above] - self.engine_ms[below])


@dataclass(frozen=True, slots=True)
class SimulatedStreams:
    """The streams to simulate."""

    count: int
    source_fps: float
    fps: float
    """The wanted results per second of each stream."""
    batch: int = 1
    """The maximum batch size."""
    max_age_ms: float = 500.0
    """The maximum age of a frame; older frames are not inferred."""
    gated: float = 0.0
    """The share of the wanted frames that a motion gate skips, 0–1."""


@dataclass(frozen=True, slots=True)
class SimulationOutcome:
    """The result of a simulation."""

    results_per_s: float
    delivered: float
    """The share of the wanted frames with a result, 0–1. Frames that are still in progress at the end do not count."""
    age_p50_ms: float
    age_p95_ms: float
    age_p99_ms: float
    cpu: float
    """The CPU utilization, 0–1."""
    accelerator: float
    """The utilization of the accelerator, 0–1; 0 if there is none."""
    decoders: float
    """The utilization of the decoding hardware, 0–1."""
    mean_batch: float
    shares: Mapping[str, float] = field(default_factory=dict)
    """The CPU utilization by step, ``decode``, ``convert``, ``compute`` and ``rest``, 0–1."""


@dataclass(slots=True)
class _SimulatedStream:
    name: str
    pacer: Pacer | None
    index: int
    """The number of decoded frames, from a random frame of the key-frame interval on."""
    packets: deque[int] = field(default_factory=deque)
    decoding: bool = False
    sequence: int = 0


class _Simulation:
    """One simulation with a fixed random seed."""

    def __init__(self, costs: StepCosts, streams: SimulatedStreams, cores: float, seed: int) -> None:
        self.costs, self.streams = costs, streams
        self.chance = random.Random(seed)
        self.cpu = SharedResource(cores, costs.alone)
        self.engine = SharedResource(1) if costs.accelerator else self.cpu
        self.decoder = SharedResource(costs.decoders) if costs.decoders else self.cpu
        self.events: list[tuple[int, int, Callable[[int], None]]] = []
        self.number = 0
        self.batcher: Batcher[int] = Batcher(costs.in_flight)
        self.batcher.add_lane(LaneSettings("lane", tuple(range(1, streams.batch + 1)), costs.in_flight))
        self.waiting: deque[int] = deque()
        """The capture times of the results that wait for the results thread."""
        self.completing = False
        self.ages: list[float] = []
        self.lost = 0.0
        """The number of wanted frames without a result; for frames that were not paced yet, their wanted share."""
        self.wanted_share = min(1.0, streams.fps / streams.source_fps)
        self.batches: list[int] = []
        self.parts = dict.fromkeys(("decode", "convert", "compute", "rest"), 0.0)
        self.warm_ns = int(_WARM_S * NS)
        for number in range(streams.count):
            start = int(self.chance.random() * NS / streams.source_fps)
            pacer = Pacer(streams.fps) if streams.fps < streams.source_fps else None
            if pacer is not None:  # the grid of its wanted frames began before the simulation
                pacer.wants(start - int(self.chance.random() * NS / streams.fps))
            stream = _SimulatedStream(f"s{number:04}", pacer, self.chance.randrange(len(costs.decode_pattern)))
            self.batcher.join(stream.name, "lane", Mailbox())
            self.at(start, lambda now, stream=stream: self.arrives(stream, now))  # type: ignore[misc]

    def at(self, when: int, call: Callable[[int], None]) -> None:
        self.number += 1
        heapq.heappush(self.events, (when, self.number, call))

    def until(self, end: int) -> None:
        resources = list(dict.fromkeys((self.cpu, self.engine, self.decoder)))
        while True:
            which = min(resources, key=SharedResource.next_at)
            done_at = which.next_at()
            event_at = self.events[0][0] if self.events else math.inf
            now_at = min(done_at, event_at)
            if now_at >= end:
                break
            now = math.ceil(now_at)
            for resource in resources:
                resource.advance(now)
            if done_at <= event_at:
                which.finish()(now)
            else:
                heapq.heappop(self.events)[2](now)
        for resource in resources:
            resource.advance(end)

    # The steps of a frame

    def arrives(self, stream: _SimulatedStream, now: int) -> None:
        self.at(now + round(NS / self.streams.source_fps), lambda then: self.arrives(stream, then))
        if len(stream.packets) < _MAX_PACKETS:
            stream.packets.append(now)
        else:
            self.loses(now, self.wanted_share)
        self.decode(stream)

    def loses(self, now: int, count: float) -> None:
        if now > self.warm_ns:
            self.lost += count

    def decode(self, stream: _SimulatedStream) -> None:
        if stream.decoding or not stream.packets:
            return
        stream.decoding = True
        captured = stream.packets.popleft()
        pattern = self.costs.decode_pattern
        ms = self.costs.decode_ms * pattern[stream.index % len(pattern)]
        self.spend("decode", self.decoder, ms, lambda now: self.decoded(stream, captured, now))

    def decoded(self, stream: _SimulatedStream, captured: int, now: int) -> None:
        stream.decoding = False
        stream.index += 1
        if now - captured > self.streams.max_age_ms * MS:
            self.loses(now, self.wanted_share)
        elif stream.pacer is None or stream.pacer.wants(captured):
            if self.chance.random() < self.streams.gated:
                self.results([captured])
            else:
                superseded = self.batcher.offer(stream.name, "lane", QueuedItem(captured, stream.sequence, now, self.costs.slots))
                self.loses(now, superseded is not None)
                stream.sequence += 1
                self.dispatch(now)
        self.decode(stream)

    def dispatch(self, now: int) -> None:
        oldest = now - self.streams.max_age_ms * MS
        while self.batcher.room:
            self.loses(now, len(self.batcher.withdraw(lambda _, captured: captured < oldest)))
            batch = self.batcher.take(now)
            if batch is None:
                return
            convert = self.costs.convert_ms * batch.slots
            self.spend("convert", self.cpu, convert, lambda then, batch=batch: self.infer(batch, then))  # type: ignore[misc]

    def infer(self, batch: Batch[int], now: int) -> None:
        spread = self.costs.spread
        full = (batch.slots - 1) // self.streams.batch  # the tiles of a frame can need several batches
        ms = full * self.costs.batch_ms(self.streams.batch) + self.costs.batch_ms(batch.size)
        ms *= spread[self.chance.randrange(len(spread))]
        self.spend("compute", self.engine, ms, lambda then: self.inferred(batch, now, then))

    def inferred(self, batch: Batch[int], began: int, now: int) -> None:
        self.batcher.done(batch, max(1, now - began))
        if now > self.warm_ns:
            self.batches.append(len(batch.entries))
        self.results([entry.queued.item for entry in batch.entries])
        self.dispatch(now)

    def results(self, captured: list[int]) -> None:
        self.waiting += captured
        self.complete()

    def complete(self) -> None:
        if self.completing or not self.waiting:
            return
        self.completing = True
        captured = self.waiting.popleft()
        self.spend("rest", self.cpu, self.costs.rest_ms, lambda now: self.completed(captured, now))

    def completed(self, captured: int, now: int) -> None:
        self.completing = False
        if now > self.warm_ns:
            self.ages.append((now - captured) / MS + self.costs.delay_ms)
        self.complete()

    def spend(self, part: str, on: SharedResource, ms: float, done: Callable[[int], None]) -> None:
        if on is self.cpu:
            self.parts[part] += ms * MS
        on.start(ms * MS, done)


def simulate(
    costs: StepCosts, streams: SimulatedStreams, cores: float, seconds: float = 10.0, seeds: int = 2
) -> SimulationOutcome:
    """Simulate streams several times with different start times, for ``seconds`` each after a warm-up of one second."""
    ages: list[float] = []
    lost = 0.0
    batches: list[int] = []
    busy = {"cpu": 0.0, "engine": 0.0, "decoder": 0.0}
    parts: dict[str, float] = {}
    length = _WARM_S + seconds
    for seed in range(seeds):
        run = _Simulation(costs, streams, cores, seed)
        run.until(int(length * NS))
        ages += run.ages
        lost += run.lost
        batches += run.batches
        busy["cpu"] += run.cpu.busy_ns / (length * NS * cores)
        busy["engine"] += run.engine.busy_ns / (length * NS) if costs.accelerator else 0.0
        busy["decoder"] += run.decoder.busy_ns / (length * NS * costs.decoders) if costs.decoders else 0.0
        for name, used in run.parts.items():
            parts[name] = parts.get(name, 0.0) + used / (length * NS * cores)
    ages.sort()
    p50, p95, p99 = (ages[min(len(ages) - 1, int(len(ages) * part))] if ages else math.inf for part in (0.5, 0.95, 0.99))
    return SimulationOutcome(
        results_per_s=len(ages) / seconds / seeds,
        delivered=len(ages) / (len(ages) + lost) if ages else 0.0,
        age_p50_ms=p50,
        age_p95_ms=p95,
        age_p99_ms=p99,
        cpu=busy["cpu"] / seeds,
        accelerator=busy["engine"] / seeds,
        decoders=busy["decoder"] / seeds,
        mean_batch=sum(batches) / len(batches) if batches else 0.0,
        shares={name: used / seeds for name, used in parts.items()},
    )
