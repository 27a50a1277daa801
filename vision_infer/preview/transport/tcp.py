"""ICE over TCP: passive candidates (RFC 6544), with packets framed by their length (RFC 4571)."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal, cast

from vision_infer.preview.transport.route import MAX_WAITING, Agent
from vision_infer.preview.transport.udp import MAX_DATAGRAM, remote_of

MAX_UNKNOWN = 128
"""The maximum number of connections without a valid connectivity check; a further one replaces the oldest."""
FIRST_CHECK_S = 10.0
"""The time in which a connection must send a valid connectivity check, in seconds."""
_SEND_BUFFER_BYTES = 128 * 1024
"""The kernel's send buffer for one viewer. A larger buffer would only make a slow viewer's video older."""
_STUCK_MS = 15_000
"""The time after which the kernel closes a connection that does not acknowledge data, in milliseconds."""
_READ_BYTES = 8 * 1024
"""The maximum number of bytes that are read from a connection before other tasks run."""
_BACKLOG = 128
_LENGTH = struct.Struct("!H")


class TcpListener:
    """Accepts TCP connections of viewers on the event loop.

    Args:
        bound: The socket; it is closed with this object.
        received: Called with each packet and its connection. A connection that belongs to no viewer after its first packet is
            closed; see :meth:`TcpRoute.belong`.
    """

    def __init__(self, bound: socket.socket, received: Callable[[bytes, TcpRoute], None]) -> None:
        self.socket = bound
        self._received = received
        self._server: asyncio.Server | None = None
        self._unknown: dict[TcpRoute, asyncio.TimerHandle] = {}
        self._adopting: set[asyncio.Task[None]] = set()
        bound.setblocking(False)

    async def open(self) -> None:
        """Start to accept connections, on the running event loop."""
        self._server = await asyncio.get_running_loop().create_server(self._accept, sock=self.socket, backlog=_BACKLOG)

    def adopt(self, connection: socket.socket, taken: bytes) -> None:
        """Continue a connection that another process has accepted, with the bytes that it has read."""

        async def connect() -> None:
            with suppress(OSError):
                _, route = await asyncio.get_running_loop().connect_accepted_socket(self._accept, connection)
                route.take(taken)

        adopting = asyncio.get_running_loop().create_task(connect())
        self._adopting.add(adopting)
        adopting.add_done_callback(self._adopting.discard)

    def close(self) -> None:
        """Close the socket and all connections that belong to no viewer."""
        if self._server is not None:
            self._server.close()
        for route in list(self._unknown):
            route.close()
        self.socket.close()

    def _accept(self) -> TcpRoute:
        return TcpRoute(self._received, self._made, self._known)

    def _made(self, route: TcpRoute) -> None:
        if len(self._unknown) >= MAX_UNKNOWN:
            next(iter(self._unknown)).close()
        self._unknown[route] = asyncio.get_running_loop().call_later(FIRST_CHECK_S, route.close)

    def _known(self, route: TcpRoute) -> None:
        timer = self._unknown.pop(route, None)
        if timer is not None:
            timer.cancel()


class TcpRoute(asyncio.BufferedProtocol):
    """A TCP connection of a viewer. It is used on the event loop only.

    Args:
        received: Called with each packet.
        made: Called when the connection is open.
        known: Called when the connection belongs to a viewer, or is closed.
    """

    protocol: Literal["tcp"] = "tcp"

    def __init__(
        self,
        received: Callable[[bytes, TcpRoute], None],
        made: Callable[[TcpRoute], None],
        known: Callable[[TcpRoute], None],
    ) -> None:
        self.remote = ("", 0)
        self.agent: Agent | None = None
        """The agent of its viewer; None before a valid check."""
        self._buffer = bytearray(_READ_BYTES)
        self._taken = bytearray()
        """The bytes of the packet that is incomplete."""
        self._received = received
        self._made = made
        self._known = known
        self._connection: asyncio.Transport | None = None

    @property
    def key(self) -> object:
        """The identity of the route."""
        return self

    @property
    def waiting(self) -> int:
        """The number of bytes that the kernel has not accepted yet."""
        return 0 if self._connection is None else self._connection.get_write_buffer_size()

    def belong(self, agent: Agent) -> None:
        """Note the agent that has received a valid connectivity check."""
        self.agent = agent
        self._known(self)

    def detached(self) -> tuple[socket.socket, bytes]:
        """Return a copy of the socket and all bytes that were read, for another process."""
        assert self._connection is not None
        return self._connection.get_extra_info("socket").dup(), bytes(self._taken)

    def send(self, burst: Sequence[bytes]) -> None:
        """Send packets. A viewer that is too slow loses them."""
        if self._connection is not None and not self._connection.is_closing() and self.waiting < MAX_WAITING:
            self._connection.write(b"".join(part for packet in burst for part in (_LENGTH.pack(len(packet)), packet)))

    def close(self) -> None:
        """Close the connection at once."""
        if self._connection is not None:
            self._connection.abort()
        self._known(self)

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._connection = cast(asyncio.Transport, transport)
        address = transport.get_extra_info("peername")
        if not address:  # it is already closed
            self._connection.abort()
            return
        self.remote = remote_of(address)
        connection = transport.get_extra_info("socket")
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            user_timeout = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux
            if user_timeout is not None:
                connection.setsockopt(socket.IPPROTO_TCP, user_timeout, _STUCK_MS)
        self._made(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Forget the connection."""
        self._connection = None
        self._known(self)
        if self.agent is not None:
            self.agent.lost(self)

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - asyncio's signature
        """Return the buffer to read into."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        self.take(self._buffer[:nbytes])

    def take(self, data: bytes | bytearray) -> None:
        """Take the packets that are complete. A packet of more than 2048 bytes ends the connection."""
        taken = self._taken
        taken += data
        at = 0
        while len(taken) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(taken, at)
            if length > MAX_DATAGRAM:
                self.close()
                return
            end = at + _LENGTH.size + length
            if end > len(taken):
                break
            self._received(bytes(taken[at + _LENGTH.size : end]), self)
            at = end
            if self.agent is None or self._connection is None or self._connection.is_closing():
                self.close()
                return
        del taken[:at]
