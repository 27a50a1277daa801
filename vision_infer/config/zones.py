"""Zones and lines of a stream: they report when tracked objects enter, leave, stay or cross.

zones:
  door:
    units: relative
    polygon: [[0.4, 0.5], [0.6, 0.5], [0.6, 1.0], [0.4, 1.0]]
    classes: [person]
    dwell_s: 30
lines:
  gate:                    # seen from `from` to `to`, crossing from left to right is in
    from: [320, 480]
    to: [320, 0]
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from vision_infer.config.region import Coordinate, Polygon, Region, check_streams, read_shapes
from vision_infer.core.errors import UsageError

Point = tuple[Coordinate, Coordinate]
"""A point x, y."""

_Units = Annotated[
    Literal["pixels", "relative"],
    Field(description="The units of points: pixels of the source, or fractions of its size, 0–1."),
]
_Anchor = Annotated[Literal["bottom_center", "center"], Field(description="The point of a box that counts.")]
_Labels = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
_Classes = Annotated[_Labels | None, Field(description="The labels that count. Defaults to all.")]


class ZoneSettings(BaseModel):
    """A part of the image, and when a track counts as inside."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    units: _Units = "pixels"
    anchor: _Anchor = "bottom_center"
    polygon: Polygon = Field(description="The corners x, y in order. The last is connected to the first.")
    classes: _Classes = None
    dwell_s: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="The time inside until a dwell event, in seconds."
    )
    min_s: float = Field(
        default=0.2, ge=0, le=3600, allow_inf_nan=False, description="The time inside or outside that counts, in seconds."
    )

    @field_validator("polygon")
    @classmethod
    def _plausible(cls, polygon: Polygon, info: ValidationInfo) -> Polygon:
        units = info.data.get("units")
        if units is not None:
            try:
                Region(units=units, look=(polygon,))
            except ValidationError as error:
                message = error.errors(include_url=False)[0]["msg"]
                raise ValueError(message.removeprefix("Value error, ").removeprefix("look.0: ")) from None
        return polygon


class LineSettings(BaseModel):
    """A line from one point to another, and the tracks that it counts."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    units: _Units = "pixels"
    anchor: _Anchor = "bottom_center"
    from_: Point = Field(alias="from", description="The start point.")
    to: Point = Field(description="The end point. Seen from the start point, crossing from left to right is in.")
    classes: _Classes = None

    @model_validator(mode="after")
    def _plausible(self) -> LineSettings:
        points = (self.from_, self.to)
        inside = all(0 <= value <= 1 for point in points for value in point)
        if self.units == "relative" and not inside:
            raise ValueError("relative points must be between 0 and 1; for pixels write units: pixels")
        if math.dist(self.from_, self.to) < 1e-6:
            raise ValueError("starts and ends at the same point")
        if self.units == "pixels" and inside:
            raise ValueError("is not longer than a pixel; for fractions of the image write units: relative")
        return self


STREAM_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Name = Annotated[str, Field(pattern=STREAM_NAME)]
"""The name of a stream, a zone or a line."""


class SceneSettings(BaseModel):
    """The zones and lines of a stream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    zones: dict[Name, ZoneSettings] = Field(default_factory=dict, description="Polygons by name.")
    lines: dict[Name, LineSettings] = Field(default_factory=dict, description="Lines by name.")

    @property
    def empty(self) -> bool:
        """Whether there are no zones and no lines."""
        return not self.zones and not self.lines


class ZonesFile(SceneSettings):
    """The zones and lines of all streams of a run, and of individual streams."""

    streams: dict[str, SceneSettings] = Field(default_factory=dict, description="Those of individual streams, by name.")

    def of(self, stream: str) -> SceneSettings:
        """Return the zones and lines of a stream: its own, or the common ones."""
        return self.streams.get(stream, self)


def read_zones(path: Path, streams: Iterable[str] | None) -> ZonesFile:
    """Read a file of zones and lines: ``zones`` and ``lines`` as in the configuration of ``serve``, and ``streams`` by name.

    Args:
        path: The YAML file.
        streams: The names of the run's streams. A file for none of them is an error. None: they are not known yet.

    Raises:
        UsageError: The file cannot be read or is invalid; names the file, and the field and line if known.
    """
    where = f"zones {path}"
    found = read_shapes("zones", path, ZonesFile, _EXAMPLE)
    if found.empty and all(own.empty for own in found.streams.values()):
        raise UsageError(f"{where}: contains no zone and no line", _EXAMPLE)
    if found.empty and streams is not None:
        check_streams(where, found.streams, list(streams), "Set zones or lines for all streams.")
    return found


_EXAMPLE = "Write lines: {gate: {units: relative, from: [0.5, 1.0], to: [0.5, 0.0]}}."
