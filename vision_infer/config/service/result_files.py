"""The files to which the service writes results."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vision_infer.config.settings_base import SettingsBase


class ResultsSettings(SettingsBase):
    """The settings of result files."""

    jsonl: str | None = Field(
        default=None, min_length=1, description="The JSONL file; `{stream}` creates one file per stream. null: none."
    )
    parquet: Annotated[str, Field(min_length=1, pattern=r"^[^{}]+\.parquet$")] | None = Field(
        default=None,
        description="The Parquet file of all streams, NAME.parquet: detections are written to NAME-TIME.parquet, "
        "events to NAME.events-TIME.parquet. null: no file.",
    )
    parquet_minutes: float = Field(default=60.0, gt=0, le=100_000, description="The time per Parquet file, in minutes.")
    rotate_mb: float = Field(default=100.0, gt=0, le=1_000_000, description="Start a new file after this size, in megabytes.")
    daily: bool = Field(default=False, description="Start a new file every day (UTC) as well.")
    keep: int = Field(default=10, ge=0, le=100_000, description="The number of rotated files to keep for each name.")
