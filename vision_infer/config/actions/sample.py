"""The choice of frames that are worth labeling."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from vision_infer.config.settings_base import SettingsBase


def check_sample(sample: str | None) -> str | None:
    """Return the name of a choice of frames.

    Raises:
        ValueError: It is not a choice of frames.
    """
    if sample is not None and not re.fullmatch("uncertain|diverse|disagree|every:[1-9][0-9]{0,8}", sample):
        raise ValueError("must be uncertain, diverse, disagree or every:N, such as every:50")
    return sample


class SampleSettings(SettingsBase):
    """Which frames of a stream are stored for labeling."""

    pick: Annotated[str, AfterValidator(check_sample)] = Field(
        default="uncertain",
        description="`uncertain`, `diverse` (both look at one frame per second) or `every:N`, as `--sample` of `run`. "
        "`disagree`: the frames on which the shadow model differs most; without a shadow model, there are none.",
    )
    per_day: int = Field(default=50, ge=1, le=2000, description="The maximum number of frames per day (UTC).")


class SampleStoreSettings(SettingsBase):
    """Where samples of streams are stored: `DIR/STREAM/TIME.jpg`."""

    dir: Path | None = Field(default=None, description="The folder. null: no samples.")
    max_mb: float = Field(
        default=1000.0, ge=1, le=100_000_000, description="The maximum size of all samples, in megabytes. The oldest are deleted."
    )
    keep_free_mb: float = Field(
        default=500.0, ge=0, le=100_000_000, description="No sample is written if the disk has less free space, in megabytes."
    )
