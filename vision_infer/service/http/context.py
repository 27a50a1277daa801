"""The state that all routes share."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Annotated, cast

from fastapi import Depends, Path
from pydantic import AwareDatetime, BeforeValidator
from starlette.requests import HTTPConnection

from vision_infer.config.zones import STREAM_NAME
from vision_infer.core.clock import Clock
from vision_infer.service.backend import Backend
from vision_infer.service.http.access.identify import SecurityContext
from vision_infer.service.http.access.principal import Principal
from vision_infer.service.http.access.visible import VisibleBackend
from vision_infer.service.http.limits import BodyMemory, RequestLimiter
from vision_infer.service.results.live_images import LiveImages


@dataclass(frozen=True, slots=True)
class Context:
    """The shared state of one application."""

    backend: Backend
    security: SecurityContext
    clock: Clock
    images: LiveImages
    """The images for viewers without WebRTC."""
    bodies: BodyMemory
    """The memory for uploaded images."""
    snapshots: RequestLimiter = field(default_factory=lambda: RequestLimiter(8, 32))
    """The limit of concurrent snapshots: a camera without frames delays other snapshots, but not the rest of the API."""
    uploads: RequestLimiter = field(default_factory=lambda: RequestLimiter(4, 32))
    """The limit of uploaded images that are decoded and inferred."""
    tensors: RequestLimiter = field(default_factory=lambda: RequestLimiter(32, 8))
    """The limit of requests of the Open Inference Protocol: as many as fill batches."""
    probes: RequestLimiter = field(default_factory=lambda: RequestLimiter(2, 8))
    """The limit of URLs that are probed concurrently."""
    logins: RequestLimiter = field(default_factory=lambda: RequestLimiter(8, 32))
    """The limit of logins that wait for the provider."""
    searches: RequestLimiter = field(default_factory=lambda: RequestLimiter(1, 4))
    """The limit of searches for cameras: one sends messages to the network at a time."""
    inspections: RequestLimiter = field(default_factory=lambda: RequestLimiter(4, 12))
    """The limit of cameras that are asked for their streams concurrently."""


def context_of(connection: HTTPConnection) -> Context:
    """Return the context of the application that serves the connection, with the streams that its client sees."""
    context = connection.app.state.context
    assert isinstance(context, Context)
    principal = connection.scope.get("state", {}).get("principal")
    if isinstance(principal, Principal) and principal.cameras is not None:
        return replace(context, backend=cast(Backend, VisibleBackend(context.backend, principal)))
    return context


def principal_of(connection: HTTPConnection) -> Principal:
    """Return the client of a connection."""
    principal = connection.scope["state"]["principal"]
    assert isinstance(principal, Principal)
    return principal


Shared = Annotated[Context, Depends(context_of)]
Client = Annotated[Principal, Depends(principal_of)]


def _with_date(value: object) -> object:
    if not re.match(r"\d{4}-\d\d-\d\d", str(value)):  # pydantic reads numbers as seconds since 1970
        raise ValueError("must be a time with its time zone, such as 2026-11-24T18:00:00Z")
    return value


Time = Annotated[AwareDatetime, BeforeValidator(_with_date)]
"""A time in a query."""
StreamName = Annotated[str, Path(pattern=STREAM_NAME, description="The name of the stream.")]
