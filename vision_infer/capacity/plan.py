"""How many devices a need takes, what binds them, and what a useful output costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vision_infer.capacity.answer import CapacityAnswer, MeasuredMachine, answer_of
from vision_infer.capacity.costs import BenchEngine, Load, engines_of, knows_size, load_of
from vision_infer.capacity.need import Need
from vision_infer.capacity.report import BenchReport
from vision_infer.core.errors import UsageError
from vision_infer.core.geometry import Size


@dataclass(frozen=True, slots=True)
class Variant:
    """What if."""

    what: str
    answer: CapacityAnswer | None
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class MachinePlan:
    """A measured machine's best answer, and others."""

    machine: MeasuredMachine
    best: CapacityAnswer | None
    engines: tuple[CapacityAnswer, ...] = ()
    """each engine at its best batch, the best first"""
    what_if: tuple[Variant, ...] = ()
    notes: tuple[str, ...] = ()
    load: Load | None = field(default=None)


def plan_machine(machine: MeasuredMachine, need: Need) -> MachinePlan:
    """What a machine makes of a need.

    Raises:
        UsageError: no engine of its bench may be taken, or the bench knows nothing of such video.
    """
    report = machine.report
    engines = engines_of(report, need)
    if not engines:
        raise UsageError(_no_engine(report, need), "ask for another --precision or --runtime, or bench again without --engine")
    load = load_of(report)
    answers = [one for one in (answer_of(machine, need, engine, load) for engine in engines) if one is not None]
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


def _notes(report: BenchReport, need: Need, load: Load) -> list[str]:
    notes = list(report.notes)
    if not knows_size(report, need):
        notes.append("This size of video was not measured: what decoding costs is reckoned from the nearest one by its pixels.")
    if not report.settings.fits(Size(need.video.width, need.video.height)):
        notes.append(
            "Pictures of this shape go into another input of the network than the bench measured: "
            f"vision-infer bench --size {need.video.width}x{need.video.height}"
        )
    if load.assumed:
        notes.append("The bench ran no streams: what a frame costs besides decoding, conversion and engine is a guess.")
    busy = [row for row in report.engines if row.utilisation < 0.7]
    if busy and all(row.engine.count("-cpu-") for row in busy):
        notes.append("Other programs took the processor while engines were measured: their CPU time is taken, not their speed.")
    return notes


def _variants(
    machine: MeasuredMachine, need: Need, best: CapacityAnswer, engines: Sequence[BenchEngine], load: Load
) -> list[Variant]:
    wanted = need.what_if
    by_name = {engine.name: engine for engine in engines}

    def with_need(other: Need, gated: float = 0.0) -> CapacityAnswer | None:
        return answer_of(machine, other, by_name[best.engine], load, gated)

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


def _other_precisions(machine: MeasuredMachine, need: Need, best: CapacityAnswer, load: Load) -> list[Variant]:
    """The fastest engine of each other precision that was measured, whatever it loses."""
    found = []
    mine = best.engine.rpartition("-")[2]
    for precision in dict.fromkeys(row.engine.rpartition("-")[2] for row in machine.report.engines):
        if precision == mine:
            continue
        free = need.model_copy(update={"precision": precision, "loss_points": 100.0, "runtime": "auto"})
        answers = [answer_of(machine, free, engine, load) for engine in engines_of(machine.report, free)]
        answer = max((one for one in answers if one is not None), key=lambda one: one.most, default=None)
        if answer is not None:
            loss = next(row.loss_points for row in machine.report.engines if row.engine == answer.engine)
            told = "loss not measured" if loss is None else f"up to {loss:g} points lost" if loss else "nothing lost"
            found.append(Variant(f"{precision} ({answer.engine}, {told})", answer))
    return found


def _other_model(machine: MeasuredMachine, need: Need, model: str) -> Variant:
    report = next((one for one in machine.others if one.settings.model == model and one.engines), None)
    if report is None:
        return Variant(f"the network {model}", None, f"no bench of it: vision-infer bench --model {model}")
    other = need.model_copy(update={"model": model})
    load = load_of(report)
    answers = [answer_of(MeasuredMachine(machine.name, report), other, engine, load) for engine in engines_of(report, other)]
    best = max((one for one in answers if one is not None), key=lambda one: one.most, default=None)
    return Variant(f"the network {model}", best, "" if best else "none of its engines may be taken")
