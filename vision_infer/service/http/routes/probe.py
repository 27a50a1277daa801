"""Inspection of a URL before a stream is created from it."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from typing import Literal

from anyio import to_thread
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from vision_infer.config.serve import StreamSettings
from vision_infer.core.errors import StreamError
from vision_infer.service.errors import UnknownStreamError
from vision_infer.service.http.api_models import ApiModel, ImageSize, shared_fields
from vision_infer.service.http.context import Shared
from vision_infer.service.http.openapi import problems
from vision_infer.service.http.problem import Problem
from vision_infer.service.streams.api_settings import from_api
from vision_infer.service.streams.stream_command import live_source
from vision_infer.service.views import StreamView
from vision_infer.stream.discovery.probe import Probe, probe
from vision_infer.stream.redact import redact

router = APIRouter(prefix="/api/v1", tags=["streams"])

LIMIT_S = 10.0
"""The time limit for opening and watching together, in seconds."""
WATCH_S = 1.5
"""The time to watch the stream, in seconds. It is short because the client waits for the response."""


class ProbeRequest(BaseModel):
    """The URL and the options to read it, as in a stream's settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str = Field(min_length=1, max_length=4096, description="The URL, as in the `detect` setting of a stream.", repr=False)
    transport: str = Field(default="tcp", pattern="^(tcp|udp)$", description="The RTSP transport: `tcp` or `udp`.")
    stream: str | None = Field(
        default=None,
        max_length=64,
        description="The name of an existing stream. If `url` is its URL with *** for the password, the stored password is used.",
    )


class ProbeAnswer(ApiModel):
    """The properties of the video behind the URL."""

    works: bool
    reason: str = Field(description="The reason for a failure and what to do; empty if the URL works.")
    codec: str | None = None
    profile: str | None = Field(default=None, description="The codec profile.")
    ingest: Literal["rtp", "ffmpeg"] | None = Field(default=None, description="What reads it, as in the status of a stream.")
    ingest_reason: str = Field(default="", description="Why FFmpeg reads an RTSP camera although `ingest` is `auto`; else empty.")
    size: ImageSize | None = None
    frame_rate: float | None = Field(default=None, description="The measured frame rate, frames per second.")
    bit_rate: float | None = Field(default=None, description="The bit rate, bits per second.")
    opened_ms: float | None = Field(default=None, description="The time until the server responded.")
    first_frame_ms: float | None = Field(
        default=None, description="The time until the first frame was decoded, including opening."
    )
    key_interval_s: float | None = Field(default=None, description="The time between two key frames.")
    b_frames: bool | None = Field(default=None, description="Whether the video contains B-frames.")
    untouched: bool | None = Field(
        default=None, description="Whether at least some browsers can play the packets unmodified; see `players`."
    )
    players: str = Field(
        default="", description="The browsers that get the packets unmodified; for others, the preview encodes the video."
    )
    untouched_reason: str = Field(default="", description="The reason if the preview encodes the video for all browsers.")


@router.post("/probe", responses=problems(403, 415, 422, 503))
async def probe_url(wanted: ProbeRequest, context: Shared) -> ProbeAnswer:
    """Open a URL, watch it for one to two seconds, and report its properties. Nothing is stored.

    The same restrictions apply as for streams: see `service.allow_schemes` and `service.allow_networks`.
    """
    settings = _checked(wanted, context)
    service = context.backend.settings
    live = live_source("probe", settings.detect, settings, service.service.allow_networks).live
    live = replace(live, credentials=service.credentials)
    stopping, height = threading.Event(), service.preview.max_height
    look = partial(probe, settings.detect, live, watch_s=WATCH_S, limit_s=LIMIT_S, stopping=stopping, max_height=height)
    limiter = context.probes
    async with limiter.slot():
        try:
            found = await to_thread.run_sync(look, limiter=limiter.threads, abandon_on_cancel=True)
        except StreamError as error:
            return ProbeAnswer(works=False, reason=redact(str(error)))
        finally:
            stopping.set()  # the client is no longer waiting
    return _answer(found)


def _checked(wanted: ProbeRequest, context: Shared) -> StreamSettings:
    """Return the settings of a stream with this URL.

    Raises:
        SettingsError: A stream would not accept the URL.
    """
    service = context.backend.settings.service
    data = {"detect": wanted.url, "transport": wanted.transport}
    before: StreamView | None = None
    if wanted.stream is not None:
        try:
            before = context.backend.stream(wanted.stream)
        except UnknownStreamError:
            raise Problem("invalid", f"stream {wanted.stream!r} does not exist") from None
        if before.origin == "file":  # the configuration file may use networks that the API may not
            raise Problem("invalid", "the stream is defined in the configuration file; write the URL with its password")
    return from_api(data, None if before is None else before.settings, service)


def _answer(found: Probe) -> ProbeAnswer:
    return ProbeAnswer.model_validate(
        shared_fields(ProbeAnswer, found)
        | {
            "works": True,
            "reason": "",
            "profile": found.profile or None,
            "size": ImageSize(width=found.size.width, height=found.size.height),
            "opened_ms": round(found.opened_ms, 1),
            "first_frame_ms": round(found.first_frame_ms, 1),
            "untouched": bool(found.passthrough_players),
            "players": found.passthrough_players,
            "untouched_reason": found.passthrough_problem,
        }
    )
