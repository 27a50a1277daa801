"""Zones and lines of a stream: where it is told that somebody enters, leaves, stays long, or crosses.

zones:
  door:
    units: relative
    polygon: [[0.4, 0.5], [0.6, 0.5], [0.6, 1.0], [0.4, 1.0]]
    classes: [person]
    dwell_s: 30
lines:
  gate:                    # looking from `from` to `to`, who goes from the left to the right comes in
    from: [320, 480]
    to: [320, 0]
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from vision_infer.config.region import Coordinate, Polygon, Region

Point = tuple[Coordinate, Coordinate]
"""x, y"""

_Units = Annotated[Literal["pixels", "relative"], Field(description="pixels of the source, or parts of its sides, 0–1")]
_Anchor = Annotated[Literal["bottom_center", "center"], Field(description="the point of a box that counts")]
_Labels = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
_Classes = Annotated[_Labels | None, Field(description="labels that count; all where it is left out")]


class ZoneSettings(BaseModel):
    """A part of the picture, and when it counts that a track is inside."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    units: _Units = "pixels"
    anchor: _Anchor = "bottom_center"
    polygon: Polygon = Field(description="corners x, y in order; the last is joined to the first")
    classes: _Classes = None
    dwell_s: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="seconds inside after which that is told, once a visit"
    )
    min_s: float = Field(
        default=0.2, ge=0, le=3600, allow_inf_nan=False, description="seconds that a track must be inside, or outside, to count"
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
    """A line from one point to another, and which tracks it counts."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    units: _Units = "pixels"
    anchor: _Anchor = "bottom_center"
    from_: Point = Field(alias="from", description="where it begins")
    to: Point = Field(description="where it ends; looking there from its beginning, from left to right is in")
    classes: _Classes = None

    @model_validator(mode="after")
    def _plausible(self) -> LineSettings:
        points = (self.from_, self.to)
        inside = all(0 <= value <= 1 for point in points for value in point)
        if self.units == "relative" and not inside:
            raise ValueError("relative points are within 0 and 1; for pixels write units: pixels")
        if math.dist(self.from_, self.to) < 1e-6:
            raise ValueError("begins and ends at the same point")
        if self.units == "pixels" and inside:
            raise ValueError("is not longer than a pixel; for parts of the picture write units: relative")
        return self
