"""The web application that the pages are generated from: the real routes on the tests' stand-in for the service."""

from __future__ import annotations

from typing import Any

from tests.service.fakes import TOKENS, VIEW, Api, FakeBackend
from vision_infer.sink.delivery.carrier import SinkStatus

SAFE_METHODS = ("get", "head", "options")


def make_api() -> Api:
    """Return a client of the application, on a service in which every optional value is present."""
    backend = FakeBackend()
    backend.put("door", "test://", result_fps=10.0)
    backend.sink_statuses.append(SinkStatus("broker", "mqtt", True, None, 0, 0, 0, None, 0, {}))
    return Api(backend, TOKENS)


def document(api: Api) -> dict[str, Any]:
    """Return the OpenAPI document."""
    openapi: dict[str, Any] = api.app.openapi()
    return openapi


def role_of(api: Api, method: str, path: str, operation: dict[str, Any]) -> str:
    """Return the role that a route needs: what is refused to the token of ``view`` needs ``admin``."""
    if operation.get("security") == []:
        return "none"
    if method in SAFE_METHODS:
        return "view"
    answer = api.ask(method.upper(), path.replace("{name}", "door").replace("{session}", "x"), token=VIEW)
    return "admin" if answer.status_code == 403 else "view"
