"""An HTTP client that FFmpeg reads through when the allowed networks are limited: the host of each request is checked.

This includes the URL itself, each redirect, and each playlist, key and segment that a playlist names. The user name and password
of a URL, or of the entry of ``credentials`` for its host, are sent as basic authentication, only to that host. As in FFmpeg, TLS
certificates are not verified, since cameras use self-signed ones.
"""

from __future__ import annotations

import http.client
import socket
import time
from base64 import b64encode
from collections.abc import Sequence
from urllib.parse import unquote, urljoin, urlsplit

from vision_infer.config.secrets.credentials import CameraCredentials, with_login
from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.stream.limited_http import send
from vision_infer.stream.live.allowed_networks import allowed_address
from vision_infer.stream.live.rtsp_sockets import unreachable
from vision_infer.stream.redact import redact

_MAX_REDIRECTS = 5
_MAX_OPEN = 16
"""The maximum number of open connections per source; FFmpeg uses two or three."""
_MOVED = frozenset({301, 302, 303, 307, 308})
_WRITE_FLAG = 2
"""FFmpeg's AVIO_FLAG_WRITE."""


class Body:
    """The body of a response; it is read once, from its beginning."""

    def __init__(self, response: http.client.HTTPResponse, connection: socket.socket, shown: str, web: GuardedHttp) -> None:
        self._response = response
        self._connection = connection
        self._shown = shown
        self._web = web

    def read(self, size: int) -> bytes:
        """Return the available bytes, at most ``size``; empty at the end.

        Raises:
            StreamError: No data arrived in time.
        """
        try:
            return self._response.read1(size)
        except TimeoutError:
            message = f"{self._shown}: no data for {self._web.limit_s:g} s"
            raise StreamError(message, "Check the camera and the network.") from None
        except (OSError, http.client.HTTPException):
            return b""  # a broken connection is the end, as it is for FFmpeg

    def close(self) -> None:
        """Close the connection."""
        self._response.close()
        self._connection.close()


class GuardedHttp:
    """Opens URLs for FFmpeg (PyAV's ``io_open``).

    Args:
        networks: The allowed networks in CIDR notation.
        limit_s: The time limit of the operation that FFmpeg runs now, seconds.
        credentials: The user names and passwords by host, for URLs without a user name.
    """

    def __init__(self, networks: tuple[str, ...], limit_s: float, credentials: Sequence[CameraCredentials] = ()) -> None:
        self._networks = networks
        self._credentials = credentials
        self._bodies: list[Body] = []
        self.allow(limit_s)

    def allow(self, limit_s: float) -> None:
        """Start the time limit of an FFmpeg operation, whatever requests it needs, seconds."""
        self.limit_s = limit_s
        self._deadline = time.monotonic() + limit_s

    def left_s(self) -> float:
        """Return the remaining time in seconds.

        Raises:
            TimeoutError: The time limit has passed.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def __call__(self, url: str, flags: int, options: object) -> Body:  # noqa: ARG002 - the options are for FFmpeg's own HTTP
        """Open a URL.

        Raises:
            RefusedError: It leads outside the networks, is not a web address, or the server refused.
            StreamError: The server cannot be reached, or fails.
        """
        if flags & _WRITE_FLAG:
            raise RefusedError(f"{redact(url)}: cannot be written", "only reading is allowed")
        for _ in range(_MAX_REDIRECTS + 1):
            response, connection = self._ask(url)
            body = Body(response, connection, redact(url), self)
            try:
                if response.status not in _MOVED:
                    _check(response, redact(url))
                    self._keep(body)
                    return body
            except StreamError:
                body.close()
                raise
            url = urljoin(url, response.getheader("Location", ""))
            body.close()
        raise RefusedError(f"{redact(url)}: too many redirects", "Use the URL of the stream itself.")

    def close(self) -> None:
        """Close all connections."""
        bodies, self._bodies = self._bodies, []
        for body in bodies:
            body.close()

    def _keep(self, body: Body) -> None:
        """Keep it to close it later: FFmpeg does not close the first one itself, and some servers name very many."""
        self._bodies.append(body)
        if len(self._bodies) > _MAX_OPEN:
            first, *older = self._bodies
            self._bodies = [first, *older[1:]]
            older[0].close()

    def _ask(self, url: str) -> tuple[http.client.HTTPResponse, socket.socket]:
        shown = redact(url)
        parts = urlsplit(with_login(url, self._credentials))
        if parts.scheme.lower() not in ("http", "https"):
            raise RefusedError(f"{shown}: leads to a protocol that is not allowed", "Use the URL of the stream itself.")
        address = allowed_address(url, self._networks)
        try:
            return send(url, address, self.left_s, _headers(parts.username, parts.password))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise unreachable(shown, error, self.limit_s) from None


def _check(response: http.client.HTTPResponse, shown: str) -> None:
    """Check the status of a response.

    Raises:
        RefusedError: The server refused the request.
        StreamError: The server failed.
    """
    status = response.status
    if status < 400:
        return
    if status >= 500:
        raise StreamError(f"{shown}: the server failed: {status}", "Check the server's log.")
    if status == 404:
        raise RefusedError(f"{shown}: the server has no such stream (404)", "Check the path in the URL.")
    if status in (401, 403):
        raise RefusedError(
            f"{shown}: authentication failed ({status})", "Check the user name and password (URL or `credentials`)."
        )
    raise RefusedError(f"{shown}: the server rejected the request: {status}", "Check the URL.")


def _headers(user: str | None, password: str | None) -> dict[str, str]:
    headers = {"User-Agent": "vision-infer", "Accept": "*/*", "Connection": "close"}
    if user is not None:
        credentials = f"{unquote(user)}:{unquote(password or '')}"
        headers["Authorization"] = f"Basic {b64encode(credentials.encode()).decode()}"
    return headers
