"""The shared port of a service with several worker processes.

The process in front owns the sockets. It gives a STUN request to the worker whose agent has the user name, and later packets from
an address to the worker that has claimed it after a valid check. Workers send through the same UDP socket themselves, and take
over TCP connections, so that no video passes through the process in front.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from aioice import stun

from vision_infer.core.clock import Clock
from vision_infer.core.errors import UsageError
from vision_infer.preview.transport.port import MEDIA, OWNED_NS, STUN, from_this_machine
from vision_infer.preview.transport.sockets import Sockets
from vision_infer.preview.transport.stun_message import StunMessage
from vision_infer.preview.transport.tcp import TcpListener, TcpRoute
from vision_infer.preview.transport.udp import Address, UdpSocket, remote_of

START_S = 30.0
"""The maximum time that a worker waits for the process in front, in seconds."""
PREFIX = 8
"""The number of characters by which all user names of a worker begin."""
_MAX_MESSAGE = 128 * 1024
_MAX_CLAIMS = 4096
_CLAIM_NS = 60_000_000_000
"""The time after which a claim is forgotten if there are many; a worker repeats it with each check."""
_READS = 64
_UDP, _TCP = b"U", b"T"


class PortFront:
    """Owns the sockets and distributes packets. The constructor listens for workers; all else happens on the event loop.

    Args:
        sockets: The sockets of the port.
        path: The Unix socket to which workers connect; only this account may open it.
        clock: The source of time.

    Raises:
        UsageError: The operating system has no Unix sockets for packets, such as macOS.
    """

    def __init__(self, sockets: Sockets, path: Path, clock: Clock) -> None:
        self._sockets = sockets
        self._now = clock.monotonic_ns
        try:
            self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            why = f"preview.port: worker processes cannot share a port on this system: {error.strerror}"
            raise UsageError(why, "Set preview.port to 0 for a random UDP port per viewer.") from error
        self._listening.bind(str(path))
        self._listening.listen()
        self._listening.setblocking(False)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._links: dict[str, socket.socket] = {}
        """The connected workers by the prefix of their user names."""
        self._started = 0
        self._claims: dict[tuple[str, int], tuple[str, int]] = {}
        """The prefix of the worker and the time of its last claim, by the address of a viewer."""
        self._udp = UdpSocket(sockets.udp, self._from_udp)
        self._tcp = TcpListener(sockets.tcp, self._from_tcp)

    async def open(self) -> None:
        """Start to receive packets and workers, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._listening, self._accept)
        self._udp.open()
        await self._tcp.open()

    def close(self, timeout_s: float = 2.0) -> None:
        """Close everything, and wait for it up to ``timeout_s`` seconds. It must not be called on the event loop."""
        if self._loop is None:
            self._listening.close()
        elif self._loop.is_running():
            with suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(timeout_s)

    async def _close(self) -> None:
        assert self._loop is not None
        for one in (self._listening, *self._links.values()):
            self._loop.remove_reader(one)
            one.close()
        self._links.clear()
        self._udp.close()
        self._tcp.close()

    def _accept(self) -> None:
        assert self._loop is not None
        try:
            link, _ = self._listening.accept()
        except OSError:
            return
        link.setblocking(False)
        self._started += 1  # a worker that starts again gets other user names
        prefix = f"{self._started:0{PREFIX}x}"
        with suppress(OSError):
            socket.send_fds(link, [prefix.encode()], [self._sockets.udp.fileno(), self._sockets.tcp.fileno()])
            self._links[prefix] = link
            self._loop.add_reader(link, self._claimed, prefix)

    def _claimed(self, prefix: str) -> None:
        assert self._loop is not None
        link, now = self._links[prefix], self._now()
        for _ in range(_READS):
            try:
                message = link.recv(_MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:  # the worker has ended
                self._loop.remove_reader(link)
                link.close()
                del self._links[prefix]
                self._claims = {remote: claim for remote, claim in self._claims.items() if claim[0] != prefix}
                return
            host, number = json.loads(message)
            owner, claimed_ns = self._claims.get((host, number), ("", 0))
            if owner in ("", prefix) or now - claimed_ns >= OWNED_NS:
                self._claims[host, number] = prefix, now
        if len(self._claims) > _MAX_CLAIMS:
            self._claims = {remote: claim for remote, claim in self._claims.items() if now - claim[1] < _CLAIM_NS}

    def _from_udp(self, data: bytes, address: Address, local: bytes) -> None:
        if self._sockets.own_machine and not from_this_machine(address[0], local):
            return
        link = self._link(data, remote_of(address))
        if link is not None:
            header = json.dumps([address, local.hex()]).encode()
            with suppress(OSError):  # a worker that does not read loses packets
                link.send(_UDP + header + b"\n" + data)

    def _from_tcp(self, data: bytes, route: TcpRoute) -> None:
        link = self._link(data, None)
        if link is not None:
            connection, taken = route.detached()
            with connection, suppress(OSError):
                socket.send_fds(link, [_TCP + taken], [connection.fileno()])

    def _link(self, data: bytes, remote: tuple[str, int] | None) -> socket.socket | None:
        first = data[0] if data else 255
        if first in STUN:
            try:
                message = StunMessage(data).message
            except ValueError:
                return None
            if message.message_class == stun.Class.REQUEST:
                return self._links.get(message.attributes.get("USERNAME", "")[:PREFIX])
        elif first not in MEDIA:
            return None
        claim = None if remote is None else self._claims.get(remote)
        return None if claim is None else self._links.get(claim[0])


class PortLink:
    """The connection of a worker to the process in front. It is used on the event loop only.

    Args:
        path: The Unix socket of the process in front.

    Raises:
        OSError: The process in front does not answer.
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(START_S)
        self._socket.connect(str(path))
        prefix, descriptors, _, _ = socket.recv_fds(self._socket, _MAX_MESSAGE, 2)
        self.prefix = prefix.decode()
        self.sockets = Sockets(*(socket.socket(fileno=number) for number in descriptors))
        """Copies of the sockets, to send."""
        self._socket.setblocking(False)
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, udp: Callable[[bytes, Address, bytes], None], tcp: Callable[[socket.socket, bytes], None]) -> None:
        """Start to receive.

        Args:
            udp: Called with each UDP packet, the address of its sender, and the local address.
            tcp: Called with each TCP connection, and the bytes that were read from it.
        """
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._readable, udp, tcp)

    def claim(self, remote: tuple[str, int]) -> None:
        """Request the packets from an address."""
        with suppress(OSError):
            self._socket.send(json.dumps(remote).encode())

    def close(self) -> None:
        """End the connection."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.remove_reader(self._socket)
        self._socket.close()

    def _readable(self, udp: Callable[..., None], tcp: Callable[..., None]) -> None:
        for _ in range(_READS):
            try:
                message, descriptors, _, _ = socket.recv_fds(self._socket, _MAX_MESSAGE, 1)
            except BlockingIOError:
                return
            except OSError:
                message, descriptors = b"", []
            if not message:  # the process in front has ended, and this one ends as well
                self.close()
                return
            if message[:1] == _UDP:
                header, _, data = message[1:].partition(b"\n")
                address, local = json.loads(header)
                udp(data, tuple(address), bytes.fromhex(local))
            elif descriptors:
                tcp(socket.socket(fileno=descriptors[0]), message[1:])
