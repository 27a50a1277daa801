"""Who may do what: tokens with a role, and the sessions that browsers get for one."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from vision_infer.config.serve import ServiceSettings
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import UsageError
from vision_infer.service.http.token_file import digest_of, load_or_make

Role: TypeAlias = Literal["admin", "view"]

SESSION_S = 12 * 3600
"""how long a browser stays logged in"""
MAX_SESSIONS = 1024
LONGEST_TOKEN = 1024
"""characters; what is more is not looked at"""


class Tokens:
    """The hashes of the tokens that there are.

    Args:
        roles: by SHA-256 of the token; empty: no token is needed, and everybody is admin.
    """

    def __init__(self, roles: Mapping[bytes, Role]) -> None:
        self._roles = dict(roles)

    @property
    def needed(self) -> bool:
        """Whether a token is needed at all."""
        return bool(self._roles)

    def role_of(self, token: str) -> Role | None:
        """The role of a token; None where it is none of ours. Takes as long for a nearly right token as for any other."""
        digest = digest_of(token[:LONGEST_TOKEN])
        found: Role | None = None
        for known, role in self._roles.items():
            if hmac.compare_digest(known, digest):
                found = role
        return found


@dataclass(frozen=True, slots=True)
class TokenSet:
    """The tokens of a service, and what has to be told about them."""

    tokens: Tokens
    made: str | None = None
    """a token of the role admin that was made just now: to be printed, for it is kept nowhere"""


def tokens_for(settings: ServiceSettings, state_dir: Path, clock: Clock = SYSTEM_CLOCK) -> TokenSet:
    """Find the tokens of a service.

    None is needed where none is configured, it listens on loopback only, and it has no other name: a name means a proxy,
    through which others reach it.

    Args:
        state_dir: where the hash of a token is kept that we make ourselves.

    Raises:
        UsageError: both tokens are the same, or the file of the hash is broken.
        OutputError: the file cannot be read or written.
    """
    roles: dict[bytes, Role] = {}
    if settings.view_token is not None:
        roles[digest_of(settings.view_token.get_secret_value())] = "view"
    if settings.token is not None:
        digest = digest_of(settings.token.get_secret_value())
        if digest in roles:
            raise UsageError("service.view_token: is the same as service.token", "who may look could change everything")
        roles[digest] = "admin"
        return TokenSet(Tokens(roles))
    if not roles and is_loopback(settings.host) and not settings.allow_hosts:
        return TokenSet(Tokens({}))
    digest, made = load_or_make(state_dir, clock)
    roles[digest] = "admin"
    return TokenSet(Tokens(roles), made)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a service that listens there."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class _Session:
    role: Role
    ends_ns: int
    """monotonic"""


class Sessions:
    """Browsers that are logged in, in bounded memory. Not thread-safe: they belong to the event loop."""

    def __init__(self, clock: Clock, lifetime_s: float = SESSION_S, most: int = MAX_SESSIONS) -> None:
        self._clock = clock
        self._lifetime_ns = round(lifetime_s * 1e9)
        self._most = most
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def lifetime_s(self) -> int:
        """How long a session lasts."""
        return round(self._lifetime_ns / 1e9)

    def open(self, role: Role) -> str:
        """Begin a session; where there are too many, the oldest ends."""
        name = secrets.token_urlsafe(32)
        self._sessions[digest_of(name)] = _Session(role, self._clock.monotonic_ns() + self._lifetime_ns)
        if len(self._sessions) > self._most:
            self._sessions.popitem(last=False)
        return name

    def role_of(self, name: str) -> Role | None:
        """The role of a session; None where there is no such session, or not any more."""
        digest = digest_of(name[:LONGEST_TOKEN])
        session = self._sessions.get(digest)
        if session is None:
            return None
        if session.ends_ns <= self._clock.monotonic_ns():
            del self._sessions[digest]
            return None
        return session.role

    def close(self, name: str) -> None:
        """End a session."""
        self._sessions.pop(digest_of(name[:LONGEST_TOKEN]), None)
