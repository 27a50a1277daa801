"""The settings of reconnections, apart from those of the service: ``run`` needs no others of them."""

from __future__ import annotations

from pydantic import Field, model_validator

from vision_infer.config.settings_base import SettingsBase


class Reconnect(SettingsBase):
    """How a stream reconnects."""

    min_s: float = Field(
        default=0.5, gt=0, le=3600, description="The limit of the first wait, in seconds. Waits are random, from 0 to the limit."
    )
    max_s: float = Field(default=30.0, gt=0, le=3600, description="The limit doubles with each failure up to this, in seconds.")
    refused_s: float = Field(
        default=60.0,
        gt=0,
        le=86_400,
        description="The first wait after a wrong password or a 404, in seconds. It doubles up to 5×.",
    )
    attempts: int | None = Field(
        default=None, ge=1, description="The consecutive failures after which the stream stops. null: never."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Reconnect:
        if self.max_s < self.min_s:
            raise ValueError("max_s: must not be less than min_s")
        return self
