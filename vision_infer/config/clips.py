"""Clips of what happened: a few seconds of a camera's own video, before and after an event in a zone or at a line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class ClipSettings(_Settings):
    """Of a stream: which events have a clip, and what is in it."""

    events: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        default=None, description="names of zones and lines; null: all of the stream's"
    )
    pre_s: float = Field(default=5.0, ge=0, le=60, description="before the event, from the key frame before that; seconds")
    post_s: float = Field(default=5.0, ge=0, le=300, description="after the event, seconds")
    max_s: float = Field(
        default=60.0, gt=0, le=3600, description="events that overlap share a clip, which gets no longer than this; seconds"
    )

    @model_validator(mode="after")
    def _fits(self) -> ClipSettings:
        if self.max_s < self.pre_s + self.post_s:
            raise ValueError("max_s: must not be less than pre_s and post_s together")
        return self


class ClipStoreSettings(_Settings):
    """Where clips are kept, and how much of them."""

    dir: Path | None = Field(default=None, description="folder; null: `clips` in `state_dir`")
    max_mb: float = Field(default=2000.0, ge=1, le=100_000_000, description="all clips together, megabytes; the oldest go")
    keep_days: float = Field(default=14.0, gt=0, le=36_500, description="older ones go")
    keep_free_mb: float = Field(
        default=500.0, ge=0, le=100_000_000, description="no clip is written while its disk has less space left, megabytes"
    )
    buffer_mb: float = Field(
        default=32.0, ge=1, le=10_000, description="coded video kept ready in memory for each stream with `clips`, megabytes"
    )
