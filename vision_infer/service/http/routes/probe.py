"""What a URL sends, before a stream is made of it."""

from __future__ import annotations

import threading
from functools import partial

from anyio import to_thread
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from vision_infer.config.serve import StreamSettings
from vision_infer.core.errors import StreamError
from vision_infer.service.backend import StreamView, UnknownStreamError
from vision_infer.service.http.api_models import ImageSize
from vision_infer.service.http.context import Shared
from vision_infer.service.http.openapi import problems
from vision_infer.service.http.problem import Problem
from vision_infer.service.streams.public import from_api
from vision_infer.service.streams.stream_command import live_source
from vision_infer.stream.discovery.probe import Probe, probe
from vision_infer.stream.redact import redact

router = APIRouter(prefix="/api/v1", tags=["streams"])

LIMIT_S = 10.0
"""for opening and looking, together"""
WATCH_S = 1.5
"""whoever asks waits for the answer"""


class ProbeRequest(BaseModel):
    """Which URL, and how it is read. They mean the same as in a stream's settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str = Field(min_length=1, max_length=4096, description="as `detect` of a stream", repr=False)
    transport: str = Field(default="tcp", pattern="^(tcp|udp)$", description="of RTSP: tcp or udp")
    stream: str | None = Field(
        default=None, max_length=64, description="name of a stream whose URL it may be, with *** for the password"
    )


class ProbeAnswer(BaseModel):
    """What it sends."""

    model_config = ConfigDict(frozen=True)

    works: bool
    reason: str = Field(description="why it does not work, and what to do; empty where it does")
    codec: str | None = None
    profile: str | None = Field(default=None, description="of the codec")
    size: ImageSize | None = None
    frame_rate: float | None = Field(default=None, description="frames a second, counted while it was watched")
    bit_rate: float | None = Field(default=None, description="bits a second")
    opened_ms: float | None = Field(default=None, description="until the server had answered")
    first_frame_ms: float | None = Field(default=None, description="until the first picture was there, opening included")
    key_interval_s: float | None = Field(default=None, description="between two key frames")
    b_frames: bool | None = Field(default=None, description="pictures come in another order than they are shown")
    untouched: bool | None = Field(default=None, description="browsers play its packets as they are: viewers cost no encoding")
    untouched_reason: str = Field(default="", description="why not")


@router.post("/probe", responses=problems(403, 415, 422, 503))
async def probe_url(wanted: ProbeRequest, context: Shared) -> ProbeAnswer:
    """Open a URL, look at it for a second or two, and say what it sends. Nothing is kept.

    A URL is taken where one of a stream would be: see `service.allow_schemes` and `service.allow_networks`.
    """
    settings = _checked(wanted, context)
    networks = context.backend.settings.service.allow_networks
    live = live_source("probe", settings.detect, settings, networks).live
    stopping = threading.Event()
    look = partial(probe, settings.detect, live, watch_s=WATCH_S, limit_s=LIMIT_S, stopping=stopping)
    gate = context.probes
    async with gate.place():
        try:
            found = await to_thread.run_sync(look, limiter=gate.threads, abandon_on_cancel=True)
        except StreamError as error:
            return ProbeAnswer(works=False, reason=redact(str(error)))
        finally:
            stopping.set()  # nobody waits for it any more
    return _answer(found, context.backend.settings.preview.max_height)


def _checked(wanted: ProbeRequest, context: Shared) -> StreamSettings:
    """The settings of a stream that had this URL.

    Raises:
        SettingsError: the URL would not be taken for a stream.
    """
    service = context.backend.settings.service
    data = {"detect": wanted.url, "transport": wanted.transport}
    before: StreamView | None = None
    if wanted.stream is not None:
        try:
            before = context.backend.stream(wanted.stream)
        except UnknownStreamError:
            raise Problem("invalid", f"there is no stream {wanted.stream!r}") from None
        if before.origin == "file":  # its URL may lead where the API may not
            raise Problem("invalid", "the stream belongs to the file of settings; write the URL with its password")
    return from_api(data, None if before is None else before.settings, service)


def _answer(found: Probe, max_height: int) -> ProbeAnswer:
    why = found.not_untouched
    if not why and found.size.height > max_height:
        why = f"{found.size.height} lines are more than preview.max_height"
    return ProbeAnswer(
        works=True,
        reason="",
        codec=found.codec,
        profile=found.profile or None,
        size=ImageSize(width=found.size.width, height=found.size.height),
        frame_rate=found.frame_rate,
        bit_rate=found.bit_rate,
        opened_ms=round(found.opened_ms, 1),
        first_frame_ms=round(found.first_frame_ms, 1),
        key_interval_s=found.key_interval_s,
        b_frames=found.b_frames,
        untouched=not why,
        untouched_reason=why,
    )
