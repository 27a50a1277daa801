"""The shared port of the preview in a test, its viewers, and their connections over UDP and TCP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from aioice import ice

from tests.support.free_port import free_port
from tests.support.hand_clock import HandClock
from tests.support.ice_peer import IcePeer
from vision_infer.config.preview import PreviewSettings
from vision_infer.core.clock import Clock
from vision_infer.preview.transport.addresses import Addresses
from vision_infer.preview.transport.agent import LiteAgent
from vision_infer.preview.transport.candidates import CheckRate
from vision_infer.preview.transport.port import SharedPort
from vision_infer.preview.transport.sockets import bind

LIMIT_S = 20.0
OWN = ice.get_host_addresses(use_ipv4=True, use_ipv6=False)
"""The addresses of this machine."""
DTLS = b"\x16 handshake"
RTP = b"\x80 media"


@asynccontextmanager
async def shared(clock: Clock | None = None, host: str = "127.0.0.1", *addresses: str) -> AsyncIterator[SharedPort]:
    """Open a port."""
    clock = clock or HandClock()
    settings = PreviewSettings(port=free_port("127.0.0.1" if host == "::" else host), addresses=addresses)
    with bind(settings, host) as sockets:
        assert sockets is not None
        port = SharedPort(sockets, Addresses(settings.addresses, sockets.host, clock), clock)
        await port.open()
        try:
            yield port
        finally:
            port.close()


async def viewer(port: SharedPort, clock: Clock | None = None) -> tuple[LiteAgent, IcePeer]:
    """Return the agent of a new viewer, and its player."""
    clock = clock or HandClock()
    agent = LiteAgent(port, clock, CheckRate(clock))
    peer = IcePeer(agent.local_username, agent.local_password)
    agent.remote_username, agent.remote_password = peer.own_ufrag, peer.own_password
    await agent.gather_candidates()
    return agent, peer


class Udp:
    """The UDP socket of a player."""

    def __init__(self, port: SharedPort, host: str = "127.0.0.1", number: int = 0) -> None:
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        if number:  # with this option, the kernel may give two sockets the same random port
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind((host, number))
        self.socket.setblocking(False)
        self.address = self.socket.getsockname()[:2]
        self.service = (host, port.number)

    def send(self, data: bytes) -> None:
        self.socket.sendto(data, self.service)

    async def read(self) -> bytes:
        async with asyncio.timeout(LIMIT_S):
            return (await asyncio.get_running_loop().sock_recvfrom(self.socket, 4096))[0]

    def rest(self) -> list[bytes]:
        """Return the packets that have already arrived."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096))
            except BlockingIOError:
                return found

    def close(self) -> None:
        self.socket.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.002)


async def selected(agent: LiteAgent, end: Udp) -> None:
    """Wait until the video goes to an address."""
    await until(lambda: agent.route is not None and agent.route.remote == end.address)


async def nothing(*ends: Udp) -> None:
    """Verify that packets sent before now cause no answer: a later one to the same port has been processed."""
    for _ in range(5):
        await asyncio.sleep(0.002)
    assert [end.rest() for end in ends] == [[] for _ in ends]


async def connected(port: SharedPort) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port.number)


async def packet(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(LIMIT_S):
        return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))


async def ended(reader: asyncio.StreamReader) -> None:
    """Wait until the service has closed a connection without sending anything."""
    async with asyncio.timeout(LIMIT_S):
        with suppress(ConnectionError):
            assert await reader.read() == b""
