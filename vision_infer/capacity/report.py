"""What a bench found: values that are written as JSON, kept in the history, and read again by ``plan``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import AwareDatetime, Field

from vision_infer.config.settings_base import SettingsBase
from vision_infer.core.geometry import Size, best_input
from vision_infer.engine.measure import Estimate

OTHERS_DISTURB = 0.15
"""of the cores, that other programs use: then their work is a part of the figures"""


class BenchInterval(SettingsBase):
    """A median over rounds, with the 95 % interval of the bootstrap."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, found: Estimate) -> BenchInterval:
        """The same as a value to write."""
        return cls(median=round(found.median, 5), low=round(found.low, 5), high=round(found.high, 5))

    def apart(self, other: BenchInterval) -> bool:
        """Whether the two intervals have nothing in common: less is called noise."""
        return self.high < other.low or other.high < self.low


class BenchMachine(SettingsBase):
    """What was measured on."""

    cpu: str
    instructions: tuple[str, ...] = ()
    cores: int = Field(ge=1, description="that the process may use")
    cpu_limit: float | None = Field(default=None, description="CPUs' worth of time that a control group grants; null: no limit")
    memory_bytes: int | None = None
    gpus: tuple[str, ...] = ()
    system: str = ""
    versions: Mapping[str, str] = Field(default_factory=dict)

    @property
    def key(self) -> tuple[object, ...]:
        """What two benches must have in common to be compared."""
        return self.cpu, self.instructions, self.cores, self.cpu_limit, self.gpus

    @property
    def name(self) -> str:
        """In a few words."""
        gpus = "".join(f" + {gpu}" for gpu in self.gpus)
        return f"{self.cpu}, {self.cores} {'core' if self.cores == 1 else 'cores'}{gpus}"


class BenchSettings(SettingsBase):
    """What was asked for; two benches with other settings are not compared."""

    model: str
    codec: str
    width: int
    height: int
    source_fps: float
    fps: float = Field(description="wanted results a second of each stream")
    target_ms: float = Field(description="age that the 99th percentile shall not exceed")
    engine: str = Field(description="as it was asked for")
    quick: bool = False
    inputs: tuple[tuple[int, int], ...] = Field(
        default=(), description="sizes of the network's inputs; the one that fits the pictures is measured"
    )

    @property
    def size(self) -> Size:
        """Of the pictures."""
        return Size(self.width, self.height)

    def fits(self, image: Size) -> bool:
        """Whether pictures of that size go into the input that is measured."""
        inputs = tuple(Size(*one) for one in self.inputs)
        return not inputs or best_input(image, inputs) == best_input(self.size, inputs)


class DecodeRow(SettingsBase):
    """Decoding one kind of video, with every core busy decoding."""

    codec: str
    width: int
    height: int
    mbit_s: float
    where: Literal["cpu", "nvdec"] = "cpu"
    fps: BenchInterval = Field(description="frames a second, all cores together")
    cpu_ms: BenchInterval = Field(description="CPU time of a frame")


class ConvertRow(SettingsBase):
    """Conversion and resize of one size of picture into a slot."""

    width: int
    height: int
    input_width: int
    input_height: int
    cpu_ms: BenchInterval


class EngineRow(SettingsBase):
    """One engine at one batch size, with as many batches in flight as it has."""

    engine: str
    graph: str
    model: str
    input_width: int
    input_height: int
    batch: int
    in_flight: int
    p50_ms: float = Field(description="time of a batch while the others run too")
    p99_ms: float
    fps: BenchInterval = Field(description="pictures a second, all batches together")
    cpu_ms: BenchInterval = Field(description="CPU time of a picture")
    utilisation: float = Field(description="of the cores that it could use, 0–1")
    spread: tuple[float, ...] = Field(description="quantiles of the time of a batch over its median, evenly spaced from 0 to 1")
    memory_bytes: int | None = Field(default=None, description="by which opening and warming it up made the process grow")
    buffer_bytes: int = 0
    loss_points: float | None = Field(default=None, description="proven loss of accuracy against FP32, upper end; null: unknown")


class PipelineRow(SettingsBase):
    """All of it with so many streams, open loop: pictures come by the clock, whatever we do."""

    streams: int
    engine: str
    seconds: float
    wanted_per_s: float
    results_per_s: float
    delivered: float = Field(description="results out of what was wanted, 0–1")
    age_p50_ms: float
    age_p95_ms: float
    age_p99_ms: float
    holds: bool = Field(description="the target is met: age, and what was wanted is delivered")
    cpu_cores: float = Field(description="that the process used")
    other_cores: float = Field(description="that all others used meanwhile")
    stream_ms: float = Field(description="CPU time of a stream's thread for each frame decoded")
    inference_ms: float = Field(description="CPU time of conversion and engine for each result")
    rest_ms: float = Field(description="CPU time of all else for each result: selection, order, rows")
    batch_ms: float = Field(description="median time in the engine, waiting for a core included")
    rss_bytes: int | None = None
    repeats: int = 1


class BenchReport(SettingsBase):
    """Everything that a bench found."""

    format: Literal[1] = 1
    date: AwareDatetime
    program: str = Field(description="version")
    machine: BenchMachine
    settings: BenchSettings
    seconds: float
    other_cores: float = Field(default=0.0, description="that other programs used meanwhile, on average")
    interrupted: bool = False
    notes: tuple[str, ...] = ()
    decode: tuple[DecodeRow, ...] = ()
    convert: tuple[ConvertRow, ...] = ()
    engines: tuple[EngineRow, ...] = ()
    pipeline: tuple[PipelineRow, ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """What two benches must have in common to be compared."""
        return self.machine.key, self.settings

    @property
    def comparable(self) -> bool:
        """Whether it may be compared with others: whole, and other programs did little meanwhile."""
        return not self.interrupted and not self.disturbed

    @property
    def disturbed(self) -> bool:
        """Whether other programs took a part of the machine meanwhile."""
        return self.other_cores > OTHERS_DISTURB * self.machine.cores

    @property
    def carries(self) -> int | None:
        """Most streams that met the target in every try up to there; None where none was tried."""
        if not self.pipeline:
            return None
        broken = min((row.streams for row in self.pipeline if not row.holds), default=None)
        return max((row.streams for row in self.pipeline if row.holds and (broken is None or row.streams < broken)), default=0)
