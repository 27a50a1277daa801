"""The ASGI application of the service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from vision_infer import __version__
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.service.backend import Backend
from vision_infer.service.http import openapi, problem
from vision_infer.service.http.access.access import Access
from vision_infer.service.http.access.identify import SecurityContext
from vision_infer.service.http.auth import Tokens
from vision_infer.service.http.context import Context
from vision_infer.service.http.limits import BodyMemory
from vision_infer.service.http.routes import (
    about,
    cameras,
    cost,
    counts,
    events,
    flight,
    infer,
    inference_protocol,
    makers,
    nodes,
    page,
    preview,
    probe,
    results,
    shadow,
    sinks,
    streams,
    video,
)
from vision_infer.service.http.routes.access import oidc, session
from vision_infer.service.http.routes.access import tokens as api_tokens
from vision_infer.service.http.security import SecurityMiddleware
from vision_infer.service.http.traced_requests import TracedRequests
from vision_infer.service.operations.metrics import make_registry
from vision_infer.service.results.live_images import LiveImages

if TYPE_CHECKING:
    from vision_infer.sink.otlp.telemetry import Telemetry

OPENAPI_PATH = "/api/v1/openapi.json"
UPLOADS_IN_MEMORY = 36
"""The number of uploaded images of the maximum size that are in memory at the same time."""
ROUTES = (
    streams,
    counts,
    events,
    flight,
    preview,
    video,
    probe,
    cameras,
    makers,
    results,
    infer,
    session,
    oidc,
    api_tokens,
    about,
    nodes,
    shadow,
    cost,
    sinks,
    page,
)


def make_app(
    backend: Backend,
    tokens: Tokens,
    clock: Clock = SYSTEM_CLOCK,
    access: Access | None = None,
    telemetry: Telemetry | None = None,
) -> FastAPI:
    """Create the application."""
    app = make_routes(backend, tokens, clock, access, telemetry)
    secure(app)
    return app


def make_routes(
    backend: Backend, tokens: Tokens, clock: Clock, access: Access | None = None, telemetry: Telemetry | None = None
) -> FastAPI:
    """Create the application without its checks of requests; see :func:`secure`."""
    app = FastAPI(
        title="vision-infer",
        version=__version__,
        openapi_url=OPENAPI_PATH,
        docs_url=None,  # its page would load scripts from other hosts; routes.page has one that does not
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        generate_unique_id_function=openapi.operation_id,
    )
    security = SecurityContext(backend.settings.service, tokens, clock, access)

    async def leave(principal: str) -> None:
        backend.preview.leave(principal)

    security.on_end = leave
    images = LiveImages(backend.hub, backend.settings.preview, clock)
    bodies = BodyMemory(UPLOADS_IN_MEMORY * int(backend.settings.service.max_upload_mb * 1e6))
    app.state.context = Context(backend, security, clock, images, bodies)
    app.state.registry = make_registry(backend, clock, dict if telemetry is None else telemetry.counts)
    if telemetry is not None:
        telemetry.collect(app.state.registry.collect)
        app.add_middleware(TracedRequests, telemetry=telemetry)
    if access is not None:
        app.state.registry.register(access.audit)
    for routes in ROUTES:
        app.include_router(routes.router)
    app.state.protocol_paths = ()
    if backend.settings.service.inference_protocol is not None:
        app.include_router(inference_protocol.router)
        app.state.protocol_paths = inference_protocol.PATHS
    problem.install(app)
    openapi.install(app)
    return app


def secure(app: FastAPI) -> None:
    """Add the checks of requests, before the middleware that was added earlier."""
    security = app.state.context.security
    app.add_middleware(SecurityMiddleware, security=security)
    if security.settings.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=security.settings.allow_origins,
            allow_methods=("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"),
            allow_headers=("Authorization", "Content-Type", "If-Match", "If-None-Match", "Last-Event-ID"),
            allow_credentials=True,
            expose_headers=("ETag", "Link", "Location", "Retry-After", "X-Captured-At"),
        )
