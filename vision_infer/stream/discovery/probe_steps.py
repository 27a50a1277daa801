"""The steps on the way to a source's first frame, and the one at which a source failed."""

from __future__ import annotations

import os
import socket
from typing import Literal
from urllib.parse import urlsplit

import av

from vision_infer.config.stream_url import PROTOCOLS
from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.stream.discovery.makers import suggested_paths
from vision_infer.stream.live.allowed_networks import allowed_address, unknown_host
from vision_infer.stream.live.live_errors import TIMED_OUT
from vision_infer.stream.rtsp.refusal import ServerStatusError
from vision_infer.stream.source import SourceSpec

Step = Literal["address", "name", "connect", "answer", "sign-in", "stream", "video", "frame"]

STEPS: dict[Step, str] = {
    "address": "while parsing the URL",
    "name": "while resolving the host name",
    "connect": "while connecting",
    "answer": "while waiting for a response",
    "sign-in": "while authenticating",
    "stream": "while requesting the stream",
    "video": "while probing the video",
    "frame": "while waiting for a frame",
}
"""The steps in their order, and how messages name them."""

_CONNECT_S = 1.0


class ProbeError(StreamError):
    """A source could not be probed; the message and the hint are those of the error at this step."""

    def __init__(self, step: Step, error: StreamError) -> None:
        super().__init__(error.message, error.hint)
        self.step: Step = step
        self.refused = isinstance(error, RefusedError)
        """Whether trying again at once is useless."""


def with_paths(error: StreamError, spec: SourceSpec) -> StreamError:
    """Return an error with the paths to try, if a camera does not know the path of an RTSP URL, or the URL has none."""
    cause = error.__cause__ or error.__context__
    status, realm = (cause.status, cause.realm) if isinstance(cause, ServerStatusError) else (0, "")
    without = spec.paths[0].lower().startswith("rtsp") and not urlsplit(spec.paths[0]).path.strip("/")
    if status == 404 or (without and 400 <= status < 453 and status not in (401, 403)):
        return RefusedError(error.message, f"{error.hint} {suggested_paths(realm)}")
    return error


def find_host(spec: SourceSpec) -> None:
    """Resolve the host name. The system or its name server caches the address for the connection that follows.

    Raises:
        StreamError: The host name cannot be resolved.
    """
    url = spec.paths[0]
    endpoint = _endpoint(url)
    if endpoint is None or _has_proxy(url):
        return
    try:
        socket.getaddrinfo(*endpoint, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise unknown_host(url) from None


def failed_while_opening(error: StreamError, spec: SourceSpec, took_s: float) -> Step:
    """Return the step at which a source could not be opened. If necessary, this tests whether its port accepts connections.

    Args:
        error: The error of :func:`vision_infer.stream.live.open_live.open_live`.
        spec: The source.
        took_s: The time until it failed, seconds.
    """
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ServerStatusError):
        return "sign-in" if cause.status in (401, 403) else "stream"
    if isinstance(cause, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
        return "sign-in"
    if isinstance(cause, av.error.HTTPClientError | av.error.HTTPServerError):
        return "stream"
    if isinstance(error, RefusedError) and cause is None:
        return "address"
    if isinstance(cause, ConnectionRefusedError | FileNotFoundError | PermissionError) or _is_unreachable(spec):
        return "connect"
    if took_s >= TIMED_OUT * spec.live.open_timeout_s:
        return "answer"
    return "video" if isinstance(cause, StreamError | av.error.InvalidDataError) else "answer"


def _is_unreachable(spec: SourceSpec) -> bool:
    """Return whether its port accepts no connection."""
    url, networks = spec.paths[0], spec.live.allow_networks
    endpoint = _endpoint(url)
    if endpoint is None or _has_proxy(url):
        return False
    try:
        address = allowed_address(url, networks) if networks else endpoint[0]
        socket.create_connection((address, endpoint[1]), _CONNECT_S).close()
    except (OSError, StreamError, UnicodeError):
        return True
    return False


def _endpoint(url: str) -> tuple[str, int] | None:
    """Return the host and port of a TCP connection; None if the source uses none."""
    if "://" not in url or os.path.lexists(url):
        return None
    try:
        parts = urlsplit(url)
        protocol = PROTOCOLS.get(parts.scheme.lower())
        return (parts.hostname, parts.port or protocol.port) if parts.hostname and protocol and protocol.tcp else None
    except ValueError:
        return None


def _has_proxy(url: str) -> bool:
    """Return whether a proxy connects in our place: FFmpeg uses the environment variable http_proxy."""
    return url.lower().startswith("http") and bool(os.environ.get("http_proxy"))
