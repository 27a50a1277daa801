"""Estimate the number of cameras per machine and engine, the bottleneck, and the cost per result."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from vision_infer.capacity.calibration import cores_of, measured_cameras, measured_run, simulated
from vision_infer.capacity.costs import BenchEngine, Load, costs_of, engines_of, mbit_of
from vision_infer.capacity.memory import MemoryNeed, memory_of
from vision_infer.capacity.need import Need
from vision_infer.capacity.pipeline_benchmark import DELIVERED
from vision_infer.capacity.report import BenchReport
from vision_infer.capacity.simulate import SimulationOutcome, StepCosts

MAX_STREAMS = 4096
WORTH = 0.98
"""A larger batch is tried only if the cost per image falls below this share of the smaller one's."""


@dataclass(frozen=True, slots=True)
class MeasuredMachine:
    """A machine with a benchmark."""

    name: str
    report: BenchReport
    others: tuple[BenchReport, ...] = ()
    """Benchmarks of the same machine with other models, newest first."""


@dataclass(frozen=True, slots=True)
class PlanCost:
    """The cost in the user's currency."""

    per_hour: float
    """The price of one device per hour."""
    month: float
    """The price of all devices per month."""
    stream_month: float
    per_1000_frames: float
    """The price of 1,000 results at the planned load."""
    per_1000_frames_full: float
    """The price of 1,000 results with fully used devices."""
    per_1000_detections: float | None


@dataclass(frozen=True, slots=True)
class CapacityAnswer:
    """The estimate for one engine on one machine."""

    engine: str
    batch: int
    most: int
    """The maximum number of cameras per device that meet the target, with the margin; never more than were measured."""
    forecast: int
    """The same, by the simulation alone."""
    devices: int | None
    """The number of devices for all cameras; None if no number is enough."""
    each: int
    """The number of cameras on the fullest device."""
    outcome: SimulationOutcome
    """The simulation of that device; of a single camera if no number of devices is enough."""
    edge: SimulationOutcome
    """The simulation with one camera more than the maximum."""
    binding: str
    """The bottleneck: decode, conversion, copy, compute, memory or network."""
    why: str
    """The bottleneck as a sentence."""
    memory: MemoryNeed
    network_mbit_s: float | None
    costs: StepCosts
    measured: int | None = None
    """The number of cameras that the benchmark ran within the target, without the margin; None if it did not run them."""
    measured_ages_ms: tuple[float, float, float] | None = None
    """The 50th, 95th and 99th percentile of the age in the benchmark's own run with ``each`` cameras, if there was one."""
    nearest: str = ""
    """The nearest possible target, if no number of devices is enough."""
    money: PlanCost | None = None

    @property
    def ages_ms(self) -> tuple[float, float, float]:
        """The 50th, 95th and 99th percentile of the age with ``each`` cameras: measured, else simulated."""
        found = self.outcome
        return self.measured_ages_ms or (found.age_p50_ms, found.age_p95_ms, found.age_p99_ms)


def answer_of(
    machine: MeasuredMachine, need: Need, engine: BenchEngine, load: Load, gated: float = 0.0, limit: int | None = None
) -> CapacityAnswer | None:
    """Return the estimate for an engine at its best batch size; None if the benchmark has no such video.

    Args:
        gated: The share of the wanted frames that a motion gate skips, 0–1.
        limit: The maximum number of cameras per device; None: that of the benchmark's own runs, if it ran this engine.
    """
    costs = costs_of(machine.report, need, engine, load)
    if costs is None:
        return None
    found = [_CapacitySearch(machine, need, engine, costs, batch, gated, limit) for batch in _batches(costs)]
    # At equal capacity, prefer the smaller batch: each image waits for the others of its batch.
    return max(found, key=lambda search: (search.most, -search.batch)).answer()


def _batches(costs: StepCosts) -> list[int]:
    """Return the batch sizes at which an image costs less than at all smaller ones."""
    kept: list[int] = []
    lowest = math.inf
    for batch in sorted(costs.engine_ms):
        each = costs.engine_ms[batch] / batch
        if each < WORTH * lowest:
            kept.append(batch)
            lowest = each
    return kept


class _CapacitySearch:
    """Finds the maximum number of cameras for one engine and batch size."""

    def __init__(
        self,
        machine: MeasuredMachine,
        need: Need,
        engine: BenchEngine,
        costs: StepCosts,
        batch: int,
        gated: float,
        limit: int | None = None,
    ) -> None:
        report = machine.report
        self.machine, self.need, self.engine, self.costs, self.batch, self.gated = machine, need, engine, costs, batch, gated
        self.cores = cores_of(report)
        self.share = round(1 - need.margin, 4)
        self.mbit = mbit_of(report, need)
        self._runs: dict[int, SimulationOutcome] = {}
        self.measured = None if gated else measured_cameras(report, need, engine.name)
        self.forecast = _most(lambda cameras: not self.breaks(cameras), self._bound())
        limit = self.measured if limit is None else limit
        self.most = self.forecast if limit is None else min(self.forecast, limit)

    def run(self, cameras: int) -> SimulationOutcome:
        """Simulate this number of cameras."""
        if cameras not in self._runs:
            self._runs[cameras] = simulated(self.costs, self.need, cameras, self.batch, self.cores, self.gated)
        return self._runs[cameras]

    def memory(self, cameras: int) -> MemoryNeed:
        """Return the memory for this number of cameras."""
        return memory_of(self.machine.report, self.need, self.engine, self.batch, cameras)

    def breaks(self, cameras: int) -> str:
        """Return the limit that this number of cameras exceeds; empty if none. Cheap checks come first."""
        limit = self.need.network_mbit_s
        if limit is not None and self.mbit is not None and cameras * self.mbit > limit * self.share:
            return "network"
        if self.memory(cameras).over(self.share):
            return "memory"
        found = self.run(cameras)
        busy = max(found.cpu, found.accelerator, found.decoders) > self.share
        late = found.age_p99_ms > self.need.target.age_ms or found.delivered < DELIVERED
        return _busiest(found, self.costs) if busy or late else ""

    def _bound(self) -> int:
        """Return an upper bound from the costs alone."""
        need, costs = self.need, self.costs
        results = need.fps * (1 - self.gated)
        inferred = results * costs.slots
        engine = costs.batch_ms(self.batch) / self.batch * inferred
        decode = costs.decode_ms * need.video.fps
        cpu = inferred * costs.convert_ms + need.fps * costs.rest_ms
        cpu += (0.0 if costs.accelerator else engine) + (0.0 if costs.decoders else decode)
        bounds = [cpu / costs.alone / self.cores]
        bounds += [engine] if costs.accelerator else []
        bounds += [decode / costs.decoders] if costs.decoders else []
        return min(MAX_STREAMS, int(self.share * 1000 / max(bounds)))

    def answer(self) -> CapacityAnswer:
        """Return the estimate."""
        need, most = self.need, self.most
        each = 1 if most == 0 else math.ceil(need.cameras / math.ceil(need.cameras / most))
        limit = self.breaks(most + 1)
        run = measured_run(self.machine.report, need, self.engine.name, each)
        answer = CapacityAnswer(
            engine=self.engine.name,
            batch=self.batch,
            most=most,
            forecast=self.forecast,
            devices=None if most == 0 else math.ceil(need.cameras / most),
            each=each,
            outcome=self.run(each),
            edge=self.run(most + 1),
            binding=limit or _busiest(self.run(most + 1), self.costs),
            why=_why(limit, most, self.run(most + 1), need, self.share) if limit else _why_measured(most),
            memory=self.memory(each),
            network_mbit_s=None if self.mbit is None else self.mbit * each,
            costs=self.costs,
            measured=self.measured,
            measured_ages_ms=None if run is None or self.gated else (run.age_p50_ms, run.age_p95_ms, run.age_p99_ms),
        )
        if most == 0 and limit:
            return replace(answer, nearest=_nearest(self.run(1), need, self.costs, self.cores, self.batch, self.gated))
        if most == 0:
            return replace(answer, nearest="the benchmark's own run with one camera missed the target")
        return replace(answer, money=_money(answer, need, self.machine.name))


def _most(good: Callable[[int], bool], bound: int) -> int:
    """Return the largest good number up to a bound, by bisection."""
    low, high = 0, bound + 1
    middle = bound
    while high - low > 1:
        low, high = (middle, high) if good(middle) else (low, middle)
        middle = (low + high) // 2
    return low


def _points(most: int) -> list[int]:
    """Return the numbers of cameras for a curve, up to 1.5 times the maximum."""
    last = max(4, math.ceil(most * 1.5))
    step = max(1, last // 8)
    return sorted({1, *range(step, last + 1, step), max(1, most), most + 1})


def _busiest(found: SimulationOutcome, costs: StepCosts) -> str:
    """Return the step that takes most of the busiest resource."""
    if costs.decoders and found.decoders >= max(found.cpu, found.accelerator):
        return "decode"
    if costs.accelerator and found.accelerator >= found.cpu:
        return "compute"
    names = {"decode": "decode", "convert": "conversion", "compute": "compute", "rest": "compute"}
    return names[max(found.shares, key=lambda name: found.shares[name])]


def _why(binding: str, most: int, edge: SimulationOutcome, need: Need, wanted: float) -> str:
    more = f"With {most + 1} {'camera' if most == 0 else 'cameras'}"
    if binding in ("memory", "network"):
        return f"{more} more than {wanted:.0%} of the {binding} would be in use."
    parts = ", ".join(f"{name} {share:.0%}" for name, share in sorted(edge.shares.items(), key=lambda item: -item[1]))
    at = f"{more}, CPU utilization would be {edge.cpu:.0%} ({parts})"
    if edge.accelerator:
        at += f", the accelerator's {edge.accelerator:.0%}"
    if edge.decoders:
        at += f", the video decoder's {edge.decoders:.0%}"
    if edge.delivered < DELIVERED:
        return f"{at}; only {edge.delivered:.0%} of the results would be delivered."
    if edge.age_p99_ms > need.target.age_ms:
        return (
            f"{at}; 99% of the results would be delivered within {edge.age_p99_ms:.0f} ms, but the target is "
            f"{need.target.age_ms:g} ms."
        )
    return f"{at}, but the limit is {wanted:.0%}."


def _why_measured(most: int) -> str:
    supported = "not even one camera" if most == 0 else f"no more than {most} {'camera' if most == 1 else 'cameras'}"
    return f"The simulation supports more, but the benchmark's own runs supported {supported}."


def _nearest(single: SimulationOutcome, need: Need, costs: StepCosts, cores: float, batch: int, gated: float) -> str:
    """Return the nearest possible target if a single camera is too much."""
    if single.delivered >= DELIVERED and single.age_p99_ms > need.target.age_ms:
        return (
            f"99% of a single camera's results are delivered within {single.age_p99_ms:.0f} ms, which is the "
            f"lowest possible target"
        )
    for fps in sorted({need.fps * part for part in (0.75, 0.5, 0.33, 0.25, 0.1, 0.05)}, reverse=True):
        slower = need.model_copy(update={"target": need.target.model_copy(update={"fps": fps})})
        found = simulated(costs, slower, 1, batch, cores, gated)
        good = found.age_p99_ms <= need.target.age_ms and found.delivered >= DELIVERED
        if good and max(found.cpu, found.accelerator, found.decoders) <= 1 - need.margin:
            return f"one camera at {fps:.1f} results/s is possible, within {found.age_p99_ms:.0f} ms"
    return f"one camera delivers {single.results_per_s:.1f} results/s within {single.age_p99_ms:.0f} ms, without a margin"


def _money(answer: CapacityAnswer, need: Need, name: str) -> PlanCost | None:
    price = need.prices.get(name)
    if price is None or answer.devices is None:
        return None
    month = price * answer.devices * need.hours_a_month
    results_an_hour = need.cameras * need.fps * 3600
    frames = price * answer.devices / results_an_hour * 1000
    per_detection = None if need.detections_per_frame is None else frames / need.detections_per_frame
    full = price / (answer.most * need.fps * 3600) * 1000
    return PlanCost(price, month, month / need.cameras, frames, full, per_detection)


def curve_of(machine: MeasuredMachine, need: Need, answer: CapacityAnswer) -> tuple[tuple[int, SimulationOutcome], ...]:
    """Return the simulation by number of cameras, for a chart."""
    engine = next(engine for engine in engines_of(machine.report, need) if engine.name == answer.engine)
    search = _CapacitySearch(machine, need, engine, answer.costs, answer.batch, 0.0)
    return tuple((cameras, search.run(cameras)) for cameras in _points(search.most))
