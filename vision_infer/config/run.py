"""The settings of ``vision-infer run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from vision_infer.core.errors import UsageError

DEFAULT_MODEL = "nanodet-416"


class RunSettings(BaseModel):
    """What is run on what, how, and where the results go. None leaves the choice to the model's card or to the machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sources: tuple[str, ...] = Field(min_length=1, description="video files, pictures, folders, patterns, URLs, @lists, -")
    recursive: bool = False
    track_index: int = Field(default=0, ge=0, description="which of a file's video tracks")
    start: float = Field(default=0.0, ge=0, description="seconds from the stream's beginning")
    end: float | None = Field(default=None, gt=0, description="seconds from the stream's beginning")
    fps: float | None = Field(default=None, gt=0, description="infer so many frames a second at most")
    keyframes: bool = Field(default=False, description="decode and infer key frames only")
    decode: Literal["auto", "cpu", "nvdec"] = Field(default="auto", description="where videos are decoded")
    max_pixels: int = Field(default=100_000_000, ge=1, description="larger pictures are refused")
    model: str = Field(default=DEFAULT_MODEL, min_length=1, description="name of a model, or a deployment graph (.onnx)")
    model_dir: Path | None = Field(default=None, description="folder of the user's models")
    engine: str = "auto"
    engine_dir: Path | None = Field(default=None, description="where engines and their passports are kept")
    device: str = "auto"
    workers: int | None = Field(default=None, ge=1, le=256, description="batches in flight")
    threads: int | None = Field(default=None, ge=1, le=256, description="threads of each batch on the CPU")
    batch: int | None = Field(default=None, ge=1, le=256, description="largest batch")
    every: int = Field(default=1, ge=1, description="infer every N-th frame")
    gate: Literal["motion"] | None = Field(default=None, description="leave out frames in which nothing moves")
    gate_heartbeat: float = Field(default=5.0, gt=0, le=3600, description="infer one at least so often, seconds")
    confidence: float | None = Field(default=None, ge=0, le=1)
    iou: float | None = Field(default=None, gt=0, le=1)
    classes: tuple[str, ...] | None = None
    per_class: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict, description="least score of single classes"
    )
    min_size: float = Field(default=0.0, ge=0, description="least width and height of a box, source pixels")
    region: Path | None = Field(default=None, description="file of polygons in which we look")
    secondary: str | None = Field(
        default=None, min_length=1, description="model that looks at each detection: classification, embeddings"
    )
    top: int = Field(default=5, ge=1, le=1000, description="classes that are told, of a network for classification")
    hook: str | None = Field(default=None, description="module:function called with each result")
    track: bool = False
    out: tuple[str, ...] = ()
    formats: tuple[str, ...] | None = Field(default=None, description="what a folder gets for each source")
    crops: Path | None = Field(default=None, description="folder of cut-out detections")
    preview_fps: float | None = Field(default=None, gt=0, description="frame rate of annotated video")
    preview_size: int | None = Field(default=None, ge=16, description="height of annotated video, pixels")
    rotate_mb: float | None = Field(default=None, gt=0, description="JSONL goes on in a new file after so many megabytes")
    overwrite: bool = False
    resume: bool = Field(default=False, description="go on where an earlier run with these settings was cut off")

    @field_validator("end")
    @classmethod
    def _end_after_start(cls, end: float | None, info: ValidationInfo) -> float | None:
        start = info.data.get("start", 0.0)
        if end is not None and end <= start:
            raise ValueError(f"must be after the start, {start} s")
        return end


def run_settings(**values: Any) -> RunSettings:
    """Check settings.

    Raises:
        UsageError: names the first option that is wrong.
    """
    try:
        return RunSettings(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = "--" + str(first["loc"][0]).replace("_", "-") if first["loc"] else "the options"
        raise UsageError(f"{option}: {first['msg']}", "see 'vision-infer run --help'") from error
