"""The web side of the service, as an ASGI application."""

from __future__ import annotations

from fastapi import FastAPI

from vision_infer import __version__
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.service import (
    openapi,
    problem,
    routes_about,
    routes_cost,
    routes_events,
    routes_flight,
    routes_infer,
    routes_page,
    routes_preview,
    routes_probe,
    routes_results,
    routes_session,
    routes_sinks,
    routes_streams,
)
from vision_infer.service.auth import Tokens
from vision_infer.service.backend import Backend
from vision_infer.service.context import Context
from vision_infer.service.guard import Guard, make_doors
from vision_infer.service.metrics import make_registry

OPENAPI_PATH = "/api/v1/openapi.json"
ROUTES = (
    routes_streams,
    routes_events,
    routes_flight,
    routes_preview,
    routes_probe,
    routes_results,
    routes_infer,
    routes_session,
    routes_about,
    routes_cost,
    routes_sinks,
    routes_page,
)


def make_app(backend: Backend, tokens: Tokens, clock: Clock = SYSTEM_CLOCK) -> FastAPI:
    """The application.

    Args:
        backend: what stands behind it.
        tokens: who may do what, from :func:`vision_infer.service.auth.tokens_for`.
    """
    app = FastAPI(
        title="vision-infer",
        version=__version__,
        openapi_url=OPENAPI_PATH,
        docs_url=None,  # its pages would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    doors = make_doors(backend.settings.service, tokens, clock)
    app.state.context = Context(backend, doors, clock)
    app.state.registry = make_registry(backend, clock)
    for routes in ROUTES:
        app.include_router(routes.router)
    problem.install(app)
    openapi.install(app)
    app.add_middleware(Guard, doors=doors)
    return app
