"""Where on the way to a picture a source failed."""

from __future__ import annotations

import os
import socket
from typing import Literal
from urllib.parse import urlsplit

import av

from vision_infer.config.stream_url import PROTOCOLS
from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.stream.live.allowed_networks import allowed_address
from vision_infer.stream.redact import redact
from vision_infer.stream.source import SourceSpec

Step = Literal["address", "name", "connect", "answer", "sign-in", "stream", "video", "picture"]

STEPS: dict[Step, str] = {
    "address": "reading its address",
    "name": "finding its host",
    "connect": "connecting to it",
    "answer": "waiting for its answer",
    "sign-in": "signing in",
    "stream": "asking for the stream",
    "video": "understanding its video",
    "picture": "waiting for a picture",
}
"""in their order, each as it is said"""

_CONNECT_S = 1.0
_TIMED_OUT = 0.9
"""an opening that failed after this part of its time has timed out, whatever FFmpeg calls it"""


class ProbeError(StreamError):
    """A source could not be probed.

    Args:
        step: where on the way to a picture it failed.
        error: what failed there; its message and hint become this one's.
    """

    def __init__(self, step: Step, error: StreamError) -> None:
        super().__init__(error.message, error.hint)
        self.step: Step = step
        self.refused = isinstance(error, RefusedError)
        """asking again at once is no use"""


def find_host(spec: SourceSpec) -> None:
    """Look its host up. The system, or its name server, keeps the answer for the opening that follows.

    Raises:
        StreamError: it is not known.
    """
    url = spec.paths[0]
    place = _place(url)
    if place is None or _has_proxy(url):
        return
    try:
        socket.getaddrinfo(*place, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise StreamError(f"{redact(url)}: its host is not known", "check the name, and the DNS of this machine") from None


def failed_while_opening(error: StreamError, spec: SourceSpec, took_s: float) -> Step:
    """At which step opening it failed. Whether its port takes connections is asked where that decides it.

    Args:
        error: as raised by :func:`vision_infer.stream.live.open_live.open_live`.
        spec: what was opened.
        took_s: so long it took, seconds.
    """
    cause = error.__cause__ or error.__context__
    if isinstance(cause, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
        return "sign-in"
    if isinstance(cause, av.error.HTTPClientError | av.error.HTTPServerError):
        return "stream"
    if isinstance(error, RefusedError) and cause is None:
        return "address"
    if isinstance(cause, ConnectionRefusedError | FileNotFoundError | PermissionError) or _is_silent(spec):
        return "connect"
    if took_s >= _TIMED_OUT * spec.live.open_timeout_s:
        return "answer"
    return "video" if isinstance(cause, StreamError | av.error.InvalidDataError) else "answer"


def _is_silent(spec: SourceSpec) -> bool:
    """Whether its port takes no connection."""
    url, networks = spec.paths[0], spec.live.allow_networks
    place = _place(url)
    if place is None or _has_proxy(url):
        return False
    try:
        address = allowed_address(url, networks) if networks else place[0]
        socket.create_connection((address, place[1]), _CONNECT_S).close()
    except (OSError, StreamError, UnicodeError):
        return True
    return False


def _place(url: str) -> tuple[str, int] | None:
    """Host and port of what is connected to by TCP; None where nothing is."""
    if "://" not in url or os.path.lexists(url):
        return None
    try:
        parts = urlsplit(url)
        protocol = PROTOCOLS.get(parts.scheme.lower())
        return (parts.hostname, parts.port or protocol.port) if parts.hostname and protocol and protocol.tcp else None
    except ValueError:
        return None


def _has_proxy(url: str) -> bool:
    """Whether another connects to it in our place: FFmpeg heeds the usual variable."""
    return url.lower().startswith("http") and bool(os.environ.get("http_proxy"))
