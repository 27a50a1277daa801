"""Errors of the web side, all in the form of RFC 9457 (``application/problem+json``), without secrets and tracebacks."""

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
from vision_infer.core.errors import ModelError, UsageError, VisionInferError
from vision_infer.service.backend import ConflictError, UnavailableError, UnknownStreamError
from vision_infer.service.results.hub import HubClosedError, TooManyReadersError
from vision_infer.stream.redact import redact

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:problem-type:vision-infer:"
MAX_PROBLEMS = 20

logger = logging.getLogger("vision_infer.http")

KINDS: Mapping[str, tuple[int, str]] = {
    "bad-request": (400, "The request cannot be understood"),
    "unauthorized": (401, "A token is needed"),
    "forbidden": (403, "This token may look, not change"),
    "wrong-origin": (403, "The request comes from another site"),
    "behind-proxy": (403, "Through a proxy a token is needed"),
    "not-found": (404, "There is nothing here"),
    "unknown-stream": (404, "There is no such stream"),
    "method-not-allowed": (405, "This cannot be done here"),
    "not-acceptable": (406, "It cannot be had in this form"),
    "too-slow": (408, "The request took too long to arrive"),
    "conflict": (409, "It does not go with what is there"),
    "precondition-failed": (412, "It is not what was expected"),
    "too-large": (413, "The request is too large"),
    "unsupported-media-type": (415, "This kind of content is not taken"),
    "wrong-host": (421, "The service is not reached under this name"),
    "invalid": (422, "The values are wrong"),
    "precondition-required": (428, "It has to be told what is expected"),
    "too-many-requests": (429, "Too many requests"),
    "internal": (500, "The service made a mistake"),
    "not-implemented": (501, "This is not done here"),
    "unavailable": (503, "It cannot be had now"),
    "too-many-clients": (503, "Too many clients"),
    "stopping": (503, "The service stops"),
}
"""what may go wrong: status and title"""
_BY_STATUS = {status: kind for kind, (status, _) in reversed(list(KINDS.items()))}

PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "What went wrong (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri", "description": f"{TYPE_PREFIX}NAME, one of: {', '.join(KINDS)}"},
        "title": {"type": "string", "description": "the type in words"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "what went wrong this time, and what to do next"},
        "errors": {
            "type": "array",
            "description": "the values that are wrong",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
        "state": {"type": "string", "description": "the state of the stream that gives nothing now"},
        "reason": {"type": "string", "description": "why it is in this state"},
    },
}


class Problem(HTTPException):
    """Something went wrong; it becomes the answer.

    Args:
        kind: one of :data:`KINDS`.
        detail: what went wrong, and what to do next; passwords of URLs in it are hidden.
        headers: more headers of the answer.
        members: more members of the document.
    """

    def __init__(self, kind: str, detail: str, headers: Mapping[str, str] | None = None, **members: Any) -> None:
        self.kind = kind
        self.members = members
        super().__init__(KINDS[kind][0], redact(detail), None if headers is None else dict(headers))

    def response(self) -> Response:
        """The answer; it can be sent to a WebSocket that is not accepted yet, too."""
        status, title = KINDS[self.kind]
        document = {"type": TYPE_PREFIX + self.kind, "title": title, "status": status, "detail": self.detail, **self.members}
        return Response(json.dumps(document, ensure_ascii=False), status, self.headers, MEDIA_TYPE)


def problem_of(error: VisionInferError) -> Problem:
    """One of our errors as a problem."""
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
        wrong = [{"field": one.field, "message": redact(one.message)} for one in error.mistakes[:MAX_PROBLEMS]]
        return Problem("invalid", text, errors=wrong)
    if isinstance(error, UsageError | ModelError):
        return Problem("invalid", text)
    return Problem("internal", text)


def invalid(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """What pydantic finds wrong, as a problem. What was given is not shown: there may be a password in it."""
    if any(error["type"] == "json_invalid" for error in errors):
        return Problem("bad-request", "the body is no JSON")
    found = [{"field": _field(error["loc"]), "message": redact(_message(error))} for error in errors[:MAX_PROBLEMS]]
    first = found[0] if found else {"field": "", "message": "the values are wrong"}
    detail = f"{first['field']}: {first['message']}" if first["field"] else first["message"]
    return Problem("invalid", detail, errors=found)


def _field(place: Sequence[str | int]) -> str:
    steps = list(place)
    if steps and steps[0] in ("body", "query", "path", "header"):
        steps = steps[1:]
    return redact(".".join(str(step) for step in steps))[:200]


def _message(error: Mapping[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:300]


def install(app: FastAPI) -> None:
    """Let every error of the app's routes become a problem."""

    async def of_ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, VisionInferError)
        problem = problem_of(error)
        if problem.status_code == 500:
            logger.error("%s", redact(str(error)))
        return problem.response()

    async def of_values(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return invalid(error.errors()).response()

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = as_problem(error).response()
        if error.status_code == 405:  # the framework names the methods of one route only, of several with this path
            response.headers["Allow"] = ", ".join(_methods_of(app, request.scope["path"]))
        return response

    app.add_exception_handler(VisionInferError, of_ours)
    app.add_exception_handler(RequestValidationError, of_values)
    app.add_exception_handler(HTTPException, of_http)


def _methods_of(app: FastAPI, path: str) -> list[str]:
    paths: dict[str, dict[str, Any]] = app.openapi()["paths"]
    return [
        method.upper()
        for template, operations in paths.items()
        if re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", template), path)
        for method in operations
    ]


def as_problem(error: HTTPException) -> Problem:
    """The framework's own errors as problems."""
    if isinstance(error, Problem):
        return error
    kind = _BY_STATUS.get(error.status_code, "bad-request" if error.status_code < 500 else "internal")
    detail = KINDS[kind][1] if error.detail == HTTPStatus(error.status_code).phrase else str(error.detail)
    return Problem(kind, detail, error.headers)
