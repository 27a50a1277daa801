"""A lossy network between a client and an RTSP server, for RTP over UDP."""

from __future__ import annotations

import re
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from tests.support.waiting import LIMIT_S

_PORTS = re.compile(rb"(client|server)_port=(\d+)-(\d+)")
_LOOK_S = 0.05


class UdpRelay:
    """Relays the first connection to a server of the loopback interface, and drops video packets; a context manager.

    The ports in the messages of RTSP are replaced by the relay's own, which forward to both sides. Only one track is relayed.

    Args:
        server_port: The port of the RTSP server.
        loses: Returns whether the next RTP packet to the client is lost; called on the relay's thread.
    """

    def __init__(self, server_port: int, loses: Callable[[], bool]) -> None:
        self._server_port = server_port
        self._loses = loses
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="udp relay")
        self._sockets = {side: _pair() for side in (b"client", b"server")}
        """The sockets to each side, for RTP and RTCP."""
        self._ports: dict[bytes, tuple[int, int]] = {}
        """The ports of each side."""
        self.lost = 0
        """The number of lost packets."""

    def url(self, path: str) -> str:
        """Return the URL of a mount through this network."""
        return f"rtsp://127.0.0.1:{self._listener.getsockname()[1]}{path}"

    def __enter__(self) -> UdpRelay:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        for one in (self._listener, *self._sockets[b"client"], *self._sockets[b"server"]):
            one.close()

    def _run(self) -> None:
        self._listener.settimeout(LIMIT_S)
        client, _ = self._listener.accept()
        own = self._listener.getsockname()[1]
        server = socket.create_connection(("127.0.0.1", self._server_port))
        with client, server, suppress(ConnectionError):  # a side that ends with unread data resets the connection
            while not self._ended.is_set():
                udp = [*self._sockets[b"client"], *self._sockets[b"server"]]
                for ready in select.select([client, server, *udp], [], [], _LOOK_S)[0]:
                    if ready in (client, server):
                        data = ready.recv(65_536)
                        if not data:
                            return
                        if ready is client:  # the server gives all clients of one URL the same video
                            data = data.replace(b"127.0.0.1:%d" % own, b"127.0.0.1:%d" % self._server_port)
                        (server if ready is client else client).sendall(_PORTS.sub(self._replaced, data))
                    else:
                        self._forward(ready)

    def _replaced(self, match: re.Match[bytes]) -> bytes:
        """Note the ports of one side in a message, and return the ports at which the other side reaches the relay."""
        side = match[1]
        if side == b"client" and b"client" in self._ports:  # the answer of the server repeats those of the relay
            return b"client_port=%d-%d" % self._ports[side]
        self._ports[side] = int(match[2]), int(match[3])
        other = b"server" if side == b"client" else b"client"
        return b"%s_port=%d-%d" % (side, *(one.getsockname()[1] for one in self._sockets[other]))

    def _forward(self, ready: socket.socket) -> None:
        data = ready.recv(65_536)
        side, other = (b"client", b"server") if ready in self._sockets[b"client"] else (b"server", b"client")
        place = self._sockets[side].index(ready)
        if side == b"server" and not place and self._loses():
            self.lost += 1
        elif other in self._ports:
            self._sockets[other][place].sendto(data, ("127.0.0.1", self._ports[other][place]))


def _pair() -> list[socket.socket]:
    """Return two sockets on consecutive ports, the first one even (RFC 3550, section 11)."""
    for port in range(21_000, 30_000, 2):
        sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        try:
            for place, one in enumerate(sockets):
                one.bind(("127.0.0.1", port + place))
        except OSError:
            for one in sockets:
                one.close()
        else:
            return sockets
    raise AssertionError("no two consecutive ports are free")
