"""Estimate the number of devices, their bottleneck and the cost for the requirements.

Devices that were not measured get an upper bound from published figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vision_infer.capacity.answer import CapacityAnswer, MeasuredMachine, answer_of
from vision_infer.capacity.calibration import corrected_load
from vision_infer.capacity.costs import BenchEngine, Load, engines_of, knows_size
from vision_infer.capacity.devices import PublishedDevice, PublishedFigure
from vision_infer.capacity.need import Need
from vision_infer.capacity.report import BenchReport
from vision_infer.core.errors import UsageError
from vision_infer.core.geometry import Size


@dataclass(frozen=True, slots=True)
class Variant:
    """An alternative."""

    what: str
    answer: CapacityAnswer | None
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class MachinePlan:
    """The best estimate for a measured machine, and others."""

    machine: MeasuredMachine
    engines: tuple[CapacityAnswer, ...]
    """Each engine at its best batch size, the best first."""
    what_if: tuple[Variant, ...]
    notes: tuple[str, ...]

    @property
    def best(self) -> CapacityAnswer:
        """The estimate for the best engine."""
        return self.engines[0]


def plan_machine(machine: MeasuredMachine, need: Need) -> MachinePlan:
    """Return the plan for a machine.

    Raises:
        UsageError: No engine of its benchmark qualifies, or the benchmark has no such video.
    """
    report = machine.report
    engines = engines_of(report, need)
    if not engines:
        raise UsageError(
            _no_engine(report, need), "Use another --precision or --runtime, or run vision-infer bench without --engine."
        )
    load = corrected_load(report)
    found = (answer_of(machine, need, engine, load) for engine in engines)
    answers = [answer for answer in found if answer is not None]
    if not answers:
        raise UsageError(
            f"the benchmark of {machine.name} has no {need.video.codec} video",
            f"Run: vision-infer bench --codec {need.video.codec}",
        )
    ran = next((answer for answer in answers if answer.measured is not None), None)
    if ran is not None and ran.most < ran.forecast:  # the forecasts of the other engines are too high in the same proportion
        limits = {answer.engine: answer.most * ran.most // ran.forecast for answer in answers if answer is not ran}
        lowered = (answer_of(machine, need, one, load, limit=limits[one.name]) for one in engines if one.name in limits)
        answers = [ran, *(answer for answer in lowered if answer is not None)]
    # At equal capacity, prefer the engine that was measured with streams.
    answers.sort(key=lambda answer: (-answer.most, answer.measured is None, answer.outcome.age_p99_ms))
    variants = _variants(machine, need, answers[0], engines, load)
    return MachinePlan(machine, tuple(answers), tuple(variants), tuple(_notes(report, need, load)))


def _no_engine(report: BenchReport, need: Need) -> str:
    measured = ", ".join(dict.fromkeys(row.engine for row in report.engines)) or "none"
    return (
        f"no engine of {need.model} qualifies (precision {need.precision}, runtime {need.runtime}, at most "
        f"{need.loss_points:g} points lost; measured: {measured})"
    )


def _notes(report: BenchReport, need: Need, load: Load) -> list[str]:
    notes = list(report.notes)
    if not knows_size(report, need):
        notes.append(
            "This size of video was not measured. The cost of decoding is scaled from the nearest size by the number of pixels."
        )
    if not report.settings.fits(Size(need.video.width, need.video.height)):
        notes.append(
            "Images of this shape use another input of the model than the one measured. Run: "
            f"vision-infer bench --size {need.video.width}x{need.video.height}"
        )
    if load.assumed:
        notes.append("The benchmark ran no streams. The cost per frame besides decoding, conversion and engine is an assumption.")
    if load.correction != 1:
        notes.append(
            f"The costs are multiplied by {load.correction:.2f}, with which the simulation supports as many streams as the "
            "benchmark's own runs."
        )
    busy = [row for row in report.engines if row.utilization < 0.7]
    if busy and all(row.engine.count("-cpu-") for row in busy):
        notes.append("Other programs used the CPU while engines were measured. The estimate uses CPU time instead of speed.")
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
    # Tiles are for objects that are too small in the substream.
    other = wanted.substream is not None and wanted.substream != (need.video.width, need.video.height)
    if wanted.substream is not None and other and need.tiles is None:
        width, height = wanted.substream
        video = need.video.model_copy(update={"width": width, "height": height, "mbit_s": None})
        found.append(Variant(f"the substream, {width}×{height}", with_need(need.model_copy(update={"video": video}))))
    found += _other_precisions(machine, need, best, load)
    found += [_other_model(machine, need, model) for model in wanted.models]
    if wanted.gate_saves is not None:
        gate = f"a motion gate that skips {wanted.gate_saves:.0%} of the frames"
        found.append(Variant(gate, with_need(need, wanted.gate_saves)))
    return found


def _other_precisions(machine: MeasuredMachine, need: Need, best: CapacityAnswer, load: Load) -> list[Variant]:
    """Return the fastest engine of each other measured precision, regardless of its loss."""
    found = []
    own = best.engine.rpartition("-")[2]
    for precision in dict.fromkeys(row.engine.rpartition("-")[2] for row in machine.report.engines):
        if precision == own:
            continue
        free = need.model_copy(update={"precision": precision, "loss_points": 100.0, "runtime": "auto"})
        answers = [answer_of(machine, free, engine, load) for engine in engines_of(machine.report, free)]
        answer = max(filter(None, answers), key=lambda found: found.most, default=None)
        if answer is not None:
            loss = next(row.loss_points for row in machine.report.engines if row.engine == answer.engine)
            lost = "loss not measured" if loss is None else f"loss of up to {loss:g} points" if loss else "no loss"
            found.append(Variant(f"{precision} ({answer.engine}, {lost})", answer))
    return found


def _other_model(machine: MeasuredMachine, need: Need, model: str) -> Variant:
    report = next((other for other in machine.others if other.settings.model == model and other.engines), None)
    if report is None:
        return Variant(f"the model {model}", None, f"not measured; run: vision-infer bench --model {model}")
    other = need.model_copy(update={"model": model})
    load = corrected_load(report)
    answers = [answer_of(MeasuredMachine(machine.name, report), other, engine, load) for engine in engines_of(report, other)]
    best = max(filter(None, answers), key=lambda found: found.most, default=None)
    return Variant(f"the model {model}", best, "" if best else "none of its engines qualifies")


@dataclass(frozen=True, slots=True)
class PublishedBound:
    """An upper bound for a device from published figures."""

    device: PublishedDevice
    cameras: int | None
    """The maximum number of cameras by published decoding rates; None if unknown."""
    explanation: str


def bound_of(device: PublishedDevice, need: Need) -> PublishedBound:
    """Return an upper bound from published figures. It is not an estimate, because the cost of the model is unknown."""
    if device.codecs and need.video.codec not in device.codecs:
        return PublishedBound(device, 0, f"it does not decode {need.video.codec}")
    usable = [(bound, figure) for figure in device.published if (bound := _cameras(figure, need)) is not None]
    if not usable:
        return PublishedBound(device, None, "no published figure limits the number of cameras")
    bound, figure = min(usable, key=lambda entry: entry[0])
    note = f" ({figure.note})" if figure.note else ""
    return PublishedBound(device, bound, f"published{note}, {figure.source}, read {figure.read:%Y-%m-%d}")


def _cameras(figure: PublishedFigure, need: Need) -> int | None:
    video = need.video
    if figure.what == "infer":
        same = figure.model == need.model and figure.fps is not None
        return int((figure.fps or 0) / need.fps / len(need.tiles_of_frame())) if same else None
    if figure.codec not in (None, video.codec) or figure.width is None or figure.height is None:
        return None
    larger = video.width * video.height / (figure.width * figure.height)
    if figure.fps is not None:
        return int(figure.fps / video.fps / larger)
    return None if figure.streams is None else int(figure.streams / larger)
