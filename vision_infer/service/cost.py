"""What each stream costs, from what was measured while it ran, and how many more would fit.

The process's CPU time is known exactly. What a stream's own thread takes is its own; all the rest (conversion, a network on the
CPU, tracking, the web side) is shared out in proportion to the time in which streams were converted and inferred, so that the
parts add up to the whole. Of an accelerator a stream's part is its share of the engine's time. A machine is paid as a whole: a
stream pays for the larger of its parts of CPU and accelerator, and what nobody uses is told as such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vision_infer.pipeline.status import LaneStatus, StreamStatus

HEADROOM = 0.85
"""so much of a machine may be used before ages rise: a queue at 85 % is as long as six services"""
HOURS_A_MONTH = 730.0
_LEAST = 1e-6


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it runs."""

    cores: float
    """CPU cores that the process may use"""
    used: float
    """that it uses, over the last ten seconds or so"""
    others: float
    """that other processes use; 0 where it is not known"""


@dataclass(frozen=True, slots=True)
class StreamCost:
    """What one stream takes, over the last ten seconds or so."""

    name: str
    decode_cores: float
    """its own thread"""
    shared_cores: float
    """its part of all other CPU time of the process"""
    accelerator: float | None
    """its part of the engine's time, 0–1; None where the engine is the CPU"""
    result_fps: float
    cpu_ms_per_result: float | None
    """of all its CPU time; None without results"""
    share: float
    """of the machine that it uses: the larger of its parts of CPU and accelerator, 0–1"""

    @property
    def cores(self) -> float:
        """CPU cores that it takes."""
        return self.decode_cores + self.shared_cores

    def share_at(self, fps: float, machine: Machine) -> float | None:
        """Its share at another rate of results: decoding stays, the rest goes with the rate. None where nothing was measured."""
        if self.result_fps < _LEAST:
            return None
        ratio = fps / self.result_fps
        cpu = (self.decode_cores + self.shared_cores * ratio) / machine.cores
        return max(cpu, (self.accelerator or 0.0) * ratio)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of all streams."""

    machine: Machine
    streams: tuple[StreamCost, ...]
    accelerator: float | None
    """of the busiest engine that is not the CPU, the part in use, 0–1; None: there is none"""

    @property
    def busy(self) -> float:
        """Part of the machine in use: the larger of CPU and accelerator, 0–1."""
        cpu = (self.machine.used + self.machine.others) / self.machine.cores
        return min(1.0, max(cpu, self.accelerator or 0.0))

    @property
    def binding(self) -> str:
        """What will be used up first."""
        cpu = (self.machine.used + self.machine.others) / self.machine.cores
        return "accelerator" if (self.accelerator or 0.0) > cpu else "cpu"

    @property
    def more(self) -> int | None:
        """How many more streams like these fit, with headroom; None where none has been measured."""
        measured = [stream for stream in self.streams if stream.result_fps >= _LEAST and stream.cores >= _LEAST]
        if not measured:
            return None
        cores = sum(stream.cores for stream in measured) / len(measured)
        free = self.machine.cores * HEADROOM - self.machine.used - self.machine.others
        fit = free / cores
        parts = [stream.accelerator for stream in measured if stream.accelerator]
        if parts and self.accelerator is not None:
            fit = min(fit, (HEADROOM - self.accelerator) / (sum(parts) / len(parts)))
        return max(0, int(fit))

    @property
    def says(self) -> str:
        """The same in a sentence."""
        busy = f"The CPU is busy {(self.machine.used + self.machine.others) / self.machine.cores:.0%}"
        if self.accelerator is not None:
            busy += f", the engine {self.accelerator:.0%}"
        more = self.more
        if more is None:
            return f"{busy}; no stream has been measured yet."
        if more == 0:
            return f"{busy}; no further stream like these fits with {1 - HEADROOM:.0%} to spare."
        return f"{busy}; {more} more {'stream' if more == 1 else 'streams'} like these would fit."


def cost_of(streams: Sequence[StreamStatus], lanes: Sequence[LaneStatus], machine: Machine) -> Cost:
    """Share out what the process takes among its live streams.

    Args:
        streams: as they are now; recorded ones are left out.
        lanes: the engines.
        machine: where it runs.
    """
    live = [stream for stream in streams if stream.live]
    by_lane = {lane.name: lane for lane in lanes}
    shared = max(0.0, machine.used - sum(stream.usage.thread for stream in live))
    whole = sum(stream.usage.convert + stream.usage.engine for stream in live)
    costs = []
    for stream in live:
        usage = stream.usage
        part = (usage.convert + usage.engine) / whole if whole > _LEAST else 1 / len(live)
        cores = usage.thread + shared * part
        lane = by_lane.get(stream.lane)
        accelerator = None if lane is None or _on_cpu(lane.engine) else min(1.0, usage.engine / lane.in_flight)
        fps = stream.result_fps
        per_result = cores / fps * 1000 if fps >= _LEAST else None
        share = min(1.0, max(cores / machine.cores, accelerator or 0.0))
        costs.append(StreamCost(stream.name, usage.thread, shared * part, accelerator, fps, per_result, share))
    others = [lane.utilisation for lane in lanes if not _on_cpu(lane.engine)]
    return Cost(machine, tuple(costs), max(others) if others else None)


@dataclass(frozen=True, slots=True)
class Room:
    """What is left for another stream."""

    fps: float
    """results a second that the machine can still promise"""
    binding: str
    """what limits it: cpu or accelerator"""


def room_for(cost: Cost, promised: Mapping[str, float], joins: bool) -> Room | None:
    """What is left for another stream, beside what other streams have been promised.

    Streams that were promised nothing take what is free, and give it back; only their decoding counts.

    Args:
        cost: as measured.
        promised: results a second, by stream.
        joins: it has to be decoded too, as others are on average; else it is decoded already.

    Returns:
        None where nothing has been measured yet.
    """
    measured = [stream for stream in cost.streams if stream.result_fps >= _LEAST]
    results = sum(stream.result_fps for stream in measured)
    if results < _LEAST:
        return None
    machine = cost.machine
    decoding = sum(stream.decode_cores for stream in cost.streams)
    if joins:
        decoding += decoding / len(cost.streams)
    cores_each = sum(stream.shared_cores for stream in measured) / results
    other = sum(promised.values())
    free = machine.cores * HEADROOM - machine.others - decoding - other * cores_each
    by_cpu = max(0.0, free) / max(cores_each, _LEAST)
    engine_each = sum(stream.accelerator or 0.0 for stream in measured) / results
    if engine_each < _LEAST:
        return Room(by_cpu, "cpu")
    by_engine = max(0.0, HEADROOM - other * engine_each) / engine_each
    return Room(by_cpu, "cpu") if by_cpu <= by_engine else Room(by_engine, "accelerator")


def _on_cpu(engine: str) -> bool:
    """Whether an engine's name, ``runtime-device-precision``, says that it runs on the CPU."""
    return "-cpu" in engine or engine.startswith("null")
