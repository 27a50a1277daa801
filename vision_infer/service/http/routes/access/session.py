"""Browser sessions: a browser exchanges its token for a cookie that scripts cannot read."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request, Response

from vision_infer.service.http.access.identify import SESSION_COOKIE, SecurityContext, bearer_of, session_of, unauthorized
from vision_infer.service.http.access.principal import Principal
from vision_infer.service.http.api_models import SessionAnswer
from vision_infer.service.http.context import Client, Shared
from vision_infer.service.http.openapi import problems, request_body
from vision_infer.service.http.problem import Problem

router = APIRouter(prefix="/api/v1", tags=["session"])

_BODY = {"type": "object", "properties": {"token": {"type": "string", "maxLength": 1024}}}


@router.post("/session", openapi_extra=request_body(_BODY, "application/json", required=False), responses=problems(403, 413, 422))
async def open_session(request: Request, response: Response, context: Shared) -> SessionAnswer:
    """Log in with the token in the `Authorization` header or as `{"token": …}`. The response sets the session cookie."""
    security = context.security
    state = request.scope["state"]
    body = await request.body()
    if not security.tokens.needed:
        if body and _values_in(body) is None:
            raise Problem("invalid", 'the body must be an object: {"token": "TOKEN"}')
        return _answer(state["principal"], security)
    token = bearer_of(request.headers)
    if token is None:
        token = (_values_in(body) or {}).get("token")
        if not isinstance(token, str) or not token:
            raise unauthorized('send \'Authorization: Bearer TOKEN\' or {"token": "TOKEN"}')
        state["principal"] = await security.principal_of(request.scope, token)
    principal = state["principal"]  # of the Authorization header, which the middleware has checked
    secure = security.settings.tls is not None or request.headers.get("origin", "").startswith("https:")  # TLS ends at a proxy
    log_in(response, security, principal, token, secure)
    state["event"] = "login"
    return _answer(principal, security)


def log_in(response: Response, security: SecurityContext, principal: Principal, owner: str, secure: bool) -> None:
    """Open a session and set its cookie.

    Args:
        response: The response that sets the cookie.
        security: The state of the checks.
        principal: Who has logged in.
        owner: The token, or the unique name of the person.
        secure: Whether the browser sends the cookie over HTTPS only.
    """
    response.set_cookie(
        SESSION_COOKIE,
        security.sessions.open(principal, owner),
        max_age=security.sessions.lifetime_s,
        path=f"{security.settings.root_path}/",
        secure=secure,
        httponly=True,
        samesite="strict",
    )


def _answer(principal: Principal, security: SecurityContext) -> SessionAnswer:
    expires_s = security.sessions.lifetime_s if security.tokens.needed else None
    cameras = None if principal.cameras is None else sorted(principal.cameras)
    return SessionAnswer(
        role=principal.level,
        user=principal.name,
        role_name=principal.role,
        cameras=cameras,
        login=security.login_path,
        expires_s=expires_s,
    )


def _values_in(body: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


@router.get("/session", responses=problems())
async def get_session(client: Client, context: Shared) -> SessionAnswer:
    """Return the client and its rights."""
    return _answer(client, context.security)


@router.delete("/session", status_code=204, responses=problems(403))
async def close_session(request: Request, client: Client, context: Shared) -> Response:
    """Log out; this ends the connections of the session."""
    session = session_of(request.headers)
    if session is not None:
        # A token in the same request stays valid. Only the process in front of workers knows sessions; it sends their key.
        key = context.security.sessions.close(session) or ("" if bearer_of(request.headers) else client.key)
        if key:
            await context.security.end(key)
        request.scope["state"]["event"] = "logout"
    response = Response(status_code=204)
    settings = context.security.settings
    path = f"{settings.root_path}/"
    response.delete_cookie(SESSION_COOKIE, path=path, secure=settings.tls is not None, httponly=True, samesite="strict")
    return response
