"""How many cameras one engine carries on one machine, what is used up first, and what a result costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from vision_infer.capacity.costs import BenchEngine, Load, costs_of, engines_of, mbit_of
from vision_infer.capacity.memory import MemoryNeed, memory_of
from vision_infer.capacity.need import Need
from vision_infer.capacity.report import BenchReport
from vision_infer.capacity.simulate import SimulatedStreams, SimulationOutcome, StepCosts, simulate
from vision_infer.capacity.whole import DELIVERED

MAX_STREAMS = 4096
SIM_S, SIM_SEEDS = 3.0, 2
WORTH = 0.98
"""of what a picture costs at a smaller batch; else a larger one is not tried"""


@dataclass(frozen=True, slots=True)
class MeasuredMachine:
    """A machine with a bench."""

    name: str
    report: BenchReport
    others: tuple[BenchReport, ...] = ()
    """of the same machine with other networks, newest first"""


@dataclass(frozen=True, slots=True)
class PlanCost:
    """What it costs, in the user's currency."""

    per_hour: float
    """one device"""
    month: float
    """all devices"""
    stream_month: float
    per_1000_frames: float
    """results, at the load that is needed"""
    per_1000_frames_full: float
    """the same with devices that carry as many cameras as they can"""
    per_1000_detections: float | None


@dataclass(frozen=True, slots=True)
class CapacityAnswer:
    """What one engine on one machine makes of a need."""

    engine: str
    batch: int
    most: int
    """cameras that one device carries at the target, with the margin"""
    devices: int | None
    """that all cameras take; None: no number is enough"""
    each: int
    """cameras on the fullest of them"""
    outcome: SimulationOutcome
    """of that one; of a single camera where no number is enough"""
    edge: SimulationOutcome
    """with one camera more than it carries"""
    binding: str
    """what is used up first: decode, conversion, copy, compute, memory, network"""
    why: str
    """the same in a sentence"""
    memory: MemoryNeed
    network_mbit_s: float | None
    costs: StepCosts
    nearest: str = ""
    """the nearest that is possible, where no number of devices is enough"""
    money: PlanCost | None = None


def answer_of(machine: MeasuredMachine, need: Need, engine: BenchEngine, load: Load, gated: float = 0.0) -> CapacityAnswer | None:
    """What an engine makes of a need, at the batch size that carries most; None where the bench knows nothing of such video.

    Args:
        machine: with its bench.
        need: what is asked.
        engine: of that bench.
        load: what running streams adds.
        gated: share of the frames that a motion gate saves.
    """
    costs = costs_of(machine.report, need, engine, load)
    if costs is None:
        return None
    found = [_CapacitySearch(machine, need, engine, costs, batch, gated) for batch in _batches(costs)]
    # A larger batch has to carry more: each picture waits for the others of its batch.
    return max(found, key=lambda one: (one.most, -one.batch)).answer()


def _batches(costs: StepCosts) -> list[int]:
    """The batch sizes that are worth a try: those at which a picture costs less than at all smaller ones."""
    kept: list[int] = []
    least = math.inf
    for batch in sorted(costs.engine_ms):
        each = costs.engine_ms[batch] / batch
        if each < WORTH * least:
            kept.append(batch)
            least = each
    return kept


class _CapacitySearch:
    """How many cameras one engine carries at one batch size."""

    def __init__(
        self, machine: MeasuredMachine, need: Need, engine: BenchEngine, costs: StepCosts, batch: int, gated: float
    ) -> None:
        report = machine.report
        self.machine, self.need, self.engine, self.costs, self.batch, self.gated = machine, need, engine, costs, batch, gated
        self.cores = min(report.machine.cpu_limit or report.machine.cores, report.machine.cores)
        self.share = round(1 - need.margin, 4)
        self.mbit = mbit_of(report, need)
        self._runs: dict[int, SimulationOutcome] = {}
        self.most = _most(lambda cameras: not self.breaks(cameras), self._bound())

    def run(self, cameras: int) -> SimulationOutcome:
        """The simulation with so many cameras."""
        if cameras not in self._runs:
            streams = SimulatedStreams(cameras, self.need.video.fps, self.need.fps, self.batch, gated=self.gated)
            self._runs[cameras] = simulate(self.costs, streams, self.cores, SIM_S, SIM_SEEDS)
        return self._runs[cameras]

    def memory(self, cameras: int) -> MemoryNeed:
        """What they take."""
        return memory_of(self.machine.report, self.need, self.engine, self.batch, cameras)

    def breaks(self, cameras: int) -> str:
        """What breaks with so many, empty where nothing does; the cheap ones first."""
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
        """More than this would use more than may be used, by arithmetic."""
        need, costs = self.need, self.costs
        inferred = need.fps * (1 - self.gated)
        engine = costs.batch_ms(self.batch) / self.batch * inferred
        decode = costs.decode_ms * need.video.fps
        cpu = inferred * costs.convert_ms + need.fps * costs.rest_ms
        cpu += (0.0 if costs.accelerator else engine) + (0.0 if costs.decoders else decode)
        bounds = [cpu / costs.alone / self.cores]
        bounds += [engine] if costs.accelerator else []
        bounds += [decode / costs.decoders] if costs.decoders else []
        return min(MAX_STREAMS, int(self.share * 1000 / max(bounds)))

    def answer(self) -> CapacityAnswer:
        """What it makes of the need."""
        need, most = self.need, self.most
        each = 1 if most == 0 else math.ceil(need.cameras / math.ceil(need.cameras / most))
        binding = self.breaks(most + 1) or _busiest(self.run(most + 1), self.costs)
        answer = CapacityAnswer(
            engine=self.engine.name,
            batch=self.batch,
            most=most,
            devices=None if most == 0 else math.ceil(need.cameras / most),
            each=each,
            outcome=self.run(each),
            edge=self.run(most + 1),
            binding=binding,
            why=_why(binding, most, self.run(most + 1), need, self.share),
            memory=self.memory(each),
            network_mbit_s=None if self.mbit is None else self.mbit * each,
            costs=self.costs,
        )
        if most == 0:
            return replace(answer, nearest=_nearest(self.run(1), need, self.costs, self.cores, self.batch, self.gated))
        return replace(answer, money=_money(answer, need, self.machine.name))

    def curve(self) -> tuple[tuple[int, SimulationOutcome], ...]:
        """By number of cameras, to half as many again as it carries."""
        return tuple((cameras, self.run(cameras)) for cameras in _points(self.most))


def _most(good: Callable[[int], bool], bound: int) -> int:
    """The largest number up to a bound that is good: what is above a bad one is taken for bad too."""
    low, high = 0, bound + 1
    middle = bound
    while high - low > 1:
        low, high = (middle, high) if good(middle) else (low, middle)
        middle = (low + high) // 2
    return low


def _points(most: int) -> list[int]:
    """Numbers of cameras for a curve: to half as many again as fit."""
    last = max(4, math.ceil(most * 1.5))
    step = max(1, last // 8)
    return sorted({1, *range(step, last + 1, step), max(1, most), most + 1})


def _busiest(found: SimulationOutcome, costs: StepCosts) -> str:
    """What takes most of the resource that is nearest to its end."""
    if costs.decoders and found.decoders >= max(found.cpu, found.accelerator):
        return "decode"
    if costs.accelerator and found.accelerator >= found.cpu:
        return "compute"
    names = {"decode": "decode", "convert": "conversion", "compute": "compute", "rest": "compute"}
    return names[max(found.shares, key=lambda name: found.shares[name])]


def _why(binding: str, most: int, edge: SimulationOutcome, need: Need, wanted: float) -> str:
    more = f"With {most + 1} {'camera' if most == 0 else 'cameras'}"
    if binding in ("memory", "network"):
        return f"{more} more than {wanted:.0%} of the {binding} would be used."
    parts = ", ".join(f"{name} {share:.0%}" for name, share in sorted(edge.shares.items(), key=lambda one: -one[1]))
    at = f"{more} the processor would be {edge.cpu:.0%} busy ({parts})"
    if edge.accelerator:
        at += f", the engine's device {edge.accelerator:.0%}"
    if edge.decoders:
        at += f", the decoding hardware {edge.decoders:.0%}"
    if edge.delivered < DELIVERED:
        return f"{at}; {edge.delivered:.0%} of the results would come."
    if edge.age_p99_ms > need.target.age_ms:
        return f"{at}; 99% of the results would come within {edge.age_p99_ms:.0f} ms, and {need.target.age_ms:g} ms are wanted."
    return f"{at}, and {wanted:.0%} it may be."


def _nearest(one: SimulationOutcome, need: Need, costs: StepCosts, cores: float, batch: int, gated: float) -> str:
    """What is possible where a single camera is too much."""
    if one.delivered >= DELIVERED and one.age_p99_ms > need.target.age_ms:
        return f"a single camera's results come within {one.age_p99_ms:.0f} ms (99%); that is the least target that can be met"
    for fps in sorted({need.fps * part for part in (0.75, 0.5, 0.33, 0.25, 0.1, 0.05)}, reverse=True):
        found = simulate(costs, SimulatedStreams(1, need.video.fps, fps, batch, gated=gated), cores, SIM_S, SIM_SEEDS)
        good = found.age_p99_ms <= need.target.age_ms and found.delivered >= DELIVERED
        if good and max(found.cpu, found.accelerator, found.decoders) <= 1 - need.margin:
            return f"one camera at {fps:.1f} results/s is possible, within {found.age_p99_ms:.0f} ms"
    return f"one camera gives {one.results_per_s:.1f} results/s within {one.age_p99_ms:.0f} ms, with nothing to spare"


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
    """How an answer's ages rise with the number of cameras: for a picture."""
    engine = next(one for one in engines_of(machine.report, need) if one.name == answer.engine)
    return _CapacitySearch(machine, need, engine, answer.costs, answer.batch, 0.0).curve()
