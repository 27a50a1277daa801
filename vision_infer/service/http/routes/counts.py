"""Counts: how many objects crossed lines, entered and left zones, in total and for each interval."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field

from vision_infer.analyze.history import Counts
from vision_infer.analyze.zones import Zones
from vision_infer.core.result import utc
from vision_infer.service.http.api_models import ApiModel, Crossings
from vision_infer.service.http.context import Shared, StreamName
from vision_infer.service.http.openapi import problems
from vision_infer.service.http.problem import Problem

router = APIRouter(prefix="/api/v1", tags=["streams"])


class PlaceCounts(ApiModel):
    """The counts of a line or a zone in one interval."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    in_: int = Field(alias="in", description="Crossings of the line in this direction, or objects that entered the zone.")
    out: int = Field(description="Crossings of the line in this direction, or objects that left the zone.")
    labels: dict[str, Crossings] = Field(description="The same by label.")


class IntervalCounts(ApiModel):
    """The counts of one interval."""

    start: str = Field(description="The start of the interval (UTC).")
    places: dict[str, PlaceCounts] = Field(description="The counts by line or zone; only those with events.")


class CountsAnswer(ApiModel):
    """The counts of a stream."""

    lines: dict[str, Crossings] = Field(description="The crossings of each line since the stream started or the last reset.")
    zones: dict[str, int] = Field(description="The current number of objects in each zone.")
    interval_s: int = Field(description="The duration of an interval, seconds.")
    intervals: list[IntervalCounts] = Field(
        description="The intervals since the stream started, oldest first, also those without events. The last one is not over."
    )


@router.get("/streams/{name}/counts", responses=problems(404, 422, 503))
def get_counts(
    name: StreamName,
    context: Shared,
    interval_s: Annotated[
        int, Query(ge=60, le=86_400, description="The duration of an interval, seconds: a multiple of 60.")
    ] = 3600,
    limit: Annotated[int, Query(ge=1, le=1440, description="The maximum number of intervals, the last ones.")] = 24,
) -> CountsAnswer:
    """Return the counts of a stream's lines and zones, in total and for each interval.

    Intervals begin at multiples of their duration (UTC). The service keeps the counts of a week in memory; changing the stream's
    zones or lines, or restarting the service, clears them.
    """
    if interval_s % 60:
        raise Problem("invalid", f"interval_s must be a multiple of 60, got {interval_s}")
    return _answer(context.backend.zones(name), interval_s, limit)


@router.post("/streams/{name}/counts/reset", responses=problems(403, 404, 503))
def reset_counts(name: StreamName, context: Shared) -> CountsAnswer:
    """Set the crossings of all lines of a stream to zero. The history and the zones' occupancy stay."""
    zones = context.backend.zones(name)
    if zones is not None:
        zones.reset_counts()
    return _answer(zones, 3600, 24)


def _answer(zones: Zones | None, interval_s: int, limit: int) -> CountsAnswer:
    if zones is None:
        return CountsAnswer(lines={}, zones={}, interval_s=interval_s, intervals=[])
    return CountsAnswer(
        lines={name: Crossings(in_=went_in, out=went_out) for name, (went_in, went_out) in zones.counts().items()},
        zones=dict(zones.occupancy()),
        interval_s=interval_s,
        intervals=[
            IntervalCounts(start=utc(round(start_s * 1e9)), places=_places(counts))
            for start_s, counts in zones.history.intervals(interval_s // 60, limit)
        ],
    )


def _places(counts: Counts) -> dict[str, PlaceCounts]:
    places: dict[str, dict[str, Crossings]] = {}
    for (place, label), (went_in, went_out) in counts.items():
        places.setdefault(place, {})[label] = Crossings(in_=went_in, out=went_out)
    return {
        place: PlaceCounts(
            in_=sum(one.in_ for one in labels.values()), out=sum(one.out for one in labels.values()), labels=labels
        )
        for place, labels in places.items()
    }
