"""What is needed, in seven steps: task, network and size, targets, precision, runtime, margin, cost of a useful output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from vision_infer.capacity.devices import read_checked
from vision_infer.config.settings_base import SettingsBase
from vision_infer.service.streams.cost import HEADROOM

HINT = "see docs/how-to/measure-and-plan.md for the fields"
THIS_MACHINE = "this machine"
Rate = Annotated[float, Field(gt=0, le=240)]
Pixels = Annotated[int, Field(ge=16, le=16384)]


class Video(SettingsBase):
    """What a camera sends."""

    codec: Literal["h264", "hevc"] = "h264"
    width: Pixels = 1920
    height: Pixels = 1080
    fps: Rate = Field(default=15.0, description="frames a second")
    mbit_s: float | None = Field(default=None, gt=0, description="megabits a second; null: as in the bench's sample")


class PlanTarget(SettingsBase):
    """When it is good enough."""

    fps: Rate = Field(default=10.0, description="results a second of each camera")
    age_ms: float = Field(default=200.0, gt=0, le=60_000, description="that 99 % of the results must not exceed")


class WhatIf(SettingsBase):
    """What else is to be reckoned."""

    gate_saves: float | None = Field(
        default=None, gt=0, lt=1, description="share of the frames that a motion gate keeps from the network; yours to say"
    )
    substream: tuple[Pixels, Pixels] | None = Field(
        default=(640, 360), description="width and height of the camera's other stream"
    )
    models: tuple[str, ...] = Field(default=(), description="other networks; they need a bench of their own")


class Need(SettingsBase):
    """The whole of it."""

    task: Literal["detect", "classify", "embed"] = "detect"
    model: str = Field(default="nanodet-416", min_length=1)
    cameras: int = Field(default=1, ge=1, le=100_000)
    video: Video = Video()
    target: PlanTarget = PlanTarget()
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    loss_points: float = Field(
        default=1.0, ge=0, description="of accuracy that may be lost against FP32, where that was measured"
    )
    runtime: str = Field(default="auto", description="auto, onnxruntime, openvino, tensorrt, …")
    margin: float = Field(default=round(1 - HEADROOM, 2), ge=0, lt=0.95, description="share of the machine that is to stay free")
    viewers: int = Field(default=0, ge=0, description="cameras that are watched at the same time")
    network_mbit_s: float | None = Field(
        default=None, gt=0, description="what the machine's network carries; null: not looked at"
    )
    detections_per_frame: float | None = Field(default=None, gt=0, description="null: no price of a detection")
    currency: str = Field(default="", max_length=8)
    prices: Mapping[str, float] = Field(default_factory=dict, description="of an hour, by the device's name")
    hours_a_month: float = Field(default=730.0, gt=0, le=745)
    what_if: WhatIf = WhatIf()

    @field_validator("prices")
    @classmethod
    def _positive(cls, prices: Mapping[str, float]) -> Mapping[str, float]:
        for name, price in prices.items():
            if not price > 0:
                raise ValueError(f"the price of {name} is {price:g}: leave it out where it is not known, then no cost is told")
        return prices

    @property
    def fps(self) -> float:
        """Results a second of each camera: none gives more than it sends."""
        return min(self.target.fps, self.video.fps)

    def says(self) -> str:
        """In a line: ``12 cameras, h264 1920×1080 at 15 frames/s, 10 results/s each, 99% within 200 ms``."""
        video = self.video
        cameras = f"{self.cameras} {'camera' if self.cameras == 1 else 'cameras'}"
        sends = f"{video.codec} {video.width}×{video.height} at {video.fps:g} frames/s"
        return f"{cameras}, {sends}, {self.fps:g} results/s each, 99% within {self.target.age_ms:g} ms"


def read_need(path: Path) -> Need:
    """A need that is written down (YAML).

    Raises:
        UsageError: it cannot be read, or something in it is wrong; names the line.
    """
    return read_checked(path, Need, HINT)
