"""Ends the connections of servers that send without end.

FFmpeg asks for the time-out only between its own steps, and reads some things to their end, whatever that takes: the fragments of
a NAL unit, a playlist, a part of a multipart stream. So one thread looks at all connections, and shuts down the sockets of those
that are overdue, that have sent too much since their last packet, or whose stream was removed; FFmpeg then reports an error.

FFmpeg does not tell which sockets it has opened. They are found in ``/proc/self/fd``: they are newer than the guard, and their
peer is the URL's host. Where that folder does not exist, connections are not guarded.
"""

from __future__ import annotations

import math
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

from vision_infer.config.stream_url import PROTOCOLS, split_url

MAX_BYTES = 32_000_000
"""The maximum that a server may send without a packet; a key frame has a few megabytes."""
LOOK_S = 0.25
_STOP_S = 1.0
"""The time that a removed stream has to end by itself, seconds."""
_RECEIVED = struct.Struct("=Q")
_RECEIVED_AT = 128
"""The offset of `tcpi_bytes_received` in Linux's `struct tcp_info`."""
_FOLDER = "/proc/self/fd"


class ConnectionGuard:
    """Guards the connection that the calling thread opens next.

    Args:
        url: The URL. Only protocols over TCP are guarded.
        stopping: Set when the stream is removed.
        limit_s: The time limit for opening, seconds.
    """

    def __init__(self, url: str, stopping: threading.Event, limit_s: float) -> None:
        self.problem = ""
        """The reason why the connection was ended; empty if it was not."""
        self._url = url
        self._stopping = stopping
        self._stopping_s: float | None = None
        self._before = _sockets()
        self._own: dict[int, str] | None = None
        self._peers: set[tuple[str, int]] | None = None
        self._turn = self._seen_turn = 0
        self._received: int | None = 0
        self.allow(limit_s)
        protocol = PROTOCOLS.get(split_url(url).scheme)
        if protocol is not None and protocol.tcp:
            _watch.add(self)

    def allow(self, limit_s: float) -> None:
        """Begin to wait for a packet, for at most this time in seconds; endless while the caller is busy with one."""
        self._deadline_s = time.monotonic() + limit_s
        self._turn += 1

    def opened(self, format_name: str) -> None:
        """Note that the connection is open. Sockets of other streams are newer; only HLS opens more for each segment."""
        if format_name != "hls":
            self._own = dict(_sockets().items() - self._before.items())
        self.allow(math.inf)

    def close(self) -> None:
        """Stop guarding."""
        _watch.remove(self)

    def look(self, now_s: float) -> None:
        """End the connection if it is overdue, or has sent too much; called by the watch."""
        waiting = self._turn == self._seen_turn and self._deadline_s < math.inf
        if self._turn != self._seen_turn:
            self._seen_turn = self._turn
            self._received = None if self._own is not None else 0
        if self._stopping.is_set() and self._stopping_s is None:
            self._stopping_s = now_s
        removed = self._stopping_s is not None and now_s - self._stopping_s >= _STOP_S
        overdue = now_s >= self._deadline_s
        if not (waiting or removed or overdue or self.problem):
            return
        received = sum(_received(connection) for connection in self._connections())
        if self._received is None:
            self._received = received
        too_much = received - self._received > MAX_BYTES
        if not (removed or overdue or too_much or self.problem):
            return
        if not self.problem:
            what = f"sent more than {MAX_BYTES // 1_000_000} MB without a frame" if too_much else "sent no frame in time"
            self.problem = "the stream was removed" if removed else f"the server {what}"
        for connection in self._connections():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _connections(self) -> Iterator[socket.socket]:
        """Yield the connections; each is valid until the next one."""
        if self._peers is None:
            self._peers = _addresses(self._url)
        now_open = _sockets() if self._own is None else {one: link for one, link in self._own.items() if _link(one) == link}
        for descriptor, link in now_open.items():
            if self._before.get(descriptor) == link:
                continue
            try:
                with socket.socket(fileno=os.dup(descriptor)) as connection:
                    if connection.type == socket.SOCK_STREAM and connection.getpeername()[:2] in self._peers:
                        yield connection
            except OSError:  # it was closed meanwhile, or is not connected
                continue


class _Watch:
    """The thread that looks at all guarded connections. It runs while there are any."""

    def __init__(self) -> None:
        # Guards _guards and _running. Streams hold it to add or remove a guard, the thread to copy them.
        self._lock = threading.Lock()
        self._guards: set[ConnectionGuard] = set()
        self._running = False

    def add(self, guard: ConnectionGuard) -> None:
        with self._lock:
            self._guards.add(guard)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="connection-guard", daemon=True).start()

    def remove(self, guard: ConnectionGuard) -> None:
        with self._lock:
            self._guards.discard(guard)

    def _run(self) -> None:
        while True:
            time.sleep(LOOK_S)
            with self._lock:
                guards = list(self._guards)
                self._running = bool(guards)
                if not guards:
                    return
            for guard in guards:
                guard.look(time.monotonic())


_watch = _Watch()


def _sockets() -> dict[int, str]:
    """Return the identity of each socket of this process by descriptor."""
    try:
        links = {int(name): _link(int(name)) for name in os.listdir(_FOLDER)}
    except OSError:
        return {}
    return {descriptor: link for descriptor, link in links.items() if link.startswith("socket:")}


def _link(descriptor: int) -> str:
    try:
        return os.readlink(f"{_FOLDER}/{descriptor}")
    except OSError:  # it was closed meanwhile
        return ""


def _addresses(url: str) -> set[tuple[str, int]]:
    """Return the addresses of a URL's host; none if it cannot be resolved."""
    with suppress(OSError, ValueError, UnicodeError):
        parts = split_url(url)
        port = parts.port or PROTOCOLS[parts.scheme].port
        return {(str(found[4][0]), port) for found in socket.getaddrinfo(parts.host, port, type=socket.SOCK_STREAM)}
    return set()


def _received(connection: socket.socket) -> int:
    with suppress(OSError, struct.error, AttributeError):
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return int(_RECEIVED.unpack_from(info, _RECEIVED_AT)[0])
    return 0
