"""The OpenAPI 3.1 document of the API."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from vision_infer import __version__
from vision_infer.core.result import RESULT_SCHEMA
from vision_infer.service.http.problem import KINDS, MEDIA_TYPE, PROBLEM_SCHEMA

BINARY = {"type": "string", "format": "binary"}
TEXT = {"type": "string"}
IMAGES = ("/snapshot.jpg", "/video.mjpeg")
"""The ends of the paths of images, which also accept HTTP Basic."""
_ALWAYS = (401, 421, 429)
_TITLES = dict(reversed(list(KINDS.values())))
_PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}

DESCRIPTION = """\
The REST API of vision-infer, which detects objects in live camera streams.

Errors have the form of RFC 9457 (`application/problem+json`). If a token is required, send `Authorization: Bearer TOKEN`;
browsers exchange the token for a cookie at `/api/v1/session`. Results are available over a WebSocket at `/api/v1/results`, or
as server-sent events from the same path.
"""


def request_body(schema: dict[str, Any], *kinds: str, required: bool = True) -> dict[str, Any]:
    """Return the OpenAPI description of a request body that the route reads itself."""
    return {"requestBody": {"required": required, "content": {kind: {"schema": schema} for kind in kinds}}}


def answer_of(description: str, kind: str, schema: dict[str, Any] = BINARY) -> dict[str, Any]:
    """Return the OpenAPI description of a response that the route writes itself."""
    return {"description": description, "content": {kind: {"schema": schema}}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI descriptions of a route's error responses: these, and those of all routes."""
    return {status: {"description": _TITLES[status], "content": _PROBLEM} for status in sorted({*_ALWAYS, *statuses})}


def operation_id(route: APIRoute) -> str:
    """Return the name of an operation in the document and in generated clients: ``list_streams``."""
    return route.name


def _without_patterns(schema: Any) -> None:
    """Describe objects with any names by ``additionalProperties``, because client generators ignore ``patternProperties``."""
    if isinstance(schema, dict):
        if "patternProperties" in schema:
            (pattern, values), *_ = schema.pop("patternProperties").items()
            schema |= {"additionalProperties": values, "propertyNames": {"pattern": pattern}}
        schema = list(schema.values())
    if isinstance(schema, list):
        for one in schema:
            _without_patterns(one)


def install(app: FastAPI) -> None:
    """Make the application serve this document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(
        title="vision-infer", version=__version__, description=DESCRIPTION, routes=app.routes, openapi_version="3.1.0"
    )
    root_path = app.state.context.backend.settings.service.root_path
    if root_path:
        made["servers"] = [{"url": root_path}]
    components = made.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas["Problem"] = PROBLEM_SCHEMA
    schemas["Result"] = {key: value for key, value in RESULT_SCHEMA.items() if key != "$schema"}
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    _without_patterns(schemas)
    components["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer"},
        "password": {"type": "http", "scheme": "basic", "description": "Any user name, and a token as the password."},
        "session": {"type": "apiKey", "in": "cookie", "name": "vision_infer_session"},
    }
    made["security"] = [{"token": []}, {"session": []}, {}]
    for path, operations in made["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            if "422" in responses:
                responses["422"] = {"description": _TITLES[422], "content": _PROBLEM}
            if path == "/healthz":
                operation["security"] = []
            if path.endswith(IMAGES):
                operation["security"] = [{"token": []}, {"password": []}, {"session": []}, {}]
            if "requestBody" in operation:
                for status in (400, 408, 413):
                    responses.setdefault(str(status), {"description": _TITLES[status], "content": _PROBLEM})
            responses.setdefault("default", {"description": "An error.", "content": _PROBLEM})
    return made
