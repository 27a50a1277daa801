"""What each stream costs, from what was measured while it ran, and how many more would fit.

The process's CPU time is known exactly. What a stream's own thread takes is its own; all the rest (conversion, a network on the
CPU, tracking, the web side) is shared out in proportion to the time in which streams were converted and inferred, so that the
parts add up to the whole. Of an accelerator a stream's part is its share of the engine's time. A machine is paid as a whole: a
stream pays for the larger of its parts of CPU and accelerator, and what nobody uses is told as such.

A stream that gives way takes less than it is meant to. What would fit beside it is reckoned with what it took before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vision_infer.pipeline.status import LaneStatus, StreamStatus

HEADROOM = 0.85
"""so much of a machine may be used before ages rise: a queue at 85 % is as long as six services"""
HOURS_A_MONTH = 730.0
LEAST = 1e-6
"""what is below it is nothing"""
_MAX_NAMES = 3


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

    def at(self, fps: float, machine: Machine) -> StreamCost | None:
        """It at another rate of results: decoding stays, the rest goes with the rate. None where nothing was measured.

        Its share may be more than the whole machine.
        """
        if self.result_fps < LEAST:
            return None
        shared = self.shared_cores * fps / self.result_fps
        accelerator = None if self.accelerator is None else self.accelerator * fps / self.result_fps
        cores = self.decode_cores + shared
        share = max(cores / machine.cores, accelerator or 0.0)
        return StreamCost(self.name, self.decode_cores, shared, accelerator, fps, cores / fps * 1000, share)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of all streams."""

    machine: Machine
    streams: tuple[StreamCost, ...]
    accelerator: float | None
    """of the busiest engine that is not the CPU, the part in use, 0–1; None: there is none"""
    in_full: Mapping[str, StreamCost | None] = field(default_factory=dict)
    """of the streams that give way now: what each would take if it did not; None where that was not measured"""

    @property
    def undegraded(self) -> tuple[StreamCost, ...] | None:
        """The streams as they would be if none gave way; None where that was not measured of one that does."""
        streams = [self.in_full.get(stream.name, stream) for stream in self.streams]
        known = tuple(stream for stream in streams if stream is not None)
        return known if len(known) == len(streams) else None

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
        """How many more streams like these fit, with headroom, if none gives way; None where that was not measured."""
        streams = self.undegraded or ()
        measured = [stream for stream in streams if stream.result_fps >= LEAST and stream.cores >= LEAST]
        if not measured:
            return None
        cores = sum(stream.cores for stream in measured) / len(measured)
        owed = sum(stream.cores for stream in streams) - sum(stream.cores for stream in self.streams)
        free = self.machine.cores * HEADROOM - self.machine.used - self.machine.others - max(0.0, owed)
        fit = free / cores
        parts = [stream.accelerator for stream in measured if stream.accelerator]
        if parts and self.accelerator is not None:
            owed = sum(parts) - sum(stream.accelerator or 0.0 for stream in self.streams)
            fit = min(fit, (HEADROOM - self.accelerator - max(0.0, owed)) / (sum(parts) / len(parts)))
        return max(0, int(fit))

    @property
    def says(self) -> str:
        """The same in a sentence."""
        busy = f"The CPU is busy {(self.machine.used + self.machine.others) / self.machine.cores:.0%}"
        if self.accelerator is not None:
            busy += f", the engine {self.accelerator:.0%}"
        more = self.more
        if self.undegraded is None:
            return f"{busy}; whether more streams would fit cannot be told: {self.unknown}."
        if more is None:
            return f"{busy}; no stream has been measured yet."
        if self.in_full:
            busy += f"; with what is given up for now ({_some(self.in_full)}) given back"
        if more == 0:
            return f"{busy}; no further stream like these fits with {1 - HEADROOM:.0%} to spare."
        return f"{busy}; {more} more {'stream' if more == 1 else 'streams'} like these would fit."

    @property
    def unknown(self) -> str:
        """Why :attr:`undegraded` is None, in half a sentence."""
        names = [name for name, full in self.in_full.items() if full is None]
        return f"what streams that give way for now ({_some(names)}) would take in full was not measured"


def cost_of(
    streams: Sequence[StreamStatus],
    lanes: Sequence[LaneStatus],
    machine: Machine,
    in_full: Mapping[str, StreamCost | None] | None = None,
) -> Cost:
    """Share out what the process takes among its live streams.

    Args:
        streams: as they are now; recorded ones are left out.
        lanes: the engines.
        machine: where it runs.
        in_full: of the streams that give way, what each would take if it did not.
    """
    live = [stream for stream in streams if stream.live]
    by_lane = {lane.name: lane for lane in lanes}
    shared = max(0.0, machine.used - sum(stream.usage.thread for stream in live))
    whole = sum(stream.usage.convert + stream.usage.engine for stream in live)
    costs = []
    for stream in live:
        usage = stream.usage
        part = (usage.convert + usage.engine) / whole if whole > LEAST else 1 / len(live)
        cores = usage.thread + shared * part
        lane = by_lane.get(stream.lane)
        accelerator = None if lane is None or _on_cpu(lane.engine) else min(1.0, usage.engine / lane.in_flight)
        fps = stream.result_fps
        per_result = cores / fps * 1000 if fps >= LEAST else None
        share = min(1.0, max(cores / machine.cores, accelerator or 0.0))
        costs.append(StreamCost(stream.name, usage.thread, shared * part, accelerator, fps, per_result, share))
    others = [lane.utilisation for lane in lanes if not _on_cpu(lane.engine)]
    owed = {stream.name: in_full[stream.name] for stream in live if in_full and stream.name in in_full}
    return Cost(machine, tuple(costs), max(others) if others else None, owed)


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:_MAX_NAMES]) + (f" and {len(listed) - _MAX_NAMES} others" if len(listed) > _MAX_NAMES else "")


def _on_cpu(engine: str) -> bool:
    """Whether an engine's name, ``runtime-device-precision``, says that it runs on the CPU."""
    return "-cpu" in engine or engine.startswith("null")
