"""The passport of an engine: its sources, its measured accuracy and speed, and the device of the measurements.

A passport is a JSON file next to the engine. It is valid for exactly the graph, runtime, type of arithmetic and instruction set
that it names: the same file may give right results in one runtime and wrong ones in another.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from vision_infer.core.card import ModelCard, Task
from vision_infer.core.errors import EngineError
from vision_infer.core.field_problem import field_problem

SUFFIX = ".passport.json"
"""The end of the name of a passport's file next to a graph."""

MIN_FOUND = 98.0
"""The minimum share of FP32's detections, at the model's own confidence threshold, that are found again, per cent."""
MIN_IOU = 0.93
"""The minimum mean IoU of the detections that are found again."""
MIN_DETAILS = 0.9
"""The minimum mean similarity of the masks, keypoints or rotated boxes of these detections."""
MAX_COUNT = 2.0
"""The maximum change of the number of detections at that threshold, in either direction, per cent."""
MAX_SCORE = 0.03
"""The maximum change of the mean score of the detections that are found again, in either direction."""

ARITHMETIC = {
    "int8": frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}),
    "bf16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
    "fp16": frozenset({"avx512_fp16"}),
}
"""The instructions that change the results of a precision, by precision; one of them is enough."""

Sha256 = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
Share = Annotated[float, Field(ge=0)]


class _PassportPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CardSummary(_PassportPart):
    """The part of the model's card that the passport contains."""

    name: str
    task: Task
    head: str = ""
    width: int = Field(ge=1, description="The input, pixels.")
    height: int = Field(ge=1, description="The input, pixels.")
    labels: int = Field(default=0, ge=0, description="The number of labels; 0: none.")
    license: str = ""


class Sources(_PassportPart):
    """The checksums of its sources; empty for sources that it does not have."""

    graph: Sha256 = Field(description="The deployment graph that runs.")
    source: Sha256 = Field(default="", description="The original model, as on the card.")
    calibration: Sha256 = Field(default="", description="The frames of the calibration.")


class DeviceFacts(_PassportPart):
    """The device that it runs on."""

    kind: Literal["cpu", "cuda"] = "cpu"
    name: str
    instructions: tuple[str, ...] = Field(default=(), description="The instructions that affect speed and results.")
    cores: int = Field(default=1, ge=1, description="The number of usable CPUs.")
    compute_capabilities: tuple[str, ...] = Field(default=(), description="Those of the GPUs that a plan is for, such as sm_89.")
    mig: str = Field(default="", description="The MIG instance of that GPU, such as 1g.10gb; empty: a whole GPU, or any.")

    def arithmetic(self, precision: str) -> tuple[str, bool]:
        """Return what affects the results: the family of CPUs, and whether there are instructions for a precision.

        Without instructions for INT8, sums of products saturate; without those for bfloat16 and float16 the runtime computes in
        float32 instead. Instructions for other precisions do not matter.
        """
        has = set(self.instructions)
        return "arm" if "asimd" in has else self.kind, bool(has & ARITHMETIC.get(precision, frozenset()))


class MeasuredDrift(_PassportPart):
    """The visible differences: detections at the model's own confidence threshold, compared with FP32's on the same frames."""

    threshold: float = Field(description="The model's own confidence threshold, 0–1.")
    objects: int = Field(ge=0, description="The number of FP32's detections.")
    count: float = Field(description="The change of the number of detections, per cent.")
    count_low: float = Field(description="The lower end of its 95 % interval.")
    count_high: float = Field(description="The upper end of the interval.")
    score: float = Field(description="The mean change of the scores of the detections that are found again.")
    score_difference: Share = Field(description="The mean absolute change of these scores.")
    found: Share = Field(
        description="The share of FP32's detections that are found again (IoU 0.5, half the threshold), per cent."
    )
    iou: Share = Field(description="The mean IoU of the detections that are found again.")
    details: Share | None = Field(
        default=None,
        description="The mean similarity of their details, 0–1: the IoU of masks or rotated boxes, or OKS of keypoints; null "
        "for a model without details.",
    )

    def shortfall(self) -> str:
        """Return why the differences are too large; empty if they are not. Figures are compared as they are printed, rounded."""
        if round(self.found, 1) < MIN_FOUND:
            return f"only {self.found:.1f} % of FP32's detections are found again, at least {MIN_FOUND:g} % are required"
        if round(self.iou, 3) < MIN_IOU:
            return f"the mean IoU of the boxes that are found again is {self.iou:.3f}, at least {MIN_IOU:g} is required"
        if self.details is not None and round(self.details, 3) < MIN_DETAILS:
            what = "the mean similarity of the masks, keypoints or rotated boxes that are found again"
            return f"{what} is {self.details:.3f}, at least {MIN_DETAILS:g} is required"
        if round(abs(self.count), 1) > MAX_COUNT:
            interval = f"{self.count_low:+.1f} to {self.count_high:+.1f}"
            change = f"the number of its detections at {self.threshold:g} changes by {self.count:+.1f} % ({interval})"
            return f"{change}, at most {MAX_COUNT:g} % are accepted"
        if round(abs(self.score), 3) > MAX_SCORE:
            return f"its scores change by {self.score:+.3f} on average, at most {MAX_SCORE:g} is accepted"
        return ""


class MeasuredAccuracy(_PassportPart):
    """The difference of the results from those of FP32, or from labels."""

    metric: str = Field(description="The metric, such as agreement with FP32, or mAP 0.50:0.95.")
    value: float = Field(description="The loss against FP32, points (per cent); negative: better than FP32.")
    low: float = Field(description="The lower end of the 95 % interval of the loss.")
    high: float = Field(description="The upper end of the interval.")
    data: str = Field(description="The data of the measurement, in words.")
    data_sha256: Sha256 = ""
    frames: int = Field(ge=0)
    judged: Literal["proven", "not proven"] = Field(description="Whether there were enough frames to verify it.")
    drift: MeasuredDrift | None = Field(default=None, description="The visible differences, for a detector.")

    def shortfall(self, budget: float) -> str:
        """Return why the loss is too large, verified or not; empty if it is within the budget, points."""
        return why_short(self.value, self.low, self.high, self.frames, self.drift, budget)


class MeasuredSpeed(_PassportPart):
    """The speed for one batch size."""

    batch: int = Field(ge=1)
    workers: int = Field(ge=1, description="The number of batches in flight.")
    threads: int = Field(ge=1, description="The number of threads for each batch.")
    p50_ms: Share = Field(description="The median duration of a batch while the others run, ms.")
    p95_ms: Share
    fps: Share = Field(description="The frame rate of all workers together, images per second.")
    fps_low: Share = Field(description="The lower end of the 95 % interval of the median.")
    fps_high: Share
    cpu_ms: Share = Field(default=0, description="The CPU time per image, ms; 0: not measured.")
    fp32_ratio: float | None = Field(
        default=None,
        ge=0,
        description="The speed ratio to FP32 on ONNX Runtime, measured in turns; by CPU time if the machine was busy.",
    )


class Passport(_PassportPart):
    """The record of an engine."""

    format: Literal[1] = 1
    engine: str = Field(pattern=r"^[a-z0-9]+(-rtx)?-[a-z]+-[a-z0-9]+$", description="runtime-device-precision")
    card: CardSummary
    sources: Sources
    runtime: str
    runtime_version: str
    compute: Literal["f32", "tf32", "bf16", "f16"] = "f32"
    tools: Mapping[str, str] = Field(default_factory=dict, description="The versions of other tools.")
    device: DeviceFacts
    precision: Mapping[str, str] = Field(
        default_factory=dict, description="By group of layers, such as {'convolutions': 'int8', 'box decoding': 'fp32'}."
    )
    accuracy: tuple[MeasuredAccuracy, ...] = ()
    speed: tuple[MeasuredSpeed, ...] = ()
    memory_bytes: int | None = Field(
        default=None, ge=0, description="The growth of the process while the engine was loaded and warmed up, bytes."
    )
    build_seconds: float | None = Field(default=None, ge=0)
    accepted: bool = Field(default=False, description="Whether the user accepted its loss, with --accept-loss.")
    date: AwareDatetime

    def loss(self) -> MeasuredAccuracy | None:
        """Return the verified accuracy with the greatest loss at the interval's upper end; None if none is verified."""
        verified = [measured for measured in self.accuracy if measured.judged == "proven"]
        return max(verified, key=lambda measured: measured.high, default=None)

    def shortfall(self, budget: float) -> str:
        """Return why its verified accuracy is not good enough; empty if it is, if none is verified, or if it is accepted."""
        if self.accepted:
            return ""
        verified = (measured for measured in self.accuracy if measured.judged == "proven")
        return next((why for measured in verified if (why := measured.shortfall(budget))), "")

    def fastest(self) -> MeasuredSpeed | None:
        """Return the speed with the highest frame rate; None if none was measured."""
        return max(self.speed, key=lambda speed: speed.fps, default=None)

    def holds_for(self, graph_sha256: str, device: DeviceFacts) -> bool:
        """Return whether its accuracy is valid here: the same graph, and the same kind of instructions for its precision."""
        precision = self.engine.rpartition("-")[2]
        return self.sources.graph == graph_sha256 and self.device.arithmetic(precision) == device.arithmetic(precision)

    def measured_here(self, device: DeviceFacts, runtime_version: str) -> bool:
        """Return whether its speed is valid here as well: the same device, and the same version of the runtime."""
        mine = (self.device.kind, self.device.name, self.device.instructions, self.runtime_version)
        return mine == (device.kind, device.name, device.instructions, runtime_version)

    def to_json(self) -> str:
        """Return the content of the passport's file."""
        return self.model_dump_json(indent=1) + "\n"


def why_short(value: float, low: float, high: float, frames: int, drift: MeasuredDrift | None, budget: float) -> str:
    """Return why the upper end of a loss's interval exceeds the budget (points), or why it drifts too far; empty if neither.

    Figures are compared as they are printed, rounded.
    """
    loss = f"{value:.2f} points lost ({low:.2f} to {high:.2f}) on {frames} frames"
    if not round(high, 2) <= budget:  # also for NaN
        return f"{loss}, the budget is {budget:g}"
    why = "" if drift is None else drift.shortfall()
    return f"{loss}, but {why}" if why else ""


def summarize(card: ModelCard) -> CardSummary:
    """Return the summary of a card."""
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
    """Check the JSON text of a passport; ``where`` names the file in an error.

    Raises:
        EngineError: It is not a passport, or has an unknown format; the message names the first wrong field.
    """
    try:
        return Passport.model_validate_json(text)
    except ValidationError as error:
        raise EngineError(f"{where}: {field_problem(error, 'passport')}", "Build the engine again.") from error


def read_passport(path: Path) -> Passport:
    """Read a passport.

    Raises:
        EngineError: The file cannot be read, or is not a passport.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise EngineError(f"cannot read {path}: {error.strerror}", "Build the engine again.") from error
    except UnicodeDecodeError as error:
        raise EngineError(f"{path} is not a passport", "Build the engine again.") from error
    return parse_passport(text, str(path))


def passport_file(graph: Path, engine: str) -> Path:
    """Return the file of a passport next to a graph: ``model.ENGINE.passport.json`` next to ``model.onnx``."""
    return graph.with_name(f"{graph.stem}.{engine}{SUFFIX}")


def passports_beside(graph: Path) -> list[Passport]:
    """Return the passports next to a graph; skip those that cannot be read."""
    found = []
    for path in sorted(graph.parent.glob(f"{graph.stem}.*{SUFFIX}")):
        if "." in path.name[len(graph.stem) + 1 : -len(SUFFIX)]:  # of another graph: model.int8.ENGINE next to model.onnx
            continue
        try:
            found.append(read_passport(path))
        except EngineError:
            continue
    return found
