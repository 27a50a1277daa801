"""Checks of every request before it reaches a route: host name, rate, token or session, role, origin, size.

The checks run in this order and fail with 421, 429, 401, 403 or 413, so that a client without a token learns nothing else.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.utils import ClientDisconnected

from vision_infer.config.serve import ServiceSettings
from vision_infer.service.http.access.identify import ConnectionEndedError, SecurityContext, identify, too_many, unauthorized
from vision_infer.service.http.access.principal import INFER_PATH, PROTOCOL_INFER_PATH, SAFE_METHODS, check_rights
from vision_infer.service.http.auth import is_loopback
from vision_infer.service.http.limits import address_of, client_of, limited
from vision_infer.service.http.problem import Problem
from vision_infer.service.http.routes.page import is_page
from vision_infer.stream.redact import redact

OPEN_PATHS = ("/healthz",)
"""The paths that need no token and no valid host name. They take no body and have a separate rate limit."""
PROTOCOL_PATH = "/v2/"
"""The beginning of the paths of the Open Inference Protocol."""
MAX_JSON_BYTES = 1_000_000
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^][:@/?#\s]+)(?::[0-9]{0,5})?")
POLICY_VIOLATION = 1008
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}
"""The default headers of all responses."""

logger = logging.getLogger("vision_infer.http")


class SecurityMiddleware:
    """The ASGI middleware that runs the security checks."""

    def __init__(self, app: ASGIApp, security: SecurityContext) -> None:
        self._app = app
        self._security = security

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        started = self._security.clock.monotonic_ns()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                policy = headers.get("Content-Security-Policy", "default-src 'none'")
                headers["Content-Security-Policy"] = f"{policy}; frame-ancestors {self._security.frame_ancestors}"
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        try:
            receive = await self._admit(scope, receive)
            async with self._security.connection(scope):
                await self._app(scope, receive, send_with_headers)
        except ConnectionEndedError:
            await _end(scope, receive, send_with_headers, status)
        except Problem as problem:
            if status:
                raise
            if f"{scope['path']}/".startswith(PROTOCOL_PATH):
                problem.members["error"] = problem.detail
            await problem.response()(scope, receive, send_with_headers)
        except ClientDisconnected:
            raise  # uvicorn ends the request
        except ClientDisconnect:
            pass  # the client disconnected before its body arrived: no response is possible
        except Exception as error:  # unexpected: only the log gets the details
            logger.error(
                "%s %s: %s: %s", scope.get("method", "WEBSOCKET"), _path(scope), type(error).__name__, redact(str(error))
            )
            logger.debug("traceback of this request", exc_info=True)
            if not status:
                await Problem("internal", "see the service's log for details").response()(scope, receive, send_with_headers)
        finally:
            spent_ms = (self._security.clock.monotonic_ns() - started) / 1e6
            logger.debug("%s %s %d %.1f ms", scope.get("method", "WEBSOCKET"), _path(scope), status, spent_ms)
            await self._security.finished(scope, status)

    async def _admit(self, scope: Scope, receive: Receive) -> Receive:
        """Check a request and store its principal in ``scope["state"]``; return the function that reads its body."""
        security = self._security
        path = scope["path"]
        method = scope.get("method", "GET")
        headers = Headers(scope=scope)
        client = scope.get("client")
        if security.settings.trusted_proxies and client is not None:
            forwarded = headers.getlist("x-forwarded-for")
            scope["client"] = (client_of(client[0], forwarded, security.settings.trusted_proxies), client[1])
        is_open = path in OPEN_PATHS
        _check_framing(headers, takes_body=not is_open)
        if not is_open:
            _check_host(scope, headers, security.settings)
        wait_s = (security.open_requests if is_open else security.requests).take(address_of(scope))
        if wait_s:
            raise too_many(f"more than {security.settings.requests_per_second:g} requests per second", wait_s)
        if not is_open and not (is_page(path) and method in SAFE_METHODS and scope["type"] == "http"):
            await self._check_rights(scope, headers, method, path)
        if scope["type"] == "websocket":
            return receive
        uploads = path == INFER_PATH or PROTOCOL_INFER_PATH.fullmatch(path) is not None
        max_bytes = int(security.settings.max_upload_mb * 1e6) if uploads else MAX_JSON_BYTES
        return limited(scope, receive, max_bytes)

    async def _check_rights(self, scope: Scope, headers: Headers, method: str, path: str) -> None:
        security = self._security
        safe = method in SAFE_METHODS and scope["type"] == "http"
        principal, by_header = await identify(security, scope, headers, safe)
        if not by_header:
            # Any website can make a browser send a cookie or reach a service on the same machine.
            trusted = _source_of(headers, safe) in security.settings.allow_origins
            if not trusted:
                _check_site(headers, safe)
            if not trusted and not safe:
                _check_origin(headers, needed=security.tokens.needed and principal is not None)
        if principal is not None:
            check_rights(principal, scope["type"], method, path)


async def _end(scope: Scope, receive: Receive, send: Send, status: int) -> None:
    """End a connection whose token or session is no longer valid."""
    if not status:
        await unauthorized("the session has ended").response()(scope, receive, send)
    elif scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": "the session has ended"})
    else:
        await send({"type": "http.response.body", "body": b""})


def _path(scope: Scope) -> str:
    return redact(str(scope["path"]))[:200]


def _check_framing(headers: Headers, takes_body: bool) -> None:
    """Reject a request whose end is ambiguous (RFC 9112, section 6.1), or one with a body that no route reads."""
    length, chunked = headers.get("content-length"), "transfer-encoding" in headers
    if chunked and length is not None:
        raise Problem("bad-request", "send either Content-Length or Transfer-Encoding, not both", {"Connection": "close"})
    if not takes_body and (chunked or length not in (None, "0")):
        raise Problem("too-large", "this path takes no request body", {"Connection": "close"})


def _check_host(scope: Scope, headers: Headers, settings: ServiceSettings) -> None:
    """Reject unknown host names, so that a website that resolves to this service (DNS rebinding) cannot read from it."""
    hosts = headers.getlist("host")
    name = _name_of(hosts[0]) if len(hosts) == 1 else None
    if name is not None:
        allowed = {_plain(host) for host in (settings.host, *settings.allow_hosts)}
        server = scope.get("server")
        if server is not None:
            allowed.add(_plain(str(server[0])))
        if name in allowed or is_loopback(name) or (_is_address(name) and not is_loopback(settings.host)):
            return
    raise Problem("wrong-host", "add the host name to service.allow_hosts if it is correct")


def _plain(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


def _name_of(netloc: str) -> str | None:
    """Return the name or address of ``host:port``; None if it is invalid."""
    match = _HOST.fullmatch(netloc)
    return None if match is None else _plain(match[1])


def _is_address(name: str) -> bool:
    # Unlike a name, an address cannot be rebound to another machine.
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _source_of(headers: Headers, safe: bool) -> str | None:
    """Return the origin of the page that sends a request; None if it is unknown. Images have only a Referer header."""
    origin = headers.get("origin")
    if origin is not None or not safe:
        return origin
    try:
        parts = urlsplit(headers.get("referer", ""))
    except ValueError:
        return None
    return f"{parts.scheme}://{parts.netloc}"


def _check_site(headers: Headers, safe: bool) -> None:
    # Links from other websites are harmless. Other requests are not: they could use up connections even if they cannot read.
    followed = safe and headers.get("sec-fetch-mode") == "navigate"
    if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not followed:
        raise Problem("wrong-origin", "cross-site requests are not allowed; service.allow_origins lists the exceptions")


def _check_origin(headers: Headers, needed: bool) -> None:
    origin = headers.get("origin")
    if origin is None:
        if needed:
            raise Problem("wrong-origin", "a request with a session cookie requires the Origin header")
        return
    try:
        parts = urlsplit(origin)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        own = urlsplit(f"{parts.scheme}://{headers.get('host', '')}")
        own_port = own.port or {"http": 80, "https": 443}.get(own.scheme)
    except ValueError:
        raise Problem("wrong-origin", "the Origin header is invalid") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or (parts.hostname, port) != (own.hostname, own_port):
        raise Problem(
            "wrong-origin",
            f"the Origin header {origin[:200]} does not match the Host header {headers.get('host', '')[:200]}. A proxy must pass "
            "the Host header on unchanged; for a page of another site, add its origin to service.allow_origins",
        )
