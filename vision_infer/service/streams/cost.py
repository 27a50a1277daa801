"""The measured cost of each stream, and the number of additional streams that fit.

The CPU time of the process is known exactly. The CPU time of a stream's own thread belongs to the stream. The remaining CPU
time (conversion, inference on the CPU, tracking, HTTP) is divided in proportion to each stream's conversion and inference time,
so that the shares add up to the total. A stream's share of an accelerator is its share of the engine's time. A machine is paid
for as a whole: a stream pays for the larger of its CPU and accelerator shares. Unused capacity is listed separately.

A degraded stream uses less than it should. The remaining capacity is calculated with its cost before degradation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vision_infer.pipeline.status import LaneStatus, StreamStatus

HEADROOM = 0.85
"""The maximum utilization before ages rise: at 85 %, the mean queue length is about six."""
HOURS_A_MONTH = 730.0
EPSILON = 1e-6
"""The threshold below which a value counts as zero."""
_MAX_NAMES = 3


@dataclass(frozen=True, slots=True)
class MachineUsage:
    """The CPU cores of the machine and their use, over about ten seconds."""

    cores: float
    """The number of CPU cores available to the process."""
    used: float
    """The number of CPU cores that the process uses."""
    others: float
    """The number of CPU cores that other processes use; 0 if unknown."""
    machines: int = 1
    """The number of machines whose cores are added up."""


@dataclass(frozen=True, slots=True)
class StreamCost:
    """The resources of one stream, over about ten seconds."""

    name: str
    decode_cores: float
    """The CPU cores used by the stream's own thread."""
    shared_cores: float
    """The stream's share of all other CPU time of the process, in cores."""
    accelerator: float | None
    """The stream's share of the engine's time, 0–1; None if the engine runs on the CPU."""
    result_fps: float
    cpu_ms_per_result: float | None
    """The CPU time per result; None without results."""
    share: float
    """The stream's share of the machine: the larger of its CPU and accelerator shares, 0–1."""
    tiles: int = 1
    """The number of inferences per result: the tiles of a frame."""

    @property
    def cores(self) -> float:
        """The total number of CPU cores used by the stream."""
        return self.decode_cores + self.shared_cores

    def at(self, fps: float, machine: MachineUsage) -> StreamCost | None:
        """Return the cost at another rate of results; None if nothing was measured.

        Decoding is constant, the remainder is proportional to the rate. The share may exceed the whole machine.
        """
        if self.result_fps < EPSILON:
            return None
        shared = self.shared_cores * fps / self.result_fps
        accelerator = None if self.accelerator is None else self.accelerator * fps / self.result_fps
        cores = self.decode_cores + shared
        share = max(cores / machine.cores * machine.machines, accelerator or 0.0)
        return StreamCost(self.name, self.decode_cores, shared, accelerator, fps, cores / fps * 1000, share, self.tiles)


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of all streams."""

    machine: MachineUsage
    streams: tuple[StreamCost, ...]
    accelerator: float | None
    """The utilization of the busiest accelerator engine, 0–1; None if there is none."""
    full_costs: Mapping[str, StreamCost | None] = field(default_factory=dict)
    """The costs of degraded streams at full quality by name; None if not measured."""

    @property
    def undegraded(self) -> tuple[StreamCost, ...] | None:
        """The costs of all streams at full quality; None if that of a degraded stream was not measured."""
        streams = [self.full_costs.get(stream.name, stream) for stream in self.streams]
        known = tuple(stream for stream in streams if stream is not None)
        return known if len(known) == len(streams) else None

    @property
    def busy(self) -> float:
        """The utilization of the machine: the larger of CPU and accelerator, 0–1."""
        cpu = (self.machine.used + self.machine.others) / self.machine.cores
        return min(1.0, max(cpu, self.accelerator or 0.0))

    @property
    def binding(self) -> str:
        """The resource that limits further streams."""
        cpu = (self.machine.used + self.machine.others) / self.machine.cores
        return "accelerator" if (self.accelerator or 0.0) > cpu else "cpu"

    @property
    def more_streams(self) -> int | None:
        """The number of additional streams of this kind that fit without degrading any, with headroom; None if not measured."""
        streams = self.undegraded or ()
        measured = [stream for stream in streams if stream.result_fps >= EPSILON and stream.cores >= EPSILON]
        if not measured:
            return None
        cores = sum(stream.cores for stream in measured) / len(measured)
        owed = sum(stream.cores for stream in streams) - sum(stream.cores for stream in self.streams)
        free = self.machine.cores * HEADROOM - self.machine.used - self.machine.others - max(0.0, owed)
        fit = free / cores
        parts = [stream.accelerator for stream in measured if stream.accelerator]
        if parts and self.accelerator is not None:
            owed = sum(parts) - sum(stream.accelerator or 0.0 for stream in self.streams)
            free = HEADROOM - self.accelerator - max(0.0, owed)
            fit = min(fit, free * self.machine.machines / (sum(parts) / len(parts)))
        return max(0, int(fit))

    @property
    def summary(self) -> str:
        """A summary in one sentence."""
        busy = f"CPU utilization is {(self.machine.used + self.machine.others) / self.machine.cores:.0%}"
        if self.accelerator is not None:
            busy += f", engine utilization {self.accelerator:.0%}"
        more = self.more_streams
        if self.undegraded is None:
            return f"{busy}; the number of additional streams is unknown: {self.unknown}."
        if more is None:
            return f"{busy}; no stream has been measured yet."
        if self.full_costs:
            busy += f"; counting degraded streams ({_some(self.full_costs)}) at full quality"
        if more == 0:
            return f"{busy}; no additional stream of this kind fits with {1 - HEADROOM:.0%} headroom."
        return f"{busy}; {more} additional {'stream' if more == 1 else 'streams'} of this kind would fit."

    @property
    def unknown(self) -> str:
        """The reason why :attr:`undegraded` is None."""
        names = [name for name, cost in self.full_costs.items() if cost is None]
        return f"the cost of degraded streams ({_some(names)}) at full quality was not measured"


def cost_of(
    streams: Sequence[StreamStatus],
    lanes: Sequence[LaneStatus],
    machine: MachineUsage,
    full_costs: Mapping[str, StreamCost | None] | None = None,
) -> Cost:
    """Divide the resources of the process among its live streams.

    Args:
        streams: The status of all streams; recorded ones are ignored.
        lanes: The engines.
        machine: The CPU cores and their use.
        full_costs: The costs of degraded streams at full quality.
    """
    live = [stream for stream in streams if stream.live]
    by_lane = {lane.name: lane for lane in lanes}
    shared = max(0.0, machine.used - sum(stream.usage.thread for stream in live))
    whole = sum(stream.usage.convert + stream.usage.engine for stream in live)
    costs = []
    for stream in live:
        usage = stream.usage
        part = (usage.convert + usage.engine) / whole if whole > EPSILON else 1 / len(live)
        cores = usage.thread + shared * part
        lane = by_lane.get(stream.lane)
        accelerator = None if lane is None or _on_cpu(lane.engine) else min(1.0, usage.engine / lane.in_flight)
        fps = stream.result_fps
        per_result = cores / fps * 1000 if fps >= EPSILON else None
        share = min(1.0, max(cores / machine.cores, accelerator or 0.0))
        costs.append(StreamCost(stream.name, usage.thread, shared * part, accelerator, fps, per_result, share, stream.tiles))
    others = [lane.utilization for lane in lanes if not _on_cpu(lane.engine)]
    owed = {stream.name: full_costs[stream.name] for stream in live if full_costs and stream.name in full_costs}
    return Cost(machine, tuple(costs), max(others) if others else None, owed)


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:_MAX_NAMES]) + (f" and {len(listed) - _MAX_NAMES} others" if len(listed) > _MAX_NAMES else "")


def _on_cpu(engine: str) -> bool:
    """Return whether an engine runs on the CPU, by its name ``runtime-device-precision``."""
    return "-cpu" in engine or engine.startswith("null")
