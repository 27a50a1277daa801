"""The sockets of an RTSP client."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterable, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from vision_infer.config.stream_url import PROTOCOLS
from vision_infer.core.errors import StreamError
from vision_infer.stream.limited_http import unverified_tls
from vision_infer.stream.live.allowed_networks import allowed_address, unknown_host
from vision_infer.stream.rtsp.control_url import split_credentials
from vision_infer.stream.source import LiveOptions

_UDP_BUFFER = 2_000_000
"""The size of the receive buffer over UDP, bytes: a key frame arrives in a burst."""
_TRIES = 50
_READ = 65_536
_BURST = 64
"""The maximum number of UDP packets that are read at once."""
_HOLE = b"\x80\x00\x00\x00"
"""A packet without a payload."""
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def connected(url: str, live: LiveOptions) -> socket.socket:
    """Return a connection to the host of a URL, with TLS for ``rtsps``. The certificate is not verified: cameras sign their own.

    The connection does not block.

    Raises:
        RefusedError: The host is not allowed.
        StreamError: The host name cannot be resolved.
        OSError: There is no connection; :func:`unreachable` explains it.
    """
    parts = urlsplit(url)
    host = allowed_address(url, live.allow_networks) if live.allow_networks else parts.hostname or ""
    scheme = parts.scheme.lower()
    try:
        opened = socket.create_connection((host, parts.port or PROTOCOLS[scheme].port), live.open_timeout_s)
    except (socket.gaierror, UnicodeError):
        raise unknown_host(url) from None
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if scheme == "rtsps":
        try:
            opened = unverified_tls().wrap_socket(opened, server_hostname=parts.hostname)
        except BaseException:
            opened.close()
            raise
    opened.setblocking(False)
    return opened


def sent(connection: socket.socket, data: bytearray) -> int:
    """Return the number of bytes that a connection has accepted."""
    with suppress(*_NOT_NOW):
        return connection.send(data)
    return 0


def received(connection: socket.socket) -> list[bytes]:
    """Return what a connection has received; an empty item at its end."""
    with suppress(*_NOT_NOW):
        return [connection.recv(_READ)]
    return []


def received_packets(opened: socket.socket, peer: str) -> list[bytes]:
    """Return the UDP packets of one address that have arrived."""
    found: list[bytes] = []
    # A refusal is the answer to one of our own packets.
    with suppress(BlockingIOError, ConnectionRefusedError):
        for _ in range(_BURST):
            data, (address, *_) = opened.recvfrom(_READ)
            if address == peer and data:
                found.append(data)
    return found


def unreachable(shown: str, error: Exception, limit_s: float) -> StreamError:
    """Return the error for a connection that failed."""
    if isinstance(error, TimeoutError):
        return StreamError(f"{shown}: no answer within {limit_s:g} s", "Check that it is on and reachable from this machine.")
    if isinstance(error, ConnectionRefusedError):
        return StreamError(f"{shown}: connection refused", "Check that the camera is on and that the port is correct.")
    if isinstance(error, http.client.HTTPException):
        return StreamError(f"{shown}: the response is not valid HTTP", "Check the address and the port.")
    reason = getattr(error, "strerror", None) or error
    return StreamError(f"{shown}: cannot be opened: {reason}", "Check the address and the server.")


def udp_pair(connection: socket.socket) -> list[socket.socket]:
    """Return two UDP sockets on consecutive ports, the first of them even, at the address of a connection."""
    address = connection.getsockname()[0]
    for _ in range(_TRIES):
        first, second = (socket.socket(connection.family, socket.SOCK_DGRAM) for _ in range(2))
        with suppress(OSError, OverflowError):
            first.bind((address, 0))
            port = first.getsockname()[1]
            if not port % 2:
                second.bind((address, port + 1))
                for opened in (first, second):
                    opened.setblocking(False)
                    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UDP_BUFFER)
                return [first, second]
        first.close()
        second.close()
    raise StreamError("no two consecutive UDP ports are free", "Set transport: tcp for this stream.")


def open_firewall(opened: Sequence[socket.socket], ports: Iterable[tuple[int, int] | None], peer: str) -> None:
    """Send a packet from each UDP socket to the server's port, so that a firewall lets the packets of the server pass.

    Args:
        opened: Two sockets for each stream.
        ports: The server's ports for each stream; None if they are unknown.
        peer: The server's address.
    """
    for place, pair in enumerate(ports):
        for one, port in zip(opened[2 * place : 2 * place + 2], pair or (), strict=False):
            with suppress(OSError):
                one.sendto(_HOLE, (peer, port))


def with_credentials(url: str, target: str) -> str:
    """Return the URL of a redirect, with the credentials of the first URL if it leads to the same host."""
    credentials, at, _ = urlsplit(url).netloc.rpartition("@")
    if urlsplit(url).hostname != urlsplit(target).hostname or not at:
        return target
    scheme, _, rest = split_credentials(target)[0].partition("://")
    return f"{scheme}://{credentials}@{rest}"
