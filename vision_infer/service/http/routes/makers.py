"""The paths of RTSP URLs by maker, for the form of a new camera."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from vision_infer.service.http.api_models import ApiModel
from vision_infer.service.http.openapi import problems
from vision_infer.stream.discovery.makers import MAKERS

router = APIRouter(prefix="/api/v1/cameras", tags=["streams"])


class MakerAnswer(ApiModel):
    """The paths of a maker's cameras."""

    name: str
    main: str = Field(description="The path and query of the main stream, for `view`.")
    sub: str = Field(description="The path and query of the second stream, for `detect`; empty if the maker has no fixed one.")


@router.get("/makers", responses=problems(422))
async def list_makers(
    channel: Annotated[int, Query(ge=1, le=999, description="The number of the camera at a recorder.")] = 1,
) -> list[MakerAnswer]:
    """List the RTSP paths of camera makers."""
    return [MakerAnswer(name=maker.name, main=main, sub=sub) for maker in MAKERS for main, sub in [maker.paths(channel)]]
