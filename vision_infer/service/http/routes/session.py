"""Browser sessions: a browser exchanges its token for a cookie that scripts cannot read."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request, Response

from vision_infer.service.http.api_models import SessionAnswer
from vision_infer.service.http.auth import Role
from vision_infer.service.http.context import Shared
from vision_infer.service.http.openapi import problems, request_body
from vision_infer.service.http.problem import Problem
from vision_infer.service.http.security import SESSION_COOKIE, bearer_of, session_of, unauthorized

router = APIRouter(prefix="/api/v1", tags=["session"])

_BODY = {"type": "object", "properties": {"token": {"type": "string", "maxLength": 1024}}}


@router.post("/session", openapi_extra=request_body(_BODY, "application/json", required=False), responses=problems(403, 413, 422))
async def open_session(request: Request, response: Response, context: Shared) -> SessionAnswer:
    """Log in with the token in the `Authorization` header or as `{"token": …}`. The response sets the session cookie."""
    security = context.security
    body = await request.body()
    if not security.tokens.needed:
        if body and _values_in(body) is None:
            raise Problem("invalid", 'the body must be an object: {"token": "TOKEN"}')
        return SessionAnswer(role="admin", expires_s=None)
    token = bearer_of(request.headers)
    role: Role
    if token is not None:
        role = request.scope["state"]["role"]  # the middleware has checked the token
    else:
        token = (_values_in(body) or {}).get("token")
        if not isinstance(token, str) or not token:
            raise unauthorized('send \'Authorization: Bearer TOKEN\' or {"token": "TOKEN"}')
        role = security.role_of_token(request.scope, token)
    response.set_cookie(
        SESSION_COOKIE,
        security.sessions.open(role, token),
        max_age=security.sessions.lifetime_s,
        path=f"{security.settings.root_path}/",
        secure=security.settings.tls is not None or request.headers.get("origin", "").startswith("https:"),  # TLS ends at a proxy
        httponly=True,
        samesite="strict",
    )
    return SessionAnswer(role=role, expires_s=security.sessions.lifetime_s)


def _values_in(body: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


@router.get("/session", responses=problems())
async def get_session(request: Request, context: Shared) -> SessionAnswer:
    """Return the role of the client."""
    security = context.security
    return SessionAnswer(
        role=request.scope["state"]["role"], expires_s=security.sessions.lifetime_s if security.tokens.needed else None
    )


@router.delete("/session", status_code=204, responses=problems(403))
async def close_session(request: Request, context: Shared) -> Response:
    """Log out."""
    session = session_of(request.headers)
    if session is not None:
        context.security.sessions.close(session)
        context.backend.preview.leave(request.scope["state"]["principal"])
    response = Response(status_code=204)
    settings = context.security.settings
    path = f"{settings.root_path}/"
    response.delete_cookie(SESSION_COOKIE, path=path, secure=settings.tls is not None, httponly=True, samesite="strict")
    return response
