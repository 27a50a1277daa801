"""What every request passes before a route sees it: name of the host, rate, token or session, role, origin, size.

It answers in this order, so that who has no token learns nothing but that: 421, 429, 401, 403, 413.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import re
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.utils import ClientDisconnected

from vision_infer.config.serve import ServiceSettings
from vision_infer.core.clock import Clock
from vision_infer.service.http.auth import Role, Sessions, Tokens, is_loopback
from vision_infer.service.http.limits import TokenBuckets, address_of, limited
from vision_infer.service.http.problem import Problem
from vision_infer.service.http.routes.page import is_page
from vision_infer.service.http.token_file import digest_of
from vision_infer.stream.redact import redact

SESSION_COOKIE = "vision_infer_session"
OPEN_PATHS = ("/healthz",)
"""need no token, no name of a host, and are not counted"""
SESSION_PATH = "/api/v1/session"
INFER_PATH = "/api/v1/infer"
MAX_JSON_BYTES = 1_000_000
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_VIEWER_PATHS = (INFER_PATH, SESSION_PATH)
"""may be posted to by the role view: they change nothing"""
_WATCHED = re.compile(r"/api/v1/streams/[^/]+/whep(/[^/]+)?")
"""the same of these: a viewer's own session"""
_FAILURES_BURST = 10
_FAILURES_PER_S = 0.2
_PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-real-ip")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""of every answer that does not set them itself"""

logger = logging.getLogger("vision_infer.http")


@dataclass(frozen=True, slots=True)
class SecurityContext:
    """What the guard asks, shared with the routes of a session."""

    settings: ServiceSettings
    tokens: Tokens
    sessions: Sessions
    clock: Clock
    requests: TokenBuckets
    """of each client address"""
    failures: TokenBuckets
    """wrong tokens of each client address"""

    def role_of_token(self, scope: Scope, token: str) -> Role:
        """The role of a token that was shown.

        Raises:
            Problem: 401, it is wrong; 429, this address has shown too many wrong ones.
        """
        address = address_of(scope)
        wait_s = self.failures.wait_s(address)
        if wait_s:
            raise _too_many("too many wrong tokens came from this address", wait_s)
        role = self.tokens.role_of(token)
        if role is None:
            self.failures.take(address)
            logger.warning("a wrong token came from %s", address)
            raise unauthorized("the token is wrong")
        return role


def make_doors(settings: ServiceSettings, tokens: Tokens, clock: Clock) -> SecurityContext:
    """What the guard asks, of a service that begins."""
    rate = settings.requests_per_second
    requests = TokenBuckets(rate, 2 * rate, clock)
    return SecurityContext(
        settings, tokens, Sessions(clock), clock, requests, TokenBuckets(_FAILURES_PER_S, _FAILURES_BURST, clock)
    )


def unauthorized(detail: str) -> Problem:
    """401."""
    return Problem("unauthorized", detail, {"WWW-Authenticate": 'Bearer realm="vision-infer"'})


def _too_many(detail: str, wait_s: float) -> Problem:
    return Problem("too-many-requests", detail, {"Retry-After": str(math.ceil(wait_s))})


def bearer_of(headers: Headers) -> str | None:
    """The token in ``Authorization: Bearer …``; None where there is no such header."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def session_of(headers: Headers) -> str | None:
    """The session's cookie; None where there is none."""
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(headers.get("cookie", "")[:8192])
    except CookieError:
        return None
    morsel = cookies.get(SESSION_COOKIE)
    return None if morsel is None else morsel.value


class Guard:
    """The ASGI middleware."""

    def __init__(self, app: ASGIApp, doors: SecurityContext) -> None:
        self._app = app
        self._doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        started = self._doors.clock.monotonic_ns()
        status = 0

        async def send_dressed(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        try:
            receive = self._admit(scope, receive)
            await self._app(scope, receive, send_dressed)
        except Problem as problem:
            if status:
                raise
            await problem.response()(scope, receive, send_dressed)
        except ClientDisconnected:
            raise  # the server's own way to end what is in vain
        except ClientDisconnect:
            pass  # it left before its body was here: there is nobody to answer
        except Exception as error:  # whatever a route did not expect: the client is told nothing of it
            logger.error(
                "%s %s: %s: %s", scope.get("method", "WEBSOCKET"), _path(scope), type(error).__name__, redact(str(error))
            )
            logger.debug("of this request", exc_info=True)
            if not status:
                await Problem("internal", "the log says more").response()(scope, receive, send_dressed)
        finally:
            spent_ms = (self._doors.clock.monotonic_ns() - started) / 1e6
            logger.debug("%s %s %d %.1f ms", scope.get("method", "WEBSOCKET"), _path(scope), status, spent_ms)

    def _admit(self, scope: Scope, receive: Receive) -> Receive:
        """Let a request in, with its role and who it is under ``scope["state"]``; returns how its body is read."""
        doors = self._doors
        path = scope["path"]
        method = scope.get("method", "GET")
        if path not in OPEN_PATHS:
            headers = Headers(scope=scope)
            _check_host(scope, headers, doors.settings)
            wait_s = doors.requests.take(address_of(scope))
            if wait_s:
                raise _too_many(f"more than {doors.settings.requests_per_second:g} requests a second", wait_s)
            if not (is_page(path) and method in _SAFE_METHODS and scope["type"] == "http"):
                self._check_rights(scope, headers, method, path)
        if scope["type"] == "websocket":
            return receive
        most = int(doors.settings.max_upload_mb * 1e6) if path == INFER_PATH else MAX_JSON_BYTES
        return limited(scope, receive, most)

    def _check_rights(self, scope: Scope, headers: Headers, method: str, path: str) -> None:
        doors = self._doors
        safe = method in _SAFE_METHODS and scope["type"] == "http"
        role: Role | None = "admin"
        by_token = False
        principal = ""
        if not doors.tokens.needed and any(name in headers for name in _PROXY_HEADERS):
            raise Problem("behind-proxy", "set service.token: who comes through a proxy is not on this machine")
        if doors.tokens.needed:
            token = bearer_of(headers)
            by_token = token is not None
            if token is not None:
                role = doors.role_of_token(scope, token)
                principal = f"token {digest_of(token).hex()}"
            else:
                session = session_of(headers)
                role = None if session is None else doors.sessions.role_of(session)
                principal = "" if session is None else f"session {digest_of(session).hex()}"
            if role is None and (method, path) != ("POST", SESSION_PATH):
                raise unauthorized("send 'Authorization: Bearer TOKEN'")
        if not by_token:
            # A browser adds a cookie, or reaches a service on its own machine, whichever site asks it to.
            _check_site(headers, safe)
            if not safe:
                _check_origin(headers, needed=doors.tokens.needed and role is not None)
        own = path in _VIEWER_PATHS or _WATCHED.fullmatch(path) is not None
        if role == "view" and not safe and scope["type"] == "http" and not own:
            raise Problem("forbidden", "this needs the token of the role admin")
        scope.setdefault("state", {}).update(role=role, principal=principal)


def _path(scope: Scope) -> str:
    return redact(str(scope["path"]))[:200]


def _check_host(scope: Scope, headers: Headers, settings: ServiceSettings) -> None:
    """A site whose name leads to us (DNS rebinding) must not get through a browser what the browser's user may see."""
    hosts = headers.getlist("host")
    name = _name_of(hosts[0]) if len(hosts) == 1 else None
    if name is not None:
        allowed = {_plain(host) for host in (settings.host, *settings.allow_hosts)}
        server = scope.get("server")
        if server is not None:
            allowed.add(_plain(str(server[0])))
        if name in allowed or is_loopback(name) or (_is_address(name) and not is_loopback(settings.host)):
            return
    raise Problem("wrong-host", "add the name to service.allow_hosts if it is right")


def _plain(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


def _name_of(netloc: str) -> str | None:
    """The name or address of ``host:port``; None where it is none."""
    try:
        parts = urlsplit(f"//{netloc}")
        _ = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.netloc != netloc or "@" in netloc or parts.path:
        return None
    return _plain(parts.hostname)


def _is_address(name: str) -> bool:
    # An address cannot be made to lead elsewhere, as a name can.
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _check_site(headers: Headers, safe: bool) -> None:
    # Following a link from another site is no harm. To fetch from it is: who cannot read the answer can still use up readers.
    followed = safe and headers.get("sec-fetch-mode") == "navigate"
    if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not followed:
        raise Problem("wrong-origin", "requests of other sites are not taken")


def _check_origin(headers: Headers, needed: bool) -> None:
    origin = headers.get("origin")
    if origin is None:
        if needed:
            raise Problem("wrong-origin", "with a session's cookie, a browser's header Origin is needed")
        return
    try:
        parts = urlsplit(origin)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        own = urlsplit(f"{parts.scheme}://{headers.get('host', '')}")
        own_port = own.port or {"http": 80, "https": 443}.get(own.scheme)
    except ValueError:
        raise Problem("wrong-origin", "the header Origin is wrong") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or (parts.hostname, port) != (own.hostname, own_port):
        raise Problem("wrong-origin", "requests of other sites are not taken")
