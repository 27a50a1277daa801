"""Sends an HTTP request to an address that was checked before, with one time limit for the whole request and its response.

The time limits of ``http.client`` hold for each read, so a server that sends one byte at a time could occupy it without end. TLS
certificates are not verified, since cameras sign their own.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit


def send(
    url: str,
    address: str,
    left_s: Callable[[], float],
    headers: Mapping[str, str],
    method: str = "GET",
    body: bytes | None = None,
) -> tuple[http.client.HTTPResponse, socket.socket]:
    """Send a request, and return the response when its headers have arrived, and the connection, which the caller closes.

    Args:
        url: The URL, ``http`` or ``https``.
        address: The IP address to connect to, in place of the URL's host.
        left_s: Returns the time that is left, in seconds, or raises ``TimeoutError``. It is called before each read, also while
            the content is read.
        headers: The headers.
        method: The method.
        body: The content of the request; None for none.

    Raises:
        OSError: The address cannot be reached, or it takes too long.
        HTTPException: The response is not valid HTTP.
        ValueError: The URL is not valid.
    """
    parts = urlsplit(url)
    secure = parts.scheme.lower() == "https"
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    connection = http.client.HTTPConnection(host, port)
    opened = socket.create_connection((address, port), left_s())
    try:
        if secure:
            opened = unverified_tls().wrap_socket(opened, server_hostname=host)
        connection.sock = _LimitedSocket(opened, left_s)
        connection.request(method, request_target(url), body, dict(headers))
        return connection.getresponse(), opened
    except BaseException:
        opened.close()
        raise


def request_target(url: str) -> str:
    """Return the path and the query of a URL, as they are sent (RFC 9112, section 3.2.1)."""
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


class _LimitedSocket:
    """A socket for ``http.client`` whose time limit holds for a whole response, and not for each of its bytes."""

    def __init__(self, opened: socket.socket, left_s: Callable[[], float]) -> None:
        self._opened = opened
        self._left_s = left_s

    def sendall(self, data: bytes) -> None:
        self._opened.settimeout(self._left_s())
        self._opened.sendall(data)

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(_LimitedReader(self._opened, self._left_s))

    def close(self) -> None:
        """Do nothing: the response is read from the socket after ``http.client`` has closed the connection."""


class _LimitedReader(io.RawIOBase):
    def __init__(self, opened: socket.socket, left_s: Callable[[], float]) -> None:
        self._opened = opened
        self._left_s = left_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._opened.settimeout(self._left_s())
        return self._opened.recv_into(buffer)


def unverified_tls() -> ssl.SSLContext:
    """Return the settings of TLS connections to cameras, which sign their own certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
