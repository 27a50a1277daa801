"""The one place that turns a request into a :class:`Principal`, and the connections that end with it."""

from __future__ import annotations

import asyncio
import base64
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers
from starlette.types import Scope

from vision_infer.config.access.settings import RoleSettings
from vision_infer.config.serve import ServiceSettings
from vision_infer.core.clock import Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.service.http.access.access import Access
from vision_infer.service.http.access.audit import Event, route_of
from vision_infer.service.http.access.principal import (
    IMAGE_PATH,
    SAFE_METHODS,
    SESSION_PATH,
    TOKENS_PATH,
    WHEP_PATH,
    Principal,
    is_change,
    with_role,
)
from vision_infer.service.http.auth import Sessions, Tokens
from vision_infer.service.http.limits import TokenBuckets, address_of
from vision_infer.service.http.problem import Problem
from vision_infer.service.http.token_file import digest_of

SESSION_COOKIE = "vision_infer_session"
LOGIN_PATH = "/api/v1/oidc/login"
CALLBACK_PATH = "/api/v1/oidc/callback"
PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-real-ip")
"""The headers by which a proxy names the client."""
_FAILURES_BURST = 10
_FAILURES_PER_S = 0.2
_LOGINS_BURST = 30
_LOGINS_PER_S = 1.0
_PROVIDER_LOGINS = (("GET", LOGIN_PATH), ("GET", CALLBACK_PATH))
_OPEN = Principal("", "", "admin", "admin")
"""The client of a service that requires no token."""

logger = logging.getLogger("vision_infer.http")


class ConnectionEndedError(Exception):
    """The token or session of a connection is no longer valid."""


class SecurityContext:
    """The state of the security checks, shared with the routes of sessions and tokens. Only the event loop may use it.

    Args:
        settings: The settings of the HTTP server.
        tokens: The tokens of the configuration.
        clock: The source of time.
        access: Access for teams; None if it is not configured.
    """

    def __init__(self, settings: ServiceSettings, tokens: Tokens, clock: Clock, access: Access | None = None) -> None:
        self.settings = settings
        self.tokens = tokens
        self.access = access
        self.sessions = Sessions(clock)
        self.clock = clock
        rate = settings.requests_per_second
        self.requests = TokenBuckets(rate, 2 * rate, clock)
        """The rate limit of requests for each client address."""
        self.open_requests = TokenBuckets(rate, 2 * rate, clock)
        """The same for the paths that need no token, so that health checks are answered when the other limit is reached."""
        self.failures = TokenBuckets(_FAILURES_PER_S, _FAILURES_BURST, clock)
        """The rate limit of invalid tokens for each client address."""
        self.logins = TokenBuckets(_LOGINS_PER_S, _LOGINS_BURST, clock)
        """The rate limit of logins for each client address that cause a request to the provider."""
        self.frame_ancestors = " ".join(settings.allow_origins) or "'none'"
        """The sites that may embed the page, as the content security policy lists them."""
        self.on_end: Callable[[str], Awaitable[None]] | None = None
        """Ends the previews of a principal, by its key."""
        self._open: dict[str, set[asyncio.Timeout]] = {}
        """The running requests of each key that can last long."""
        self._ends: dict[str, asyncio.TimerHandle] = {}
        """The end of the previews of each key that expires."""

    @property
    def login_path(self) -> str | None:
        """The path of single sign-on, relative to the page; None without it."""
        return None if self.access is None or self.access.oidc is None else LOGIN_PATH.removeprefix("/")

    async def principal_of(self, scope: Scope, token: str, scheme: str = "Bearer") -> Principal:
        """Return the owner of a token. A valid one is accepted even if this address has sent too many invalid tokens.

        Args:
            scheme: The authentication scheme to ask for if the token is invalid.

        Raises:
            Problem: 401 if the token is invalid; 429 if this address has sent too many invalid tokens; 503 if the provider of a
                token does not answer.
        """
        found = self.known(token)
        try:
            if found is None and self.access is not None:
                found = await self.access.of_provider(token)
        except VisionInferError:  # the log has the details
            raise Problem("unavailable", "the provider of this token does not answer", {"Retry-After": "30"}) from None
        if found is None:
            self.refuse(scope)
            raise unauthorized("the token is invalid", scheme)
        return found

    def known(self, token: str) -> Principal | None:
        """Return the owner of a token of the configuration or of an API token; None if it is neither. Any thread may call it."""
        role = self.tokens.role_of(token)
        if role is None:
            return None if self.access is None else self.access.of_api_token(token)
        rights = None if self.access is None else self.access.settings.role(role)
        found = with_role(f"{role} token", f"token:{role}", role, rights or RoleSettings(level=role), "token")
        return found.with_key(f"token {digest_of(token).hex()}")

    def refuse(self, scope: Scope) -> None:
        """Count a failed login of a client, and mark it for the audit log.

        Raises:
            Problem: 429 if its address had too many.
        """
        address = address_of(scope)
        wait_s = self.failures.take(address)
        if wait_s:
            raise too_many("too many invalid tokens from this address", wait_s)
        logger.warning("invalid token from %s", address)
        scope.setdefault("state", {})["event"] = "refused"

    # Connections that end with a token or session

    @asynccontextmanager
    async def connection(self, scope: Scope) -> AsyncIterator[None]:
        """Run a request until its principal is no longer valid. Changes are short, and are not interrupted.

        Raises:
            ConnectionEndedError: The principal is no longer valid.
        """
        principal = scope.get("state", {}).get("principal")
        lasts = scope.get("method", "GET") == "GET" or _is_offer(scope)
        if not isinstance(principal, Principal) or not principal.key or not lasts:
            yield
            return
        deadline = None
        if principal.ends_ns is not None:
            left_s = (principal.ends_ns - self.clock.monotonic_ns()) / 1e9
            deadline = asyncio.get_running_loop().time() + left_s
        limit = asyncio.timeout_at(deadline)
        running = self._open.setdefault(principal.key, set())
        running.add(limit)
        try:
            async with limit:
                yield
        except TimeoutError:
            if limit.expired():
                raise ConnectionEndedError from None
            raise
        finally:
            running.discard(limit)
            if not running:
                self._open.pop(principal.key, None)

    async def end(self, key: str) -> None:
        """End all connections and previews of a token or session that is no longer valid."""
        now_s = asyncio.get_running_loop().time()
        for limit in self._open.get(key, ()):
            limit.reschedule(now_s)
        timer = self._ends.pop(key, None)
        if timer is not None:
            timer.cancel()
        if self.on_end is not None:
            await self.on_end(key)

    async def finished(self, scope: Scope, status: int) -> None:
        """Write the audit record of a request, and note when a preview must end."""
        state, method, path = scope.get("state", {}), scope.get("method", "GET"), scope["path"]
        principal: Principal | None = state.get("principal")
        has_preview = status == 201 and _is_offer(scope)
        if has_preview and principal is not None and principal.ends_ns is not None and principal.key not in self._ends:
            self._end_at(principal.key, (principal.ends_ns - self.clock.monotonic_ns()) / 1e9)
        event: Event | None = state.get("event")
        if event is None and principal is not None and scope["type"] == "http":
            changes = is_change(method, path) or (method not in SAFE_METHODS and path.startswith(TOKENS_PATH))
            event = "change" if changes else None
        if self.access is not None and event is not None:
            app = scope["app"]
            template, target = route_of(path, [*app.openapi()["paths"], *app.state.protocol_paths])
            route = (template, state.get("target", target))
            await self.access.audit.record(event, principal, method, route, status, (scope.get("client") or ("",))[0])

    def _end_at(self, key: str, left_s: float) -> None:
        loop = asyncio.get_running_loop()

        def end() -> None:
            self._ends.pop(key, None)
            task = loop.create_task(self.end(key))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

        self._ends[key] = loop.call_later(left_s, end)


def _is_offer(scope: Scope) -> bool:
    """Return whether a request is an offer for video, which waits for a key frame."""
    return scope.get("method") == "POST" and WHEP_PATH.fullmatch(scope["path"]) is not None


async def identify(security: SecurityContext, scope: Scope, headers: Headers, safe: bool) -> tuple[Principal | None, bool]:
    """Return who sends a request, and whether by a header that browsers do not send by themselves.

    The principal is None for a request that logs in; all others have one. It is stored in ``scope["state"]``.

    Args:
        security: The state of the checks.
        scope: The request.
        headers: Its headers.
        safe: Whether it changes nothing.

    Raises:
        Problem: 401 without a valid token or session; 403 through a proxy to a service without tokens; see also
            :meth:`SecurityContext.principal_of`.
    """
    principal: Principal | None = _OPEN
    by_header = False
    if not security.tokens.needed and any(name in headers for name in PROXY_HEADERS):
        raise Problem("behind-proxy", "set service.token: requests through a proxy come from other machines")
    if security.tokens.needed:
        token = bearer_of(headers)
        by_header = token is not None
        image = safe and IMAGE_PATH.fullmatch(scope["path"]) is not None
        scheme = _scheme_for(headers, image)
        if token is None and image:
            token = _basic_of(headers)  # browsers send it by themselves, so that the checks of the site are needed
        if token is not None:
            principal = await security.principal_of(scope, token, scheme)
        else:
            session = session_of(headers)
            principal = None if session is None else security.sessions.principal_of(session)
        login = security.login_path
        logins = (("POST", SESSION_PATH), *(_PROVIDER_LOGINS if login else ()))
        if principal is None and (scope.get("method"), scope["path"]) not in logins:
            raise unauthorized("send 'Authorization: Bearer TOKEN'", scheme, **({"login": login} if login else {}))
    scope.setdefault("state", {})["principal"] = principal
    return principal, by_header


def unauthorized(detail: str, scheme: str = "Bearer", **members: str) -> Problem:
    """Return a problem with status 401."""
    return Problem("unauthorized", detail, {"WWW-Authenticate": f'{scheme} realm="vision-infer"'}, **members)


def too_many(detail: str, wait_s: float) -> Problem:
    """Return a problem with status 429."""
    return Problem("too-many-requests", detail, {"Retry-After": str(math.ceil(wait_s))})


def bearer_of(headers: Headers) -> str | None:
    """Return the token in ``Authorization: Bearer …``; None without this header."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _basic_of(headers: Headers) -> str | None:
    """Return the password in ``Authorization: Basic …``; None without this header, or if it is invalid."""
    kind, _, encoded = headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        _, found, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return None
    return password if found else None


def _scheme_for(headers: Headers, image: bool) -> str:
    """Return the authentication scheme to ask for. Basic makes a browser show a login dialog, which its pages must not do."""
    in_page = headers.get("user-agent", "").startswith("Mozilla/") and "text/html" not in headers.get("accept", "")
    return "Basic" if image and not in_page else "Bearer"


def cookie_of(headers: Headers, name: str) -> str | None:
    """Return the value of a cookie; None if the request has none of this name."""
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(headers.get("cookie", "")[:8192])
    except CookieError:
        return None
    morsel = cookies.get(name)
    return None if morsel is None else morsel.value


def session_of(headers: Headers) -> str | None:
    """Return the value of the session cookie; None if the request has none."""
    return cookie_of(headers, SESSION_COOKIE)
