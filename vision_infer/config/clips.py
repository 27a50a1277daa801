"""Clips of events: a few seconds of a camera's own video, before and after an event in a zone or at a line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from vision_infer.config.settings_base import SettingsBase


class ClipSettings(SettingsBase):
    """Which events of a stream have a clip, and how long it is."""

    events: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        default=None, description="The names of zones and lines. Defaults to all of the stream's."
    )
    pre_s: float = Field(default=5.0, ge=0, le=60, description="The time before the event, from a key frame, in seconds.")
    post_s: float = Field(default=5.0, ge=0, le=300, description="The time after the event, in seconds.")
    max_s: float = Field(
        default=60.0, gt=0, le=3600, description="The maximum length, in seconds. Overlapping events share a clip."
    )

    @model_validator(mode="after")
    def _fits(self) -> ClipSettings:
        if self.max_s < self.pre_s + self.post_s:
            raise ValueError("max_s: must not be less than pre_s and post_s together")
        return self


class ClipStoreSettings(SettingsBase):
    """Where clips are stored, and the limits on their number and size."""

    dir: Path | None = Field(
        default=None, description="The folder, which must be empty at first. Defaults to `clips` in `state_dir`."
    )
    max_mb: float = Field(
        default=2000.0, ge=1, le=100_000_000, description="The maximum size of all clips, in megabytes. The oldest are deleted."
    )
    keep_days: float = Field(default=14.0, gt=0, le=36_500, description="The age at which clips are deleted, in days.")
    keep_free_mb: float = Field(
        default=500.0, ge=0, le=100_000_000, description="No clip is written if the disk has less free space, in megabytes."
    )
    buffer_mb: float = Field(
        default=32.0, ge=1, le=10_000, description="The maximum memory for coded video per stream, in megabytes."
    )
