"""Error responses in the form of RFC 9457 (``application/problem+json``), without secrets and tracebacks."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from vision_infer.config.validation_errors import SettingsError
from vision_infer.core.errors import ModelError, OutputError, UsageError, VisionInferError
from vision_infer.service.errors import ConflictError, UnavailableError, UnknownStreamError
from vision_infer.service.results.hub import TooManyReadersError
from vision_infer.service.results.subscription import HubClosedError
from vision_infer.stream.redact import redact

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:problem-type:vision-infer:"
MAX_PROBLEMS = 20

logger = logging.getLogger("vision_infer.http")

KINDS: Mapping[str, tuple[int, str]] = {
    "bad-request": (400, "The request is malformed"),
    "unauthorized": (401, "Authentication is required"),
    "forbidden": (403, "The role does not allow this request"),
    "login-refused": (403, "The login was refused"),
    "wrong-origin": (403, "Cross-site requests are not allowed"),
    "behind-proxy": (403, "Requests through a proxy require a token"),
    "not-found": (404, "Not found"),
    "unknown-stream": (404, "The stream does not exist"),
    "method-not-allowed": (405, "This method is not allowed"),
    "not-acceptable": (406, "The requested format is not available"),
    "too-slow": (408, "The request took too long to arrive"),
    "conflict": (409, "The request conflicts with the current state"),
    "precondition-failed": (412, "The precondition failed"),
    "too-large": (413, "The request is too large"),
    "unsupported-media-type": (415, "The content type is not supported"),
    "range-not-satisfiable": (416, "The requested range is not available"),
    "wrong-host": (421, "The host name is not allowed"),
    "invalid": (422, "The values are invalid"),
    "precondition-required": (428, "A precondition header is required"),
    "too-many-requests": (429, "Too many requests"),
    "internal": (500, "Internal server error"),
    "not-implemented": (501, "This operation is not supported"),
    "unavailable": (503, "Temporarily unavailable"),
    "deadline": (504, "The deadline of the request has passed"),
    "not-stored": (507, "The change could not be stored"),
    "too-many-clients": (503, "Too many clients"),
    "stopping": (503, "The service is stopping"),
}
"""The status code and title of each problem type."""
_BY_STATUS = {status: kind for kind, (status, _) in reversed(list(KINDS.items()))}

PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "An error (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri", "description": f"{TYPE_PREFIX}NAME, one of: {', '.join(KINDS)}"},
        "title": {"type": "string", "description": "The type in words."},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "The details of this error and what to do next."},
        "errors": {
            "type": "array",
            "description": "The invalid values.",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
        "state": {"type": "string", "description": "The state of the stream that delivers no frames."},
        "reason": {"type": "string", "description": "The reason for the state."},
    },
}


class Problem(HTTPException):
    """An error that becomes the response.

    Args:
        kind: The problem type, one of :data:`KINDS`.
        detail: What failed and what to do next; passwords in URLs are hidden.
    """

    def __init__(self, kind: str, detail: str, headers: Mapping[str, str] | None = None, **members: Any) -> None:
        self.kind = kind
        self.members = members
        super().__init__(KINDS[kind][0], redact(detail), None if headers is None else dict(headers))

    def response(self) -> Response:
        """Return the response. It can also reject a WebSocket that is not accepted yet."""
        status, title = KINDS[self.kind]
        document = {"type": TYPE_PREFIX + self.kind, "title": title, "status": status, "detail": self.detail, **self.members}
        return Response(json.dumps(document, ensure_ascii=False), status, self.headers, MEDIA_TYPE)


def problem_of(error: VisionInferError) -> Problem:
    """Return the problem that corresponds to an error of this package."""
    text = str(error)
    if isinstance(error, UnknownStreamError):
        return Problem("unknown-stream", text)
    if isinstance(error, ConflictError):
        return Problem("conflict", text)
    if isinstance(error, UnavailableError):
        members = {"state": error.state, "reason": redact(error.reason)}
        return Problem("unavailable", text, {"Retry-After": "5"}, **{name: value for name, value in members.items() if value})
    if isinstance(error, TooManyReadersError):
        return Problem("too-many-clients", text, {"Retry-After": "10"})
    if isinstance(error, HubClosedError):
        return Problem("stopping", text, {"Retry-After": "10"})
    if isinstance(error, SettingsError):
        wrong = [{"field": one.field, "message": redact(one.message)} for one in error.problems[:MAX_PROBLEMS]]
        return Problem("invalid", text, errors=wrong)
    if isinstance(error, UsageError | ModelError):
        return Problem("invalid", text)
    if isinstance(error, OutputError):
        return Problem("not-stored", text)
    return Problem("internal", text)


def invalid(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """Return pydantic's validation errors as a problem. The input is not shown, because it may contain a password."""
    if any(error["type"] == "json_invalid" for error in errors):
        return Problem("bad-request", "the body is not valid JSON")
    found = [{"field": _field(error["loc"]), "message": redact(_message(error))} for error in errors[:MAX_PROBLEMS]]
    first = found[0] if found else {"field": "", "message": "the values are invalid"}
    detail = f"{first['field']}: {first['message']}" if first["field"] else first["message"]
    return Problem("invalid", detail, errors=found)


def _field(location: Sequence[str | int]) -> str:
    steps = list(location)
    if steps and steps[0] in ("body", "query", "path", "header"):
        steps = steps[1:]
    return redact(".".join(str(step) for step in steps))[:200]


def _message(error: Mapping[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:300]


def install(app: FastAPI) -> None:
    """Register the handlers that turn every error of the routes into a problem."""

    async def handle_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, VisionInferError)
        problem = problem_of(error)
        if problem.status_code in (500, 507):
            logger.error("%s", redact(str(error)))
        return problem.response()

    async def handle_invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return invalid(error.errors()).response()

    async def handle_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = as_problem(error).response()
        if error.status_code == 405:  # the framework lists only the methods of the first route with this path
            response.headers["Allow"] = ", ".join(_methods_of(app, request.scope["path"]))
        return response

    app.add_exception_handler(VisionInferError, handle_error)
    app.add_exception_handler(RequestValidationError, handle_invalid)
    app.add_exception_handler(HTTPException, handle_http)


def _methods_of(app: FastAPI, path: str) -> list[str]:
    paths: dict[str, dict[str, Any]] = app.openapi()["paths"]
    return [
        method.upper()
        for template, operations in paths.items()
        if re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", template), path)
        for method in operations
    ]


def as_problem(error: HTTPException) -> Problem:
    """Return an error of the framework as a problem."""
    if isinstance(error, Problem):
        return error
    kind = _BY_STATUS.get(error.status_code, "bad-request" if error.status_code < 500 else "internal")
    detail = KINDS[kind][1] if error.detail == HTTPStatus(error.status_code).phrase else str(error.detail)
    return Problem(kind, detail, error.headers)
