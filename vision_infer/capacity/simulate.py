"""The service by simulation: our own scheduler, with what was measured of decoding, conversion and engines.

The batcher, the mailboxes and the pacers are the very classes that run in the service; only the work between them is replaced by
its cost. What runs on a processor shares its cores: of more threads than cores each goes slower. Each stream has a thread, each
batch in flight has one, and one puts results in order, as in the pipeline. Pictures come by the clock; a picture's age counts
from the moment at which it was due.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vision_infer.schedule.batcher import Batch, Batcher, LaneSettings
from vision_infer.schedule.pacing import Pacer
from vision_infer.schedule.queues import Mailbox, QueuedItem

MS = 1_000_000
NS = 1_000_000_000
_WARM_S = 1.0
_MAX_PACKETS = 64
"""that wait before a decoder; more are left out"""


@dataclass(frozen=True, slots=True)
class StepCosts:
    """What each step takes, milliseconds of the resource that it runs on."""

    decode_ms: float
    """a stream's thread, for each frame that it sends"""
    convert_ms: float
    engine_ms: Mapping[int, float]
    """a batch, by its size; between two sizes it is interpolated"""
    rest_ms: float
    """the thread of results, for each"""
    in_flight: int = 1
    spread: tuple[float, ...] = (1.0,)
    """quantiles of an engine's time over its median, evenly spaced from 0 to 1"""
    alone: float = 1.0
    """how much faster a core is while it is the only one that works: such as two threads of one core share it"""
    delay_ms: float = 0.0
    """from thread to thread, of each result"""
    accelerator: bool = False
    """the engine does not run on the processor"""
    decoders: int = 0
    """hardware that decodes, and how many frames it can decode at once; 0: the processor does"""

    def batch_ms(self, size: int) -> float:
        """What a batch takes in the middle."""
        known = sorted(self.engine_ms)
        if size in self.engine_ms:
            return self.engine_ms[size]
        below = max((one for one in known if one < size), default=known[0])
        above = min((one for one in known if one > size), default=known[-1])
        if below == above or size < below:
            return self.engine_ms[below] * size / below
        part = (size - below) / (above - below)
        return self.engine_ms[below] + part * (self.engine_ms[above] - self.engine_ms[below])


@dataclass(frozen=True, slots=True)
class SimulatedStreams:
    """What is to be carried."""

    count: int
    source_fps: float
    fps: float
    """results a second that are wanted of each"""
    batch: int = 1
    """largest batch"""
    max_age_ms: float = 500.0
    """a frame that is older is not inferred"""
    gated: float = 0.0
    """share of the wanted frames that a motion gate saves from the engine, 0–1"""
    phases: tuple[float, ...] = ()
    """when each one's first picture comes, parts of the interval between two; empty: at random"""


@dataclass(frozen=True, slots=True)
class SimulationOutcome:
    """What came of it."""

    results_per_s: float
    delivered: float
    """results out of what was wanted, 0–1"""
    age_p50_ms: float
    age_p95_ms: float
    age_p99_ms: float
    cpu: float
    """of the cores in use, 0–1"""
    accelerator: float
    """the same of the engine's device; 0 where that is the processor"""
    decoders: float
    """the same of hardware that decodes"""
    mean_batch: float
    shares: Mapping[str, float] = field(default_factory=dict)
    """processor time by part: ``decode``, ``convert``, ``compute``, ``rest``; of the cores, 0–1"""


class SharedResource:
    """A resource whose units of work all go equally fast: cores that threads share.

    Args:
        places: how many go at full speed side by side.
        alone: how much faster the only one goes.
    """

    def __init__(self, places: float, alone: float = 1.0) -> None:
        self._places = places
        self._alone = alone
        self._work: list[tuple[float, int, Callable[[int], None]]] = []
        self._virtual = 0.0
        """work that each unit has had done since the beginning"""
        self._at = 0
        self._number = 0
        self.busy_ns = 0.0

    def _speed(self) -> float:
        count = len(self._work)
        if count == 0:
            return 0.0
        full = min(1.0, self._places / count)
        if self._places <= 1 or count >= self._places:
            return full if self._places > 1 else full * self._alone
        return self._alone + (1.0 - self._alone) * (count - 1) / (self._places - 1)

    def advance(self, now: int) -> None:
        """Let time pass."""
        gone = now - self._at
        if gone > 0 and self._work:
            self._virtual += gone * self._speed()
            self.busy_ns += gone * min(self._places, len(self._work))
        self._at = now

    def start(self, work_ns: float, done: Callable[[int], None]) -> None:
        """Begin with something; ``done`` is called with the time at which it is done."""
        self._number += 1
        heapq.heappush(self._work, (self._virtual + max(1.0, work_ns), self._number, done))

    def next_at(self) -> float:
        """When the next one is done."""
        if not self._work:
            return math.inf
        return self._at + max(0.0, (self._work[0][0] - self._virtual) / self._speed())

    def finish(self) -> Callable[[int], None]:
        """Take out what is done."""
        return heapq.heappop(self._work)[2]


@dataclass(slots=True)
class _SimulatedStream:
    name: str
    pacer: Pacer | None
    packets: deque[int] = field(default_factory=deque)
    decoding: bool = False
    sequence: int = 0
    index: int = 0


class _Simulation:
    """One simulation."""

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
        self.waiting: deque[tuple[int, int]] = deque()
        """results for the thread that puts them in order: captured, and how many are left out"""
        self.completing = False
        self.ages: list[float] = []
        self.batches: list[int] = []
        self.parts = dict.fromkeys(("decode", "convert", "compute", "rest"), 0.0)
        self.warm_ns = int(_WARM_S * NS)
        paced = streams.fps < streams.source_fps
        for number in range(streams.count):
            stream = _SimulatedStream(f"s{number:04}", Pacer(streams.fps) if paced else None)
            self.batcher.join(stream.name, "lane", Mailbox())
            phase = streams.phases[number] if streams.phases else self.chance.random()
            self.at(int(phase * NS / streams.source_fps), lambda now, one=stream: self.arrives(one, now))  # type: ignore[misc]

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
            for one in resources:
                one.advance(now)
            if done_at <= event_at:
                which.finish()(now)
            else:
                heapq.heappop(self.events)[2](now)
        for one in resources:
            one.advance(end)

    # A frame's way

    def arrives(self, stream: _SimulatedStream, now: int) -> None:
        self.at(now + round(NS / self.streams.source_fps), lambda then: self.arrives(stream, then))
        if len(stream.packets) < _MAX_PACKETS:
            stream.packets.append(now)
        self.decode(stream)

    def decode(self, stream: _SimulatedStream) -> None:
        if stream.decoding or not stream.packets:
            return
        stream.decoding = True
        captured = stream.packets.popleft()
        self.spend("decode", self.decoder, self.costs.decode_ms, lambda now: self.decoded(stream, captured, now))

    def decoded(self, stream: _SimulatedStream, captured: int, now: int) -> None:
        stream.decoding = False
        stream.index += 1
        if now - captured <= self.streams.max_age_ms * MS and (stream.pacer is None or stream.pacer.wants(captured)):
            if self.chance.random() < self.streams.gated:
                self.results([captured])
            else:
                self.batcher.offer(stream.name, "lane", QueuedItem(captured, stream.sequence, now))
                stream.sequence += 1
                self.dispatch(now)
        self.decode(stream)

    def dispatch(self, now: int) -> None:
        oldest = now - self.streams.max_age_ms * MS
        while self.batcher.room:
            self.batcher.withdraw(lambda _, captured: captured < oldest)
            batch = self.batcher.take(now)
            if batch is None:
                return
            convert = self.costs.convert_ms * len(batch.entries)
            self.spend("convert", self.cpu, convert, lambda then, one=batch: self.infer(one, then))  # type: ignore[misc]

    def infer(self, batch: Batch[int], now: int) -> None:
        spread = self.costs.spread
        ms = self.costs.batch_ms(batch.size) * spread[self.chance.randrange(len(spread))]
        self.spend("compute", self.engine, ms, lambda then: self.inferred(batch, now, then))

    def inferred(self, batch: Batch[int], began: int, now: int) -> None:
        self.batcher.done(batch, max(1, now - began))
        if now > self.warm_ns:
            self.batches.append(len(batch.entries))
        self.results([entry.queued.item for entry in batch.entries])
        self.dispatch(now)

    def results(self, captured: list[int]) -> None:
        self.waiting += [(one, 0) for one in captured]
        self.complete()

    def complete(self) -> None:
        if self.completing or not self.waiting:
            return
        self.completing = True
        captured, _ = self.waiting.popleft()
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
    """Let streams run for a while, several times with other moments at which they begin.

    Args:
        costs: what each step takes.
        streams: what is to be carried.
        cores: of the processor; what other programs take is left out.
        seconds: how long, each time.
        seeds: how often.
    """
    ages: list[float] = []
    batches: list[int] = []
    busy = {"cpu": 0.0, "engine": 0.0, "decoder": 0.0}
    parts: dict[str, float] = {}
    length = _WARM_S + seconds
    for seed in range(seeds):
        run = _Simulation(costs, streams, cores, seed)
        run.until(int(length * NS))
        ages += run.ages
        batches += run.batches
        busy["cpu"] += run.cpu.busy_ns / (length * NS * cores)
        busy["engine"] += run.engine.busy_ns / (length * NS) if costs.accelerator else 0.0
        busy["decoder"] += run.decoder.busy_ns / (length * NS * costs.decoders) if costs.decoders else 0.0
        for name, used in run.parts.items():
            parts[name] = parts.get(name, 0.0) + used / (length * NS * cores)
    ages.sort()
    p50, p95, p99 = (ages[min(len(ages) - 1, int(len(ages) * part))] if ages else math.inf for part in (0.5, 0.95, 0.99))
    per_s = len(ages) / seconds / seeds
    wanted = streams.count * min(streams.fps, streams.source_fps)
    return SimulationOutcome(
        results_per_s=per_s,
        delivered=min(1.0, per_s / wanted) if wanted else 1.0,
        age_p50_ms=p50,
        age_p95_ms=p95,
        age_p99_ms=p99,
        cpu=busy["cpu"] / seeds,
        accelerator=busy["engine"] / seeds,
        decoders=busy["decoder"] / seeds,
        mean_batch=sum(batches) / len(batches) if batches else 0.0,
        shares={name: used / seeds for name, used in parts.items()},
    )
