"""The listening socket: it limits connections before a TLS handshake and before any byte is read."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from vision_infer.service.http.limits import network_of

HANDSHAKE_TIMEOUT_S = 10.0
"""The time limit for a TLS handshake, in seconds."""
MAX_DESCRIPTORS = 65_536
"""The soft limit of file descriptors is raised to the hard limit, but not above this number."""
_FULL = (errno.EMFILE, errno.ENFILE)
_REFUSALS = 128
"""The maximum number of connections that are refused before the event loop continues."""

logger = logging.getLogger("vision_infer.http")


class Progress(IntEnum):
    """What a connection does. At a limit, those with the lowest value are closed first."""

    UNFINISHED = 0
    """A client without a token has not sent a complete request."""
    IDLE = 1
    """No request is in progress, or a client without a token receives a file of the page."""
    UPLOADING = 2
    """An authenticated client sends the body of its request."""
    BUSY = 3
    """The service works on a complete request. Such connections are never closed."""


class Handler(Protocol):
    """The protocol of a connection."""

    @property
    def progress(self) -> Progress:
        """What the connection does now."""
        ...

    def abort(self) -> None:
        """Close the connection immediately."""


class Listener(socket.socket):
    """A listening socket with a maximum number of connections of each client and in all.

    At a limit, an accepted connection takes the slot of one that is not busy: of the client with the most connections, and of
    those the oldest. A TLS handshake is closed only for a client with fewer connections: asyncio holds 256 KB for each until the
    next garbage collection. An IPv6 client is its /64 network. Only the event loop may use it.

    Args:
        max_connections: The maximum number of connections.
        max_per_client: The maximum number of connections of one client.
    """

    def __init__(self, family: int, max_connections: int, max_per_client: int) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._max_connections = max_connections
        self._max_per_client = max_per_client
        self._connections: dict[Any, _Connection] = {}
        """The open connections by the address of the peer, oldest first."""
        self._counts: Counter[str] = Counter()
        self._spare = os.open(os.devnull, os.O_RDONLY)
        """A descriptor that is released to accept and close a connection when no other is free."""
        self._pausing = False
        """Whether the event loop must release the descriptor of a closed connection before the next one is accepted."""

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection.

        Raises:
            BlockingIOError: No client waits, or the event loop must continue first.
        """
        if self._pausing:
            self._pausing = False
            raise BlockingIOError
        for _ in range(_REFUSALS):
            try:
                accepted, peer = super().accept()
            except OSError as error:
                if error.errno not in _FULL or self._spare < 0:
                    raise
                logger.warning("too many open files: a connection is refused. Raise the limit (ulimit -n, LimitNOFILE).")
                self._refuse()
                continue
            client = network_of(peer[0])
            if self._has_slot(client):
                connection = _Connection(accepted, self, peer, client)
                self._connections[peer] = connection
                self._counts[client] += 1
                loop = asyncio.get_running_loop()
                connection.deadline = loop.call_later(HANDSHAKE_TIMEOUT_S, connection.abort)
                return connection, peer
            accepted.close()
        raise BlockingIOError

    def attach(self, peer: Any, handler: Handler) -> None:
        """Note that a connection has its protocol: it is plain, or the TLS handshake is complete."""
        connection = self._connections.get(peer)
        if connection is not None:
            connection.handler = handler
            connection.stop_waiting()

    def forget(self, connection: _Connection) -> None:
        """Stop counting a connection. Further calls have no effect."""
        if self._connections.get(connection.peer) is connection:
            del self._connections[connection.peer]
            self._counts[connection.client] -= 1
            if not self._counts[connection.client]:
                del self._counts[connection.client]

    def close(self) -> None:
        """Stop listening."""
        super().close()
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1

    def _has_slot(self, client: str) -> bool:
        own = self._counts[client]
        if own >= self._max_per_client:
            return self._free_slot([one for one in self._connections.values() if one.client == client], own)
        return len(self._connections) < self._max_connections or self._free_slot(self._connections.values(), own)

    def _free_slot(self, connections: Iterable[_Connection], own: int) -> bool:
        """Close one of these connections; return False if none may be closed for a client with this number of connections."""
        found = [
            (progress, -self._counts[one.client], number, one)
            for number, one in enumerate(connections)
            if (progress := one.progress) is not Progress.BUSY and (one.handler or self._counts[one.client] > own)
        ]
        if not found:
            return False
        victim = min(found)[-1]
        self.forget(victim)
        victim.abort()
        self._pausing = True
        return True

    def _refuse(self) -> None:
        os.close(self._spare)
        self._spare = -1
        with suppress(OSError):
            super().accept()[0].close()
        with suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY)
        self._free_slot(self._connections.values(), 0)


class _Connection(socket.socket):
    """An accepted connection, which is counted until it is closed."""

    def __init__(self, accepted: socket.socket, listener: Listener, peer: Any, client: str) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        self._listener = listener
        self.peer = peer
        self.client = client
        self.handler: Handler | None = None
        """The HTTP protocol; None during a TLS handshake."""
        self.deadline: asyncio.TimerHandle | None = None

    @property
    def progress(self) -> Progress:
        """What the connection does now."""
        return Progress.UNFINISHED if self.handler is None else self.handler.progress

    def stop_waiting(self) -> None:
        """Cancel the time limit for the handshake."""
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def abort(self) -> None:
        """Close the connection immediately; asyncio then releases the descriptor."""
        if self.handler is not None:
            self.handler.abort()
        else:
            with suppress(OSError):  # the client has just disconnected
                self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Release the descriptor."""
        self.stop_waiting()
        self._listener.forget(self)
        super().close()


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The maximum numbers of connections."""

    total: int
    per_client: int


def connection_limits(wanted: int, spare: int, descriptors: int) -> ConnectionLimits:
    """Return the limits of connections: half of all file descriptors are left for cameras, outputs and engines.

    Args:
        wanted: The maximum number of connections if there are enough descriptors.
        spare: The part of it that clients other than readers of results use.
        descriptors: The soft limit of file descriptors.
    """
    total = min(wanted, max(4, descriptors // 2))
    if total < wanted:
        logger.warning("only %d HTTP connections: the limit of open files is %d (ulimit -n, LimitNOFILE)", total, descriptors)
    return ConnectionLimits(total, max(total - spare // 2, total * 3 // 5))


def raise_descriptor_limit() -> None:
    """Raise the soft limit of file descriptors to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # not permitted here: the soft limit stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
