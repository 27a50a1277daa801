"""The web, where it is limited which hosts may be asked: FFmpeg reads through us, and each request is looked at.

That holds for the URL itself, for every redirect, and for every playlist, key and segment that a playlist names. A user and a
password in a URL are sent as basic authentication, to the host that they were given for only. As with FFmpeg itself, certificates
are not verified: cameras sign their own.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from base64 import b64encode
from urllib.parse import unquote, urljoin, urlsplit

from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.stream.live.allowed_networks import allowed_address
from vision_infer.stream.redact import redact

_MAX_REDIRECTS = 5
_MAX_OPEN = 16
"""connections of one source at a time; FFmpeg has two or three"""
_MOVED = frozenset({301, 302, 303, 307, 308})
_REFUSALS = {401: "refused: wrong user or password, or none", 403: "refused: wrong user or password, or none"}
_WRITE_FLAG = 2
"""FFmpeg's AVIO_FLAG_WRITE"""


class Body:
    """What a server sends; read once, from its beginning on."""

    def __init__(self, response: http.client.HTTPResponse, connection: socket.socket, shown: str, web: GuardedHttp) -> None:
        self._response = response
        self._connection = connection
        self._shown = shown
        self._web = web

    def read(self, size: int) -> bytes:
        """What is there, at most so many bytes; empty at the end.

        Raises:
            StreamError: nothing came in time, or the connection broke.
        """
        try:
            self._connection.settimeout(self._web.left_s())
            return self._response.read1(size)
        except TimeoutError:
            limit_s = self._web.limit_s
            raise StreamError(
                f"{self._shown}: nothing came for {limit_s:g} s", "is the camera on, and the network well?"
            ) from None
        except (OSError, http.client.HTTPException):
            return b""  # a server that goes away is the end, as it is for FFmpeg

    def close(self) -> None:
        """Let go of the connection."""
        self._response.close()
        self._connection.close()


class GuardedHttp:
    """Opens URLs for FFmpeg (PyAV's ``io_open``).

    Args:
        networks: where hosts may be, CIDR.
        limit_s: how long what FFmpeg is asked for now may take, seconds.
    """

    def __init__(self, networks: tuple[str, ...], limit_s: float) -> None:
        self._networks = networks
        self._bodies: list[Body] = []
        self.allow(limit_s)

    def allow(self, limit_s: float) -> None:
        """FFmpeg is asked for something: from now on it may take so long, whatever requests it needs, seconds."""
        self.limit_s = limit_s
        self._deadline = time.monotonic() + limit_s

    def left_s(self) -> float:
        """How much of that time is left.

        Raises:
            TimeoutError: nothing.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def __call__(self, url: str, flags: int, options: object) -> Body:  # noqa: ARG002 - FFmpeg's own options are for its own HTTP
        """Open a URL.

        Raises:
            RefusedError: it leads outside the networks, is no web address, or the server refused.
            StreamError: the server cannot be reached, or fails.
        """
        if flags & _WRITE_FLAG:
            raise RefusedError(f"{redact(url)}: is to be written", "this is only for reading")
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
        raise RefusedError(f"{redact(url)}: is redirected again and again", "give the stream itself")

    def close(self) -> None:
        """Let go of all connections."""
        bodies, self._bodies = self._bodies, []
        for body in bodies:
            body.close()

    def _keep(self, body: Body) -> None:
        """Until it is closed; FFmpeg does not close the first one itself, and some servers name very many."""
        self._bodies.append(body)
        if len(self._bodies) > _MAX_OPEN:
            first, *older = self._bodies
            self._bodies = [first, *older[1:]]
            older[0].close()

    def _ask(self, url: str) -> tuple[http.client.HTTPResponse, socket.socket]:
        shown = redact(url)
        parts = urlsplit(url)
        if parts.scheme.lower() not in ("http", "https"):
            raise RefusedError(f"{shown}: leads to something that may not be opened from there", "give the stream itself")
        address = allowed_address(url, self._networks)
        secure = parts.scheme.lower() == "https"
        host, port = parts.hostname or "", parts.port or (443 if secure else 80)
        connection = http.client.HTTPConnection(host, port)
        try:
            plain = socket.create_connection((address, port), self.left_s())
            connection.sock = _tls().wrap_socket(plain, server_hostname=host) if secure else plain
            kept = connection.sock  # http.client lets go of it once it has the answer
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", target, headers=_headers(parts.username, parts.password))
            response = connection.getresponse()
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise self._unreachable(error, shown) from None
        return response, kept

    def _unreachable(self, error: Exception, shown: str) -> StreamError:
        if isinstance(error, TimeoutError):
            return StreamError(f"{shown}: did not answer within {self.limit_s:g} s", "is it on, and reachable from here?")
        if isinstance(error, ConnectionRefusedError):
            return StreamError(f"{shown}: connection refused: nothing listens there", "is it on, and the port right?")
        return StreamError(f"{shown}: cannot be opened: {type(error).__name__}", "is the address right, and the server there?")


def _check(response: http.client.HTTPResponse, shown: str) -> None:
    """See what the server says.

    Raises:
        RefusedError: no.
        StreamError: that it cannot.
    """
    status = response.status
    if status < 400:
        return
    if status >= 500:
        raise StreamError(f"{shown}: the server failed: {status}", "look at the server's log")
    if status == 404:
        raise RefusedError(f"{shown}: the server knows no such stream (404)", "check the path of its URL")
    message = _REFUSALS.get(status, f"the server refused it: {status}")
    raise RefusedError(f"{shown}: {message}", "check its URL, and the user and password in it")


def _headers(user: str | None, password: str | None) -> dict[str, str]:
    headers = {"User-Agent": "vision-infer", "Accept": "*/*", "Connection": "close"}
    if user is not None:
        both = f"{unquote(user)}:{unquote(password or '')}"
        headers["Authorization"] = f"Basic {b64encode(both.encode()).decode()}"
    return headers


def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
