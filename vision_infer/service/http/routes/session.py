"""A browser exchanges its token for a cookie that no script can read."""

from __future__ import annotations

import json

from fastapi import APIRouter, Request, Response

from vision_infer.service.http.api_models import SessionAnswer
from vision_infer.service.http.auth import Role
from vision_infer.service.http.context import Shared
from vision_infer.service.http.guard import SESSION_COOKIE, bearer_of, session_of, unauthorized
from vision_infer.service.http.openapi import problems

router = APIRouter(prefix="/api/v1", tags=["session"])

_BODY = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": {"token": {"type": "string", "maxLength": 1024}}},
            }
        },
    }
}


@router.post("/session", openapi_extra=_BODY, responses=problems(403, 413))
async def open_session(request: Request, response: Response, context: Shared) -> SessionAnswer:
    """Log in with the token, in the header `Authorization` or as `{"token": …}`: the answer sets the session's cookie."""
    doors = context.doors
    if not doors.tokens.needed:
        return SessionAnswer(role="admin", expires_s=None)
    token = bearer_of(request.headers)
    role: Role
    if token is not None:
        role = request.scope["state"]["role"]  # the guard has looked at it already
    else:
        token = _token_in(await request.body())
        if token is None:
            raise unauthorized('send \'Authorization: Bearer TOKEN\' or {"token": "TOKEN"}')
        role = doors.role_of_token(request.scope, token)
    response.set_cookie(
        SESSION_COOKIE,
        doors.sessions.open(role),
        max_age=doors.sessions.lifetime_s,
        path="/",
        secure=doors.settings.tls is not None or request.headers.get("origin", "").startswith("https:"),  # TLS of a proxy
        httponly=True,
        samesite="strict",
    )
    return SessionAnswer(role=role, expires_s=doors.sessions.lifetime_s)


def _token_in(body: bytes) -> str | None:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        return None
    token = values.get("token") if isinstance(values, dict) else None
    return token if isinstance(token, str) and token else None


@router.get("/session", responses=problems())
async def get_session(request: Request, context: Shared) -> SessionAnswer:
    """The role of whoever asks."""
    doors = context.doors
    return SessionAnswer(
        role=request.scope["state"]["role"], expires_s=doors.sessions.lifetime_s if doors.tokens.needed else None
    )


@router.delete("/session", status_code=204, responses=problems(403))
async def close_session(request: Request, context: Shared) -> Response:
    """Log out."""
    session = session_of(request.headers)
    if session is not None:
        context.doors.sessions.close(session)
        context.backend.preview.leave(request.scope["state"]["principal"])
    response = Response(status_code=204)
    response.delete_cookie(
        SESSION_COOKIE, path="/", secure=context.doors.settings.tls is not None, httponly=True, samesite="strict"
    )
    return response
