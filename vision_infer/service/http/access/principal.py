"""Who sends a request, and the one decision about what it may do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from vision_infer.config.access.settings import Level, RoleSettings
from vision_infer.core.clock import Clock
from vision_infer.service.http.problem import Problem

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
SESSION_PATH = "/api/v1/session"
INFER_PATH = "/api/v1/infer"
TOKENS_PATH = "/api/v1/tokens"
PROTOCOL_INFER_PATH = re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/infer")
_STREAM = re.compile(r"/api/v1/streams/([^/]+)(?:/.*)?")
_FOR_VIEWERS = re.compile(
    rf"{INFER_PATH}|{SESSION_PATH}|{TOKENS_PATH}(/[^/]+)?|"  # tokens: only their own
    rf"/api/v1/streams/[^/]+/whep(/[^/]+)?|{PROTOCOL_INFER_PATH.pattern}"
)
"""The paths for which the level view may use all methods, because they change nothing of the service."""
_FOR_OPERATORS = re.compile(r"/api/v1/streams/[^/]+/(model|counts/reset)")
_FOR_SOME_CAMERAS = re.compile(
    rf"{INFER_PATH}|{SESSION_PATH}|{TOKENS_PATH}(/[^/]+)?|/v2(/.*)?|"
    r"/api/v1/(streams|streams/.+|results|events|events/[^/]+/clip\.mp4|models|engines|engines/.+/passport|cameras/makers|"
    r"version|openapi\.json)"
)
"""The paths for roles with some cameras only. All others are about the whole service and may show other cameras."""

WHEP_PATH = re.compile(r"/api/v1/streams/[^/]+/whep(/[^/]+)?")
"""The paths of preview sessions."""
IMAGE_PATH = re.compile(r"/api/v1/streams/[^/]+/(snapshot\.jpg|video\.mjpeg)")
"""The paths of images, for which simple clients may send the token as the password of HTTP Basic."""

Proof: TypeAlias = Literal["none", "token", "api-token", "oidc"]
"""How a client proved who it is: not at all on an open service, by a token of the configuration, by an API token, or at the
provider."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sends a request, and its rights."""

    name: str
    """The name for people."""
    subject: str
    """The unique identity, to which API tokens belong: ``oidc:SUB``, ``person:NAME`` or ``token:ROLE``."""
    role: str
    """The name of the role."""
    level: Level
    cameras: frozenset[str] | None = None
    """The streams that it sees; None means all."""
    proof: Proof = "none"
    key: str = ""
    """Identifies the token or session, for the end of its connections; contains only hashes."""
    ends_ns: int | None = None
    """The end of its connections, monotonic nanoseconds; None: they have no end."""

    def sees(self, stream: str) -> bool:
        """Return whether it sees a stream, which need not exist."""
        return self.cameras is None or stream in self.cameras

    @property
    def manages(self) -> bool:
        """Whether it has all rights."""
        return self.level == "admin" and self.cameras is None

    def ending(self, wall_ns: int, clock: Clock) -> Principal:
        """Return it with connections that end at a time, nanoseconds since 1970 (UTC)."""
        return replace(self, ends_ns=clock.monotonic_ns() + wall_ns - clock.wall_ns())

    def with_key(self, key: str) -> Principal:
        """Return it with the key of its token."""
        return replace(self, key=key)

    def to_plain(self) -> dict[str, Any]:
        """Return what a worker process needs to know, as plain values."""
        cameras = None if self.cameras is None else sorted(self.cameras)
        return {"role": self.level, "principal": self.key, "cameras": cameras}


def from_plain(client: Mapping[str, Any]) -> Principal:
    """Return the principal of :meth:`Principal.to_plain`; without one, all rights: the service in front has checked them."""
    cameras = client.get("cameras")
    seen = None if cameras is None else frozenset(cameras)
    return Principal("", "", "", client.get("role") or "admin", seen, key=client.get("principal", ""))


def with_role(name: str, subject: str, role: str, settings: RoleSettings, proof: Proof) -> Principal:
    """Return a principal with the rights of a role."""
    cameras = None if settings.cameras is None else frozenset(settings.cameras)
    return Principal(name, subject, role, settings.level, cameras, proof)


def unknown_stream(name: str) -> Problem:
    """Return the answer about a stream that does not exist or must not be seen; it names no other stream."""
    return Problem("unknown-stream", f"stream {name[:64]} does not exist")


def is_change(method: str, path: str) -> bool:
    """Return whether an HTTP request changes the service."""
    return method not in SAFE_METHODS and not _FOR_VIEWERS.fullmatch(path)


def check_rights(principal: Principal, kind: str, method: str, path: str) -> None:
    """Check whether a request is allowed.

    Args:
        principal: Who sends it.
        kind: ``http`` or ``websocket``.
        method: The HTTP method.
        path: The path, without percent-encoding.

    Raises:
        Problem: 403 if the role does not allow the request; 404 if it is about a stream that the role does not see.
    """
    changes = kind == "http" and is_change(method, path)
    if changes and principal.level != "admin" and not (principal.level == "operator" and _FOR_OPERATORS.fullmatch(path)):
        raise Problem("forbidden", f"this request requires an admin; the role {principal.role} has the level {principal.level}")
    if principal.cameras is None:
        return
    stream = _STREAM.fullmatch(path)
    if stream is not None and not principal.sees(stream[1]):
        raise unknown_stream(stream[1])
    if _FOR_SOME_CAMERAS.fullmatch(path) is None:
        raise Problem("forbidden", "this request is about the whole service; it requires a role without a limit of cameras")
