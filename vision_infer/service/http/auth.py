"""Authentication: tokens of the configuration with a role, and browser sessions."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from vision_infer.config.serve import ServiceSettings
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import UsageError
from vision_infer.service.http.access.principal import Principal
from vision_infer.service.http.token_file import digest_of, load_or_make

Role: TypeAlias = Literal["admin", "view"]

SESSION_S = 12 * 3600
"""The lifetime of a browser session in seconds."""
MAX_SESSIONS_PER_TOKEN = 512
"""The maximum number of browser sessions of one token, so that viewers cannot end the sessions of the admin."""
MAX_SESSIONS = 16_384
"""The maximum number of browser sessions of all owners; then the oldest one ends."""
MAX_TOKEN_CHARS = 1024
"""The maximum length of a token; further characters are ignored."""


class Tokens:
    """The hashes of all valid tokens.

    Args:
        roles: The roles by SHA-256 of the token; empty means that no token is required and every client is an admin.
    """

    def __init__(self, roles: Mapping[bytes, Role]) -> None:
        self._roles = dict(roles)

    @property
    def needed(self) -> bool:
        """Whether a token is required."""
        return bool(self._roles)

    def role_of(self, token: str) -> Role | None:
        """Return the role of a token; None if the token is invalid. The comparison takes constant time."""
        digest = digest_of(token[:MAX_TOKEN_CHARS])
        found: Role | None = None
        for known, role in self._roles.items():
            if hmac.compare_digest(known, digest):
                found = role
        return found


@dataclass(frozen=True, slots=True)
class TokenSet:
    """The tokens of a service, and a newly generated one."""

    tokens: Tokens
    made: str | None = None
    """The newly generated admin token. It must be printed, because only its hash is stored."""


def tokens_for(settings: ServiceSettings, state_dir: Path, clock: Clock = SYSTEM_CLOCK, required: bool = False) -> TokenSet:
    """Return the tokens of a service, generating one if necessary.

    No token is required if none is configured, the service listens on loopback only, and ``allow_hosts`` is empty: a host name
    means that clients reach the service through a proxy.

    Args:
        required: Whether a token is required in any case.

    Raises:
        UsageError: Both tokens are the same, or the file with the hash is damaged.
        OutputError: The file cannot be read or written.
    """
    roles: dict[bytes, Role] = {}
    if settings.view_token is not None:
        roles[digest_of(settings.view_token.get_secret_value())] = "view"
    if settings.token is not None:
        digest = digest_of(settings.token.get_secret_value())
        if digest in roles:
            raise UsageError(
                "service.view_token: is the same as service.token",
                "Choose a different token, or viewers would have admin rights.",
            )
        roles[digest] = "admin"
        return TokenSet(Tokens(roles))
    if not roles and is_loopback(settings.host) and not settings.allow_hosts and not required:
        return TokenSet(Tokens({}))
    digest, made = load_or_make(state_dir, clock)
    roles[digest] = "admin"
    return TokenSet(Tokens(roles), made)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a service that listens on this host."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class _BrowserSession:
    principal: Principal
    owner: bytes
    """The hash of the token or person that opened the session."""
    ends_ns: int
    """The end of the session, monotonic nanoseconds."""


class Sessions:
    """The sessions of logged-in browsers, in bounded memory. Not thread-safe: only the event loop may use it."""

    def __init__(self, clock: Clock, lifetime_s: float = SESSION_S, max_per_token: int = MAX_SESSIONS_PER_TOKEN) -> None:
        self._clock = clock
        self._lifetime_ns = round(lifetime_s * 1e9)
        self._max_per_token = max_per_token
        self._sessions: OrderedDict[bytes, _BrowserSession] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def lifetime_s(self) -> int:
        """The lifetime of a session in seconds."""
        return round(self._lifetime_ns / 1e9)

    def open(self, principal: Principal, owner: str) -> str:
        """Open a session; if its owner has too many, the oldest one of them ends.

        Args:
            principal: Who has logged in; its ``ends_ns`` also ends the session.
            owner: The token, or the unique name of the person.
        """
        name = secrets.token_urlsafe(32)
        digest = digest_of(owner)
        others = [key for key, session in self._sessions.items() if session.owner == digest]
        if len(others) >= self._max_per_token:
            del self._sessions[others[0]]
        elif len(self._sessions) >= MAX_SESSIONS:
            self._sessions.popitem(last=False)
        ends_ns = self._clock.monotonic_ns() + self._lifetime_ns
        if principal.ends_ns is not None:
            ends_ns = min(ends_ns, principal.ends_ns)
        if principal.proof != "token":  # the tokens of the configuration are valid until it changes, and so are connections
            principal = replace(principal, ends_ns=ends_ns)
        key = digest_of(name)
        self._sessions[key] = _BrowserSession(replace(principal, key=f"session {key.hex()}"), digest, ends_ns)
        return name

    def principal_of(self, name: str) -> Principal | None:
        """Return the owner of a session; None if it is unknown or expired."""
        digest = digest_of(name[:MAX_TOKEN_CHARS])
        session = self._sessions.get(digest)
        if session is None:
            return None
        if session.ends_ns <= self._clock.monotonic_ns():
            del self._sessions[digest]
            return None
        return session.principal

    def close(self, name: str) -> str | None:
        """End a session; return its key, or None if it is unknown."""
        session = self._sessions.pop(digest_of(name[:MAX_TOKEN_CHARS]), None)
        return None if session is None else session.principal.key

    def close_of(self, owner: bytes) -> list[str]:
        """End all sessions that a token opened, by its hash; return their keys."""
        ended = {digest: session for digest, session in self._sessions.items() if session.owner == owner}
        for digest in ended:
            del self._sessions[digest]
        return [session.principal.key for session in ended.values()]
