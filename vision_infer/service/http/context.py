"""What the routes share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Path
from starlette.requests import HTTPConnection

from vision_infer.config.serve import STREAM_NAME
from vision_infer.core.clock import Clock
from vision_infer.service.backend import Backend
from vision_infer.service.http.guard import SecurityContext
from vision_infer.service.http.limits import Gate


@dataclass(frozen=True, slots=True)
class Context:
    """Of one app."""

    backend: Backend
    doors: SecurityContext
    clock: Clock
    snapshots: Gate = field(default_factory=lambda: Gate(8, 32))
    """a camera that gives nothing holds up other snapshots at most, not the API"""
    uploads: Gate = field(default_factory=lambda: Gate(4, 32))
    """so many pictures are in memory at the same time"""
    probes: Gate = field(default_factory=lambda: Gate(2, 8))
    """so many URLs are tried at the same time"""


def context_of(connection: HTTPConnection) -> Context:
    """The context of the app that answers."""
    context = connection.app.state.context
    assert isinstance(context, Context)
    return context


Shared = Annotated[Context, Depends(context_of)]
StreamName = Annotated[str, Path(pattern=STREAM_NAME, description="name of the stream")]
