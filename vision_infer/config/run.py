"""The settings of ``vision-infer run``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vision_infer.core.errors import UsageError

DEFAULT_MODEL = "nanodet-416"


class RunSettings(BaseModel):
    """What is run on what, how, and where the results go. None leaves the choice to the model's card or to the machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[str, ...] = Field(min_length=1, description="video files, pictures and folders")
    model: str = Field(default=DEFAULT_MODEL, min_length=1, description="name of a model, or a deployment graph (.onnx)")
    model_dir: Path | None = Field(default=None, description="folder of the user's models")
    engine: str = "auto"
    device: str = "auto"
    workers: int | None = Field(default=None, ge=1, le=256, description="batches in flight")
    threads: int | None = Field(default=None, ge=1, le=256, description="threads of each batch on the CPU")
    batch: int | None = Field(default=None, ge=1, le=256, description="largest batch")
    every: int = Field(default=1, ge=1, description="infer every N-th frame")
    confidence: float | None = Field(default=None, ge=0, le=1)
    iou: float | None = Field(default=None, gt=0, le=1)
    classes: tuple[str, ...] | None = None
    track: bool = False
    out: tuple[str, ...] = ()
    overwrite: bool = False


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
