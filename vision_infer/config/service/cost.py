"""The price of the machine."""

from __future__ import annotations

from pydantic import Field

from vision_infer.config.settings_base import SettingsBase


class CostSettings(SettingsBase):
    """The price of the machine, for the cost report of each stream at ``/api/v1/cost``."""

    machine_per_hour: float | None = Field(
        default=None, ge=0, le=1_000_000, description="The price of the machine per hour, including power. null: unknown."
    )
    currency: str = Field(default="EUR", min_length=1, max_length=8, description="The currency of the price.")
