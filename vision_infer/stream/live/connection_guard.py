"""Ends the connections of servers that send without end.

FFmpeg asks for the time-out only between its own steps, and reads some things to their end, whatever that takes: the fragments of
a NAL unit, a playlist, a part of a multipart stream. So one thread looks at all connections, and shuts down the sockets of those
that are overdue, that have sent too much since their last packet, or whose stream was removed; FFmpeg then reports an error.

FFmpeg does not report which sockets it has opened, and cameras of one recorder have the same address. So a guard acts only on a
socket that can belong to no other stream: the only one of this process that leads to the URL's host and was opened while no other
stream opened a connection to that host. All others are left to FFmpeg's time-outs: streams of a host that open at the same time,
HLS after it was opened (it opens more connections, for its segments), and redirects to other hosts. Where ``/proc/self/fd`` does
not exist, no connection is guarded.
"""

from __future__ import annotations

import math
import os
import socket
import stat
import struct
import threading
import time
from contextlib import suppress

from vision_infer.config.stream_url import PROTOCOLS, split_url

MAX_BYTES = 32_000_000
"""The maximum that a server may send without a packet; a key frame has a few megabytes."""
LOOK_S = 0.1
"""The time between two looks, seconds: a server can exceed the limit by what it sends in two of them."""
_STOP_S = 1.0
"""The time that a removed stream has to end by itself, seconds."""
_RECEIVED = struct.Struct("=Q")
_RECEIVED_AT = 128
"""The offset of `tcpi_bytes_received` in Linux's `struct tcp_info`."""
_FOLDER = "/proc/self/fd"
_Found = tuple[int, int]
"""The descriptor and the inode of a socket; a later socket may have the same descriptor, but not the same inode."""
_Connections = dict[_Found, tuple[str, int] | None]
"""The address that each socket is connected to; None if it is not connected over TCP."""


class ConnectionGuard:
    """Guards the connection that the calling thread opens next.

    Args:
        url: The URL. Only protocols over TCP are guarded. Its host is resolved here, in the thread of the stream.
        stopping: Set when the stream is removed.
        limit_s: The time limit for opening, seconds.
    """

    def __init__(self, url: str, stopping: threading.Event, limit_s: float) -> None:
        self.problem = ""
        """The reason why the connection was ended; empty if it was not."""
        self.hint = ""
        """What to do about the problem."""
        self.peers = _addresses(url)
        """The addresses that the URL's host had when the guard was created."""
        self.opening = True
        """Whether the stream may open further connections."""
        self._stopping = stopping
        self._stopping_s: float | None = None
        self._before: frozenset[int] = frozenset()
        self.alone = True
        """Whether no other stream has opened a connection to this host since this one began to open its own."""
        self._own: _Found | None = None
        self._turn = self._seen_turn = 0
        self._received: int | None = 0
        self.allow(limit_s)
        if self.peers:
            _watch.add(self)

    def allow(self, limit_s: float) -> None:
        """Begin to wait for a packet, for at most this time in seconds; endless while the caller is busy with one."""
        self._deadline_s = time.monotonic() + limit_s
        self._turn += 1

    def opened(self, format_name: str) -> None:
        """Note that the connection is open. Only HLS opens more, which are not guarded."""
        with _watch.lock:
            self.settle()
            self.opening = format_name == "hls"
            if self.opening:
                self._own = None
        self.allow(math.inf)

    def close(self) -> None:
        """Stop guarding."""
        _watch.remove(self)

    def begin(self, alone: bool) -> None:
        """Note the sockets that exist before the connection is opened, and whether no other stream opens one to this host."""
        self._before = frozenset(_sockets().values())
        self.alone = alone

    def settle(self) -> None:
        """Keep the present connection as the only one that is guarded, because later ones may belong to other streams."""
        if self.alone:
            self._own, self.alone = self._found(_connections()), False

    def look(self, now_s: float, connections: _Connections) -> None:
        """End the connection if it is overdue, or has sent too much; called by the watch with all connections of this process."""
        if self._turn != self._seen_turn:
            self._seen_turn = self._turn
            self._received = 0 if self.opening else None
        if self._stopping.is_set() and self._stopping_s is None:
            self._stopping_s = now_s
        removed = self._stopping_s is not None and now_s - self._stopping_s >= _STOP_S
        overdue = now_s >= self._deadline_s
        found = self._found(connections) if self.alone else self._own
        connection = None if found is None else _copy(*found)
        if connection is None:
            return
        with connection, suppress(OSError):
            received = _received(connection)
            if self._received is None:
                self._received = received
            too_much = received - self._received > MAX_BYTES
            if removed or overdue or too_much or self.problem:
                if not self.problem:
                    self._explain(removed, too_much)
                connection.shutdown(socket.SHUT_RDWR)

    def _explain(self, removed: bool, too_much: bool) -> None:
        if removed:
            self.hint, self.problem = "", "the stream was removed"
        elif too_much:
            self.hint = "Check the stream's format and bit rate."
            self.problem = f"the server sent more than {MAX_BYTES // 1_000_000} MB without a complete frame"
        else:
            self.hint, self.problem = "Check the camera, or remove the stream.", "the server sent no frame in time"

    def _found(self, connections: _Connections) -> _Found | None:
        """Return the only connection to the host that was opened since the guard began; None if there are none or several."""
        found = [one for one, peer in connections.items() if peer in self.peers and one[1] not in self._before]
        return found[0] if len(found) == 1 else None


class _Watch:
    """The thread that looks at all guarded connections. It runs while there are any."""

    def __init__(self) -> None:
        # Guards _guards, _running, and which sockets each guard owns. Streams hold it when they begin to open a connection, have
        # opened it, or close it; the thread holds it while it looks.
        self.lock = threading.Lock()
        self._guards: set[ConnectionGuard] = set()
        self._running = False

    def add(self, guard: ConnectionGuard) -> None:
        with self.lock:
            others = [other for other in self._guards if other.opening and other.peers & guard.peers]
            for other in others:
                other.settle()
            guard.begin(alone=not others)
            self._guards.add(guard)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="connection-guard", daemon=True).start()

    def remove(self, guard: ConnectionGuard) -> None:
        with self.lock:
            self._guards.discard(guard)

    def _run(self) -> None:
        while True:
            time.sleep(LOOK_S)
            with self.lock:
                self._running = bool(self._guards)
                if not self._guards:
                    return
                connections = _connections() if any(guard.alone for guard in self._guards) else {}
                for guard in self._guards:
                    guard.look(time.monotonic(), connections)


_watch = _Watch()


def _sockets() -> dict[int, int]:
    """Return the inode of each socket of this process by descriptor."""
    try:
        inodes = {int(name): _inode(int(name)) for name in os.listdir(_FOLDER)}
    except OSError:
        return {}
    return {descriptor: inode for descriptor, inode in inodes.items() if inode}


def _connections() -> _Connections:
    return {one: _peer(*one) for one in _sockets().items()}


def _inode(descriptor: int) -> int:
    """Return the inode of a socket; 0 if the descriptor is not a socket, or was closed meanwhile."""
    with suppress(OSError):
        status = os.fstat(descriptor)
        return status.st_ino if stat.S_ISSOCK(status.st_mode) else 0
    return 0


def _copy(descriptor: int, inode: int) -> socket.socket | None:
    """Return a copy of a socket, which stays valid when FFmpeg closes its own; None if the socket was closed."""
    with suppress(OSError):
        copied = os.dup(descriptor)
        if _inode(copied) == inode:
            return socket.socket(fileno=copied)
        os.close(copied)
    return None


def _peer(descriptor: int, inode: int) -> tuple[str, int] | None:
    """Return the address that a TCP socket is connected to; None if it is not connected."""
    connection = _copy(descriptor, inode)
    if connection is None:
        return None
    with connection, suppress(OSError):
        if connection.type == socket.SOCK_STREAM and connection.family in (socket.AF_INET, socket.AF_INET6):
            host, port = connection.getpeername()[:2]
            return host, port
    return None


def _addresses(url: str) -> set[tuple[str, int]]:
    """Return the addresses of a URL's host; none if the protocol is not over TCP, or the host cannot be resolved."""
    with suppress(OSError, ValueError, UnicodeError):
        parts = split_url(url)
        protocol = PROTOCOLS.get(parts.scheme)
        if protocol is None or not protocol.tcp:
            return set()
        port = parts.port or protocol.port
        return {(str(found[4][0]), port) for found in socket.getaddrinfo(parts.host, port, type=socket.SOCK_STREAM)}
    return set()


def _received(connection: socket.socket) -> int:
    with suppress(OSError, struct.error, AttributeError):
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return int(_RECEIVED.unpack_from(info, _RECEIVED_AT)[0])
    return 0
