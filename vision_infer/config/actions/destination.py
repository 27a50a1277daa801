"""The common settings of destinations of records."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vision_infer.config.settings_base import SettingsBase
from vision_infer.core.scene_event import SceneEvent

Kind = Literal["detections", "events", "states"]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""The pattern of the names of sinks and streams."""


class SinkSettings(SettingsBase):
    """The common settings of destinations with a spool."""

    kinds: tuple[Kind, ...] = Field(
        default=("detections", "events", "states"),
        min_length=1,
        description="What is sent: result rows, events at zones and lines, state changes of streams and engines.",
    )
    streams: tuple[Annotated[str, Field(pattern=NAME)], ...] | None = Field(
        default=None, description="The names of the streams to send. Defaults to all streams."
    )
    only_with_detections: bool = Field(default=False, description="Skip rows of frames without detections.")
    spool_mb: float = Field(
        default=256.0, ge=1, le=1_000_000, description="The maximum size of the spool, in megabytes. The oldest rows are dropped."
    )

    def takes(self, event: SceneEvent) -> bool:  # noqa: ARG002
        """Return whether an event of a subscribed stream is sent."""
        return True
