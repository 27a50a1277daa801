"""How many devices a need takes, what binds them, and what a useful output costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from vision_infer.capacity.costs import Engine, Load, costs_of, engines_of, knows_size, load_of, mbit_of
from vision_infer.capacity.memory import Memory, memory_of
from vision_infer.capacity.need import Need
from vision_infer.capacity.report import BenchReport
from vision_infer.capacity.simulate import Costs, Outcome, Streams, simulate
from vision_infer.capacity.whole import DELIVERED
from vision_infer.core.errors import UsageError

MOST_STREAMS = 4096
SIM_S, SIM_SEEDS = 6.0, 2


@dataclass(frozen=True, slots=True)
class Measured:
    """A machine with a bench."""

    name: str
    report: BenchReport
    others: tuple[BenchReport, ...] = ()
    """of the same machine with other networks, newest first"""


@dataclass(frozen=True, slots=True)
class Money:
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
class Answer:
    """What one engine on one machine makes of a need."""

    engine: str
    batch: int
    most: int
    """cameras that one device carries at the target, with the margin"""
    devices: int | None
    """that all cameras take; None: no number is enough"""
    each: int
    """cameras on the fullest of them"""
    outcome: Outcome
    """of that one; of a single camera where no number is enough"""
    edge: Outcome
    """with one camera more than it carries"""
    binding: str
    """what is used up first: decode, conversion, copy, compute, memory, network"""
    why: str
    """the same in a sentence"""
    memory: Memory
    network_mbit_s: float | None
    curve: tuple[tuple[int, Outcome], ...]
    """by number of cameras, for the picture"""
    costs: Costs
    nearest: str = ""
    """the nearest that is possible, where no number of devices is enough"""
    money: Money | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """What if."""

    what: str
    answer: Answer | None
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class MachinePlan:
    """A measured machine's best answer, and others."""

    machine: Measured
    best: Answer | None
    engines: tuple[Answer, ...] = ()
    """each engine at its best batch, the best first"""
    what_if: tuple[Variant, ...] = ()
    notes: tuple[str, ...] = ()
    load: Load | None = field(default=None)


def plan_machine(machine: Measured, need: Need) -> MachinePlan:
    """What a machine makes of a need.

    Raises:
        UsageError: no engine of its bench may be taken, or the bench knows nothing of such video.
    """
    report = machine.report
    engines = engines_of(report, need)
    if not engines:
        raise UsageError(_no_engine(report, need), "ask for another --precision or --runtime, or bench again without --engine")
    load = load_of(report)
    answers = [one for one in (_answer(machine, need, engine, load) for engine in engines) if one is not None]
    if not answers:
        raise UsageError(
            f"the bench of {machine.name} has no {need.video.codec} video", f"vision-infer bench --codec {need.video.codec}"
        )
    answers.sort(key=lambda one: (-one.most, one.outcome.age_p99_ms))
    best = answers[0]
    return MachinePlan(
        machine,
        best,
        tuple(answers),
        tuple(_variants(machine, need, best, engines, load)),
        tuple(_notes(report, need, load)),
        load,
    )


def _no_engine(report: BenchReport, need: Need) -> str:
    measured = ", ".join(dict.fromkeys(row.engine for row in report.engines)) or "none"
    return (
        f"no engine of {need.model} may be taken (precision {need.precision}, runtime {need.runtime}, at most "
        f"{need.loss_points:g} points lost; measured: {measured})"
    )


def _answer(machine: Measured, need: Need, engine: Engine, load: Load, gated: float = 0.0) -> Answer | None:
    costs = costs_of(machine.report, need, engine, load)
    if costs is None:
        return None
    tried = [_at_batch(machine, need, engine, costs, row.batch, gated) for row in engine.rows]
    # A larger batch has to carry more: each picture waits for the others of its batch.
    return max(tried, key=lambda one: (one.most, -one.batch))


def _at_batch(machine: Measured, need: Need, engine: Engine, costs: Costs, batch: int, gated: float) -> Answer:
    report = machine.report
    cores = report.machine.cpu_limit or report.machine.cores
    cores = min(cores, report.machine.cores)

    @lru_cache(maxsize=256)
    def run(cameras: int) -> Outcome:
        streams = Streams(cameras, need.video.fps, need.fps, batch, gated=gated)
        return simulate(costs, streams, cores, SIM_S, SIM_SEEDS)

    def memory(cameras: int) -> Memory:
        return memory_of(report, need, engine, batch, cameras)

    mbit = mbit_of(report, need)
    wanted = round(1 - need.margin, 4)

    def breaks(cameras: int) -> str:
        """What breaks with so many, empty where nothing does; the cheap ones first."""
        if need.network_mbit_s is not None and mbit is not None and cameras * mbit > need.network_mbit_s * wanted:
            return "network"
        if memory(cameras).over(wanted):
            return "memory"
        found = run(cameras)
        if max(found.cpu, found.accelerator, found.decoders) > wanted:
            return _busiest(found, costs)
        if found.age_p99_ms > need.target.age_ms or found.delivered < DELIVERED:
            return _busiest(found, costs)
        return ""

    most = _most(lambda cameras: not breaks(cameras), _guess(costs, need, cores, batch))
    edge = run(most + 1)
    each = 1 if most == 0 else math.ceil(need.cameras / math.ceil(need.cameras / most))
    devices = None if most == 0 else math.ceil(need.cameras / most)
    binding = breaks(most + 1)
    answer = Answer(
        engine=engine.name,
        batch=batch,
        most=most,
        devices=devices,
        each=each,
        outcome=run(each),
        edge=edge,
        binding=binding,
        why=_why(binding, most, edge, need, wanted),
        memory=memory(each),
        network_mbit_s=None if mbit is None else mbit * each,
        curve=tuple((cameras, run(cameras)) for cameras in _points(most)),
        costs=costs,
    )
    if most == 0:
        return replace(answer, nearest=_nearest(run(1), need, costs, cores, batch, gated))
    return replace(answer, money=_money(answer, need, machine.name))


def _most(good: Callable[[int], bool], guess: int) -> int:
    """The largest number that is good: what is above a bad one is taken for bad too."""
    low, high = 0, max(1, guess)
    while high <= MOST_STREAMS and good(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low


def _guess(costs: Costs, need: Need, cores: float, batch: int) -> int:
    each = (costs.decode_ms * need.video.fps * (costs.decoders == 0)) + need.fps * (
        costs.convert_ms + costs.rest_ms + (0.0 if costs.accelerator else costs.batch_ms(batch) / batch)
    )
    return max(1, int((1 - need.margin) * cores * 1000 / each))


def _points(most: int) -> list[int]:
    """Numbers of cameras for a curve: to half as many again as fit."""
    last = max(4, math.ceil(most * 1.5))
    step = max(1, last // 12)
    return sorted({1, *range(step, last + 1, step), max(1, most), most + 1})


def _busiest(found: Outcome, costs: Costs) -> str:
    """What takes most of the resource that is nearest to its end."""
    if costs.decoders and found.decoders >= max(found.cpu, found.accelerator):
        return "decode"
    if costs.accelerator and found.accelerator >= found.cpu:
        return "compute"
    names = {"decode": "decode", "convert": "conversion", "compute": "compute", "rest": "compute"}
    return names[max(found.shares, key=lambda name: found.shares[name])]


def _why(binding: str, most: int, edge: Outcome, need: Need, wanted: float) -> str:
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
        return f"{at}; 99 % of the results would come within {edge.age_p99_ms:.0f} ms, and {need.target.age_ms:g} ms are wanted."
    return f"{at}, and {wanted:.0%} it may be."


def _nearest(one: Outcome, need: Need, costs: Costs, cores: float, batch: int, gated: float) -> str:
    """What is possible where a single camera is too much."""
    if one.delivered >= DELIVERED and one.age_p99_ms > need.target.age_ms:
        return f"a single camera's results come within {one.age_p99_ms:.0f} ms (99 %); that is the least target that can be met"
    for fps in sorted({need.fps * part for part in (0.75, 0.5, 0.33, 0.25, 0.1, 0.05)}, reverse=True):
        found = simulate(costs, Streams(1, need.video.fps, fps, batch, gated=gated), cores, SIM_S, SIM_SEEDS)
        good = found.age_p99_ms <= need.target.age_ms and found.delivered >= DELIVERED
        if good and max(found.cpu, found.accelerator, found.decoders) <= 1 - need.margin:
            return f"one camera at {fps:.1f} results/s is possible, within {found.age_p99_ms:.0f} ms"
    return f"one camera gives {one.results_per_s:.1f} results/s within {one.age_p99_ms:.0f} ms, with nothing to spare"


def _money(answer: Answer, need: Need, name: str) -> Money | None:
    price = need.prices.get(name)
    if price is None or answer.devices is None:
        return None
    month = price * answer.devices * need.hours_a_month
    results_an_hour = need.cameras * need.fps * 3600
    frames = price * answer.devices / results_an_hour * 1000
    per_detection = None if need.detections_per_frame is None else frames / need.detections_per_frame
    full = price / (answer.most * need.fps * 3600) * 1000
    return Money(price, month, month / need.cameras, frames, full, per_detection)


def _notes(report: BenchReport, need: Need, load: Load) -> list[str]:
    notes = list(report.notes)
    if not knows_size(report, need):
        notes.append("This size of video was not measured: what decoding costs is reckoned from the nearest one by its pixels.")
    if load.assumed:
        notes.append("The bench ran no streams: what a frame costs besides decoding, conversion and engine is a guess.")
    busy = [row for row in report.engines if row.utilisation < 0.7]
    if busy and all(row.engine.count("-cpu-") for row in busy):
        notes.append("Other programs took the processor while engines were measured: their CPU time is taken, not their speed.")
    return notes


def _variants(machine: Measured, need: Need, best: Answer, engines: Sequence[Engine], load: Load) -> list[Variant]:
    wanted = need.what_if
    by_name = {engine.name: engine for engine in engines}

    def with_need(other: Need, gated: float = 0.0) -> Answer | None:
        return _answer(machine, other, by_name[best.engine], load, gated)

    target = need.target
    found = [
        Variant(f"{fps:g} results/s", with_need(need.model_copy(update={"target": target.model_copy(update={"fps": fps})})))
        for fps in (target.fps / 2, target.fps * 2)
        if fps <= need.video.fps
    ]
    if wanted.substream is not None and wanted.substream != (need.video.width, need.video.height):
        width, height = wanted.substream
        video = need.video.model_copy(update={"width": width, "height": height, "mbit_s": None})
        found.append(Variant(f"the substream, {width}×{height}", with_need(need.model_copy(update={"video": video}))))
    found += _other_precisions(machine, need, best, load)
    found += [_other_model(machine, need, model) for model in wanted.models]
    if wanted.gate_saves is not None:
        gate = f"a motion gate that saves {wanted.gate_saves:.0%} of the frames"
        found.append(Variant(gate, with_need(need, wanted.gate_saves)))
    return found


def _other_precisions(machine: Measured, need: Need, best: Answer, load: Load) -> list[Variant]:
    """The fastest engine of each other precision that was measured, whatever it loses."""
    found = []
    mine = best.engine.rpartition("-")[2]
    for precision in dict.fromkeys(row.engine.rpartition("-")[2] for row in machine.report.engines):
        if precision == mine:
            continue
        free = need.model_copy(update={"precision": precision, "loss_points": 100.0, "runtime": "auto"})
        answers = [_answer(machine, free, engine, load) for engine in engines_of(machine.report, free)]
        answer = max((one for one in answers if one is not None), key=lambda one: one.most, default=None)
        if answer is not None:
            loss = next(row.loss_points for row in machine.report.engines if row.engine == answer.engine)
            told = "loss not measured" if loss is None else f"up to {loss:g} points lost" if loss else "nothing lost"
            found.append(Variant(f"{precision} ({answer.engine}, {told})", answer))
    return found


def _other_model(machine: Measured, need: Need, model: str) -> Variant:
    report = next((one for one in machine.others if one.settings.model == model and one.engines), None)
    if report is None:
        return Variant(f"the network {model}", None, f"no bench of it: vision-infer bench --model {model}")
    other = need.model_copy(update={"model": model})
    load = load_of(report)
    answers = [_answer(Measured(machine.name, report), other, engine, load) for engine in engines_of(report, other)]
    best = max((one for one in answers if one is not None), key=lambda one: one.most, default=None)
    return Variant(f"the network {model}", best, "" if best else "none of its engines may be taken")
