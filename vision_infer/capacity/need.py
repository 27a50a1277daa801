"""The requirements of a plan: task, model and size, targets, precision, runtime, margin, and prices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from vision_infer.analyze.tiling import Tiling
from vision_infer.capacity.devices import read_checked
from vision_infer.config.settings_base import SettingsBase
from vision_infer.config.stream_policy import TileSettings
from vision_infer.core.geometry import Size, Tile
from vision_infer.service.streams.cost import HEADROOM

HINT = "See docs/how-to/measure-and-plan.md for the fields."
THIS_MACHINE = "this machine"
Rate = Annotated[float, Field(gt=0, le=240)]
Pixels = Annotated[int, Field(ge=16, le=16384)]


class Video(SettingsBase):
    """The video of a camera."""

    codec: Literal["h264", "hevc"] = "h264"
    width: Pixels = 1920
    height: Pixels = 1080
    fps: Rate = Field(default=15.0, description="The frame rate of each camera.")
    mbit_s: float | None = Field(
        default=None, gt=0, description="The bit rate, in Mbit/s. Defaults to that of the benchmark's sample."
    )


class PlanTarget(SettingsBase):
    """The targets."""

    fps: Rate = Field(default=10.0, description="The results per second of each camera.")
    age_ms: float = Field(default=200.0, gt=0, le=60_000, description="The maximum age of 99 % of the results, in milliseconds.")


class WhatIf(SettingsBase):
    """Alternatives to estimate as well."""

    gate_saves: float | None = Field(
        default=None, gt=0, lt=1, description="The share of the frames that a motion gate skips. Your own estimate."
    )
    substream: tuple[Pixels, Pixels] | None = Field(
        default=(640, 360), description="The width and height of the camera's substream."
    )
    models: tuple[str, ...] = Field(default=(), description="Other models, which must have been measured.")


class Need(SettingsBase):
    """All requirements."""

    task: Literal["detect", "classify", "embed"] = "detect"
    model: str = Field(default="nanodet-416", min_length=1)
    cameras: int = Field(default=1, ge=1, le=100_000)
    video: Video = Video()
    tiles: TileSettings | None = Field(default=None, description="The tiles into which each frame is cut. null: none.")
    target: PlanTarget = PlanTarget()
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    loss_points: float = Field(
        default=1.0, ge=0, description="The maximum loss of accuracy compared with FP32, in points, if measured."
    )
    runtime: str = Field(default="auto", description="The runtime: auto, onnxruntime, openvino, tensorrt, …")
    margin: float = Field(default=round(1 - HEADROOM, 2), ge=0, lt=0.95, description="The share of the capacity to keep free.")
    viewers: int = Field(default=0, ge=0, description="The number of cameras with viewers at the same time.")
    network_mbit_s: float | None = Field(
        default=None, gt=0, description="The bandwidth of the machine's network, in Mbit/s. null: not considered."
    )
    detections_per_frame: float | None = Field(
        default=None, gt=0, description="The average number of detections per frame. null: no price per detection."
    )
    currency: str = Field(default="", max_length=8)
    prices: Mapping[str, float] = Field(default_factory=dict, description="The price per hour by device name.")
    hours_a_month: float = Field(default=730.0, gt=0, le=745)
    what_if: WhatIf = WhatIf()

    @field_validator("prices")
    @classmethod
    def _positive(cls, prices: Mapping[str, float]) -> Mapping[str, float]:
        for name, price in prices.items():
            if not price > 0:
                raise ValueError(f"the price of {name} is {price:g}; leave it out if it is unknown")
        return prices

    @property
    def fps(self) -> float:
        """The results per second of each camera, at most its frame rate."""
        return min(self.target.fps, self.video.fps)

    def tiles_of_frame(self) -> tuple[Tile, ...]:
        """Return the tiles of a frame; the whole frame without tiles.

        Raises:
            UsageError: The video cannot be cut so.
        """
        size = Size(self.video.width, self.video.height)
        return (() if self.tiles is None else Tiling(self.tiles, None).of(size)) or (Tile(0, 0, size),)

    def summary(self) -> str:
        """Return one line: ``12 cameras, h264 1920×1080 at 15 frames/s, 10 results/s each, 99% within 200 ms``."""
        video = self.video
        cameras = f"{self.cameras} {'camera' if self.cameras == 1 else 'cameras'}"
        sends = f"{video.codec} {video.width}×{video.height} at {video.fps:g} frames/s"
        if self.tiles is not None:
            sends += f", {len(self.tiles_of_frame())} tiles per frame"
        return f"{cameras}, {sends}, {self.fps:g} results/s each, 99% within {self.target.age_ms:g} ms"


def read_need(path: Path) -> Need:
    """Read requirements from a YAML file.

    Raises:
        UsageError: The file cannot be read or is invalid; names the line.
    """
    return read_checked(path, Need, HINT)
