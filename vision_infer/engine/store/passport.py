"""The passport of an engine: what it is, what it was made of, how good and how fast it was measured to be, and where.

A passport is a JSON file beside the engine. Its word counts for the very graph, runtime, type of arithmetic and instruction set
that it names: the same file may be right in one runtime and garbage in another.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from vision_infer.core.card import ModelCard
from vision_infer.core.errors import EngineError

SUFFIX = ".passport.json"
"""how the file of a passport that travels with a graph ends"""

MIN_FOUND = 98.0
"""per cent of FP32's detections at the model's own score threshold that have to be found again"""
MIN_IOU = 0.93
"""mean, of what is found again"""
MAX_COUNT = 2.0
"""per cent by which the number of detections at that threshold may differ from FP32's, either way"""
MAX_SCORE = 0.03
"""by which the mean score of what is found again may differ from FP32's, either way"""

ARITHMETIC = {
    "int8": frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}),
    "bf16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
    "fp16": frozenset({"avx512_fp16"}),
}
"""instructions by the precision whose results depend on whether there is one of them"""

Sha256 = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
Share = Annotated[float, Field(ge=0)]


class _PassportPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CardSummary(_PassportPart):
    """What the network is, of its card."""

    name: str
    task: Literal["detect", "classify", "embed"]
    head: str = ""
    width: int = Field(ge=1, description="input, pixels")
    height: int = Field(ge=1, description="input, pixels")
    labels: int = Field(default=0, ge=0, description="number of labels; 0: none")
    license: str = ""


class Sources(_PassportPart):
    """Checksums of what it was made of; empty where there is no such thing."""

    graph: Sha256 = Field(description="the deployment graph that runs")
    source: Sha256 = Field(default="", description="the raw network, as on the card")
    calibration: Sha256 = Field(default="", description="the frames that it was calibrated with")


class DeviceFacts(_PassportPart):
    """What it runs on."""

    kind: Literal["cpu", "cuda"] = "cpu"
    name: str
    instructions: tuple[str, ...] = Field(default=(), description="of those that decide about speed and results")
    cores: int = Field(default=1, ge=1, description="processors that may be used")
    compute_capabilities: tuple[str, ...] = Field(default=(), description="of the GPUs that a plan is for, such as sm_89")
    mig: str = Field(default="", description="which part (MIG instance) of that GPU, such as 1g.10gb; empty: the whole, or any")

    def arithmetic(self, precision: str) -> tuple[str, bool]:
        """What of the instructions decides about results: the family, and whether there are some for a precision.

        Without those for INT8 sums of products saturate; without those for bfloat16 and float16 the runtime computes in float32
        instead. Those for other precisions do not matter.

        Args:
            precision: ``fp32``, ``bf16``, ``fp16`` or ``int8``, in which the engine computes.
        """
        has = set(self.instructions)
        return "arm" if "asimd" in has else self.kind, bool(has & ARITHMETIC.get(precision, frozenset()))


class MeasuredDrift(_PassportPart):
    """What a user sees of it: detections at the model's own score threshold, against FP32's on the same frames."""

    threshold: float = Field(description="the model's own score threshold, 0–1")
    objects: int = Field(ge=0, description="FP32's detections")
    count: float = Field(description="change of the number of detections, per cent")
    count_low: float = Field(description="lower end of its 95 % interval")
    count_high: float = Field(description="upper end")
    score: float = Field(description="mean change of the scores of what is found again")
    score_difference: Share = Field(description="mean of the changes' absolute values")
    found: Share = Field(description="FP32's detections that are found again, per cent: IoU of 0.5, half the threshold")
    iou: Share = Field(description="mean overlap of what is found again")

    def shortfall(self) -> str:
        """Why it is not good enough; empty if it is."""
        if self.found < MIN_FOUND:
            return f"only {self.found:.1f} % of FP32's detections found again, and {MIN_FOUND:g} % have to be"
        if self.iou < MIN_IOU:
            return f"the boxes that are found again overlap by {self.iou:.3f} only, and {MIN_IOU:g} it has to be"
        if abs(self.count) > MAX_COUNT:
            interval = f"{self.count_low:+.1f} to {self.count_high:+.1f}"
            told = f"its detections at {self.threshold:g} change in number by {self.count:+.1f} % ({interval})"
            return f"{told}, and {MAX_COUNT:g} % they may"
        if abs(self.score) > MAX_SCORE:
            return f"its scores change by {self.score:+.3f} in the mean, and {MAX_SCORE:g} they may"
        return ""


class MeasuredAccuracy(_PassportPart):
    """How far the results are from those of FP32, or from the truth."""

    metric: str = Field(description="for instance: agreement with FP32, mAP 0.50:0.95")
    value: float = Field(description="loss against FP32 in points (per cent); negative: better than FP32")
    low: float = Field(description="lower end of the 95 % interval of the loss")
    high: float = Field(description="upper end")
    data: str = Field(description="what it was measured on, in words")
    data_sha256: Sha256 = ""
    frames: int = Field(ge=0)
    judged: Literal["proven", "not proven"] = Field(description="whether the frames were enough to tell")
    drift: MeasuredDrift | None = Field(default=None, description="of a detector")

    def shortfall(self, budget: float) -> str:
        """Why it is not good enough, whether it is proven or not; empty if it is.

        Args:
            budget: points that may be lost, at the upper end of the interval.
        """
        return why_short(self.value, self.low, self.high, self.frames, self.drift, budget)


class MeasuredSpeed(_PassportPart):
    """How fast it was, for one batch size."""

    batch: int = Field(ge=1)
    workers: int = Field(ge=1, description="batches in flight")
    threads: int = Field(ge=1, description="threads of each")
    p50_ms: Share = Field(description="time of a batch while the others run too")
    p95_ms: Share
    fps: Share = Field(description="pictures a second, all workers together")
    fps_low: Share = Field(description="lower end of the 95 % interval of the median")
    fps_high: Share
    cpu_ms: Share = Field(default=0, description="time of the processors for each picture; 0: not measured")
    fp32_ratio: float | None = Field(
        default=None,
        ge=0,
        description="times faster than FP32 on ONNX Runtime, in turns; by processor time where the machine was busy",
    )


class Passport(_PassportPart):
    """The record that travels with an engine."""

    format: Literal[1] = 1
    engine: str = Field(pattern=r"^[a-z0-9]+(-rtx)?-[a-z]+-[a-z0-9]+$", description="runtime-device-precision")
    card: CardSummary
    sources: Sources
    runtime: str
    runtime_version: str
    compute: Literal["f32", "bf16", "f16"] = "f32"
    tools: Mapping[str, str] = Field(default_factory=dict, description="versions of what else took part")
    device: DeviceFacts
    precision: Mapping[str, str] = Field(
        default_factory=dict, description="by group of layers, such as {'convolutions': 'int8', 'box decoding': 'fp32'}"
    )
    accuracy: tuple[MeasuredAccuracy, ...] = ()
    speed: tuple[MeasuredSpeed, ...] = ()
    memory_bytes: int | None = Field(default=None, ge=0, description="by which loading and warming it up made the process grow")
    build_seconds: float | None = Field(default=None, ge=0)
    date: AwareDatetime

    def loss(self) -> MeasuredAccuracy | None:
        """The accuracy that decides: of what is proven, the greatest loss at the interval's upper end; None where nothing is."""
        return max((one for one in self.accuracy if one.judged == "proven"), key=lambda one: one.high, default=None)

    def shortfall(self, budget: float) -> str:
        """Why what is proven of its accuracy is not good enough; empty if it is, or if nothing is proven."""
        return next((why for one in self.accuracy if one.judged == "proven" and (why := one.shortfall(budget))), "")

    def fastest(self) -> MeasuredSpeed | None:
        """The speed in the configuration that gave the most pictures a second; None where none was measured."""
        return max(self.speed, key=lambda one: one.fps, default=None)

    def holds_for(self, graph_sha256: str, device: DeviceFacts) -> bool:
        """Whether its accuracy counts here: the same graph, computed with the same kind of instructions for its precision."""
        precision = self.engine.rpartition("-")[2]
        return self.sources.graph == graph_sha256 and self.device.arithmetic(precision) == device.arithmetic(precision)

    def measured_here(self, device: DeviceFacts, runtime_version: str) -> bool:
        """Whether its speed counts here too: the same device, and the same version of the runtime."""
        mine = (self.device.kind, self.device.name, self.device.instructions, self.runtime_version)
        return mine == (device.kind, device.name, device.instructions, runtime_version)

    def to_json(self) -> str:
        """The passport as its file holds it."""
        return self.model_dump_json(indent=1) + "\n"


def why_short(value: float, low: float, high: float, frames: int, drift: MeasuredDrift | None, budget: float) -> str:
    """Why an engine's accuracy is not good enough; empty if it is.

    Args:
        value: points lost.
        low: lower end of its interval.
        high: upper end, which has to be within the budget.
        frames: on which it was measured.
        drift: of a detector, where it was measured.
        budget: points.
    """
    told = f"{value:.1f} points lost ({low:.1f} to {high:.1f}) on {frames} frames"
    if not high <= budget:  # also for NaN
        return f"{told}, the budget is {budget:g}"
    why = "" if drift is None else drift.shortfall()
    return f"{told}, but {why}" if why else ""


def summarise(card: ModelCard) -> CardSummary:
    """What a passport keeps of a card."""
    return CardSummary(
        name=card.name,
        task=card.task,
        head=card.head,
        width=card.input.width,
        height=card.input.height,
        labels=len(card.labels or ()),
        license=card.license,
    )


def parse_passport(text: str, where: str) -> Passport:
    """Check a passport.

    Args:
        text: JSON.
        where: names the file in an error.

    Raises:
        EngineError: it is no passport, or one of a format that we do not know; names the first wrong field.
    """
    try:
        return Passport.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "passport"
        raise EngineError(f"{where}: field '{field}': {first['msg']}", "build the engine again") from error


def read_passport(path: Path) -> Passport:
    """Read a passport.

    Raises:
        EngineError: the file cannot be read or is no passport.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise EngineError(f"{path}: cannot be read: {error.strerror}", "build the engine again") from error
    except UnicodeDecodeError as error:
        raise EngineError(f"{path}: is no passport", "build the engine again") from error
    return parse_passport(text, str(path))


def write_passport(passport: Passport, path: Path) -> None:
    """Write a passport, as a whole or not at all.

    Raises:
        EngineError: it cannot be written; what was there before is still there.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        temporary.write_text(passport.to_json(), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EngineError(f"{path}: cannot be written: {error.strerror}", "make room, or write elsewhere") from error


def passport_file(graph: Path, engine: str) -> Path:
    """Where a passport travels with its graph: ``model.onnx`` has ``model.ENGINE.passport.json`` beside it."""
    return graph.with_name(f"{graph.stem}.{engine}{SUFFIX}")


def passports_beside(graph: Path) -> list[Passport]:
    """The passports that travel with a graph; those that cannot be read are left out."""
    found = []
    for path in sorted(graph.parent.glob(f"{graph.stem}.*{SUFFIX}")):
        if "." in path.name[len(graph.stem) + 1 : -len(SUFFIX)]:  # of another graph: model.int8.ENGINE beside model.onnx
            continue
        try:
            found.append(read_passport(path))
        except EngineError:
            continue
    return found
