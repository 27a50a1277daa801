"""The settings of a shadow model."""

from __future__ import annotations

from pydantic import Field

from vision_infer.config.settings_base import SettingsBase
from vision_infer.config.zones import Name


class ShadowSettings(SettingsBase):
    """A candidate model that gets some of the live frames and is compared with the current model."""

    model: str = Field(min_length=1, description="The candidate: a model name or deployment graph (.onnx).")
    engine: str | None = Field(
        default=None, min_length=1, description="The candidate's engine, such as openvino-cpu-int8. Defaults to the service's."
    )
    streams: tuple[Name, ...] = Field(
        default=(), max_length=10_000, description="The streams whose frames it gets. Empty: all that run the default model."
    )
    every: int = Field(default=10, ge=1, le=100_000, description="The candidate gets every N-th inferred frame of each stream.")
