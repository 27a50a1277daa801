"""The report of a benchmark, which is stored as JSON and read by ``plan``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import AwareDatetime, Field

from vision_infer.config.settings_base import SettingsBase
from vision_infer.core.geometry import Size, best_input
from vision_infer.engine.measure import Estimate

OTHERS_DISTURB = 0.15
"""If other programs use more than this share of the cores, the benchmark counts as disturbed."""


class BenchInterval(SettingsBase):
    """A median over rounds with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, found: Estimate) -> BenchInterval:
        """Convert an estimate."""
        return cls(median=round(found.median, 5), low=round(found.low, 5), high=round(found.high, 5))


class BenchMachine(SettingsBase):
    """The machine of a benchmark."""

    cpu: str
    instructions: tuple[str, ...] = ()
    cores: int = Field(ge=1, description="The number of cores that the process may use.")
    cpu_limit: float | None = Field(default=None, description="The CPU limit of the control group, in CPUs. null: no limit.")
    memory_bytes: int | None = None
    gpus: tuple[str, ...] = ()
    system: str = ""
    versions: Mapping[str, str] = Field(default_factory=dict)

    @property
    def key(self) -> tuple[object, ...]:
        """The values that comparable benchmarks have in common."""
        return self.cpu, self.instructions, self.cores, self.cpu_limit, self.gpus

    @property
    def name(self) -> str:
        """A short description."""
        gpus = "".join(f" + {gpu}" for gpu in self.gpus)
        return f"{self.cpu}, {self.cores} {'core' if self.cores == 1 else 'cores'}{gpus}"


class BenchSettings(SettingsBase):
    """The settings of a benchmark. Benchmarks with different settings are not compared."""

    model: str
    codec: str
    width: int
    height: int
    source_fps: float
    fps: float = Field(description="The wanted results per second of each stream.")
    target_ms: float = Field(description="The maximum 99th percentile of the age, in milliseconds.")
    engine: str = Field(description="The requested engine.")
    quick: bool = False
    inputs: tuple[tuple[int, int], ...] = Field(
        default=(), description="The input sizes of the model. The one that fits the video is measured."
    )

    @property
    def size(self) -> Size:
        """The size of the video."""
        return Size(self.width, self.height)

    def fits(self, image: Size) -> bool:
        """Return whether images of this size use the measured input."""
        inputs = tuple(Size(*size) for size in self.inputs)
        return not inputs or best_input(image, inputs) == best_input(self.size, inputs)


class DecodeRow(SettingsBase):
    """Decoding of one kind of video, with all cores decoding."""

    codec: str
    width: int
    height: int
    mbit_s: float
    where: Literal["cpu", "nvdec"] = "cpu"
    fps: BenchInterval = Field(description="The frames per second of all cores together.")
    cpu_ms: BenchInterval = Field(description="The CPU time per frame, in milliseconds.")
    pattern: tuple[float, ...] = Field(
        default=(), description="The costs of the successive frames of a key-frame interval, relative to their mean."
    )


class ConvertRow(SettingsBase):
    """Conversion of one image size to the model's input."""

    width: int
    height: int
    input_width: int
    input_height: int
    cpu_ms: BenchInterval


class EngineRow(SettingsBase):
    """One engine at one batch size, with all its batches in flight."""

    engine: str
    graph: str
    model: str
    input_width: int
    input_height: int
    batch: int
    in_flight: int
    p50_ms: float = Field(description="The median latency of a batch under full load, in milliseconds.")
    p99_ms: float
    fps: BenchInterval = Field(description="The images per second of all batches together.")
    cpu_ms: BenchInterval = Field(description="The CPU time per image, in milliseconds.")
    utilization: float = Field(description="The utilization of the cores that the engine may use, 0–1.")
    spread: tuple[float, ...] = Field(description="Evenly spaced quantiles of the batch latency, relative to its median.")
    memory_bytes: int | None = Field(default=None, description="The growth of the process when the engine was opened, in bytes.")
    buffer_bytes: int = 0
    loss_points: float | None = Field(
        default=None, description="The upper bound of the loss of accuracy compared with FP32, in points. null: unknown."
    )


class PipelineRow(SettingsBase):
    """The complete pipeline with a number of streams. Frames arrive in real time, independent of the load (open loop)."""

    streams: int
    engine: str
    seconds: float
    wanted_per_s: float
    results_per_s: float
    delivered: float = Field(description="The share of the wanted frames with a result, 0–1.")
    age_p50_ms: float
    age_p95_ms: float
    age_p99_ms: float
    holds: bool = Field(description="Whether the targets of age and delivery are met.")
    cpu_cores: float = Field(description="The cores that the process used.")
    other_cores: float = Field(description="The cores that other programs used.")
    stream_ms: float = Field(description="The CPU time of a stream's thread per decoded frame, in milliseconds.")
    inference_ms: float = Field(description="The CPU time of conversion and engine per result, in milliseconds.")
    rest_ms: float = Field(description="The CPU time of selection, order and rows per result, in milliseconds.")
    batch_ms: float = Field(description="The median latency in the engine, including waiting for a core, in milliseconds.")
    rss_bytes: int | None = None
    repeats: int = 1


class BenchReport(SettingsBase):
    """The complete report."""

    format: Literal[1] = 1
    date: AwareDatetime
    program: str = Field(description="The version of the program.")
    machine: BenchMachine
    settings: BenchSettings
    seconds: float
    other_cores: float = Field(default=0.0, description="The mean number of cores that other programs used.")
    interrupted: bool = False
    notes: tuple[str, ...] = ()
    decode: tuple[DecodeRow, ...] = ()
    convert: tuple[ConvertRow, ...] = ()
    engines: tuple[EngineRow, ...] = ()
    pipeline: tuple[PipelineRow, ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """The values that comparable benchmarks have in common."""
        return self.machine.key, self.settings

    @property
    def comparable(self) -> bool:
        """Whether the benchmark is complete and undisturbed."""
        return not self.interrupted and not self.disturbed

    @property
    def disturbed(self) -> bool:
        """Whether other programs used a part of the machine."""
        return self.other_cores > OTHERS_DISTURB * self.machine.cores

    @property
    def carries(self) -> int | None:
        """The highest number of streams up to which every run met the target; None if there were no runs."""
        if not self.pipeline:
            return None
        broken = min((row.streams for row in self.pipeline if not row.holds), default=None)
        return max((row.streams for row in self.pipeline if row.holds and (broken is None or row.streams < broken)), default=0)
