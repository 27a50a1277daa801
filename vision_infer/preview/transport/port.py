"""The port that all viewers share: one UDP socket and one TCP listener with the same number.

A STUN request carries the user name of a viewer's ICE agent, which verifies it. From then on, packets from the same address
belong to this viewer (RFC 7983: the first byte tells STUN, DTLS and SRTP apart). All other packets are dropped without an answer.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from aioice import Candidate, stun

from vision_infer.core.clock import Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.preview.transport.addresses import Addresses, own_addresses
from vision_infer.preview.transport.route import Agent, Route
from vision_infer.preview.transport.sockets import Sockets
from vision_infer.preview.transport.stun_message import StunMessage
from vision_infer.preview.transport.tcp import TcpListener, TcpRoute
from vision_infer.preview.transport.udp import Address, UdpRoute, UdpSocket, remote_of

OWNED_NS = 10_000_000_000
"""The time for which an address belongs to a viewer after a valid check: a check of another viewer does not take it over."""
STUN = range(4)
MEDIA = frozenset((*range(20, 64), *range(128, 192)))
"""The first bytes of DTLS, and of RTP and RTCP."""
_HOST, _HOST_TCP = 126, 90
"""The type preferences of candidates: UDP comes first (RFC 8445, section 5.1.2; RFC 6544, section 4.2)."""
_PASSIVE = 4 << 13
"""The local preference of a passive TCP candidate (RFC 6544, section 4.2)."""


class NoAddressError(VisionInferError):
    """There is no address at which viewers could reach the port."""


class Link(Protocol):
    """The connection to the process in front; see :class:`~vision_infer.preview.transport.port_front.PortLink`."""

    prefix: str

    def open(self, udp: Callable[[bytes, Address, bytes], None], tcp: Callable[[socket.socket, bytes], None]) -> None:
        """Start to receive packets and connections."""

    def claim(self, remote: tuple[str, int]) -> None:
        """Request the packets from an address."""

    def close(self) -> None:
        """End the connection."""


@dataclass(slots=True)
class _Owner:
    agent: Agent
    checked_ns: int
    """The time of the last valid check from the address."""


class SharedPort:
    """Receives the packets of all viewers, and gives each one to the agent of its viewer. It is used on the event loop only.

    Args:
        sockets: The bound sockets; they are closed with this object.
        addresses: The announced addresses.
        clock: The source of time.
        link: The process in front, which receives for this one; None: this process receives.
    """

    def __init__(self, sockets: Sockets, addresses: Addresses, clock: Clock, link: Link | None = None) -> None:
        self.prefix = "" if link is None else link.prefix
        """The beginning of the user names of all agents."""
        self.number = sockets.number
        """The number of the port."""
        self.strays = 0
        """The number of packets that belonged to no viewer."""
        self._link = link
        self._addresses = addresses
        self._own_machine = sockets.own_machine
        self._now = clock.monotonic_ns
        self._agents: dict[str, Agent] = {}
        self._owners: dict[tuple[str, int], _Owner] = {}
        self._udp = UdpSocket(sockets.udp, self._from_udp)
        self._tcp = TcpListener(sockets.tcp, self._from_tcp)

    async def open(self) -> None:
        """Start to receive, on the running event loop."""
        self._udp.open(receive=self._link is None)
        if self._link is None:
            await self._tcp.open()
        else:
            self._link.open(self._from_udp, self._tcp.adopt)

    def close(self) -> None:
        """Close the sockets."""
        if self._link is not None:
            self._link.close()
        self._udp.close()
        self._tcp.close()

    async def candidates(self) -> list[Candidate]:
        """Return the candidates of each agent, best first.

        Raises:
            NoAddressError: No name in ``preview.addresses`` can be resolved.
        """
        hosts = await self._addresses.current()
        if not hosts:
            raise NoAddressError("no address for viewers is known", "Check preview.addresses: no name can be resolved.")
        more = own_addresses(ipv6=False) if self._own_machine else []
        udp = [self._candidate(host, "udp", _HOST, 65535 - number) for number, host in enumerate([*hosts, *more])]
        tcp = [self._candidate(host, "tcp", _HOST_TCP, _PASSIVE + 8191 - number) for number, host in enumerate(hosts)]
        return udp + tcp

    def add(self, agent: Agent) -> None:
        """Receive the packets of an agent."""
        self._agents[agent.local_username] = agent

    def remove(self, agent: Agent) -> None:
        """Forget an agent and its addresses."""
        self._agents.pop(agent.local_username, None)
        self._owners = {address: owner for address, owner in self._owners.items() if owner.agent is not agent}

    def release(self, agent: Agent, route: Route) -> None:
        """Forget the address of an agent's route."""
        owner = self._owners.get(route.remote)
        if route.protocol == "udp" and owner is not None and owner.agent is agent:
            del self._owners[route.remote]

    # Private

    def _candidate(self, host: str, transport: str, kind: int, preference: int) -> Candidate:
        foundation = hashlib.sha256(f"{transport}|{host}".encode()).hexdigest()[:16]
        priority = (kind << 24) + (preference << 8) + 255
        tcp = "passive" if transport == "tcp" else None
        return Candidate(foundation, 1, transport, priority, host, self.number, "host", tcptype=tcp)

    def _from_udp(self, data: bytes, address: Address, local: bytes) -> None:
        first = data[0] if data else 255
        if self._own_machine and not from_this_machine(address[0], local):
            pass
        elif first in MEDIA:
            owner = self._owners.get(remote_of(address))
            if owner is not None:
                owner.agent.receive(data)
                return
        elif first in STUN and self._stun(data, remote_of(address), lambda: UdpRoute(self._udp, address, local)):
            return
        self.strays += 1

    def _stun(self, data: bytes, remote: tuple[str, int], route: Callable[[], UdpRoute]) -> bool:
        try:
            request = StunMessage(data)
        except ValueError:
            return False
        owner = self._owners.get(remote)
        if request.message.message_class != stun.Class.REQUEST:
            if owner is not None:
                owner.agent.answered(request, route().key)
            return owner is not None
        agent = self._agent(request)
        if agent is None:
            return False
        now = self._now()
        if owner is not None and owner.agent is not agent and now - owner.checked_ns < OWNED_NS:
            return False
        if not agent.check(request, route()):
            return False
        self._owners[remote] = _Owner(agent, now)
        if self._link is not None:
            self._link.claim(remote)
        return True

    def _agent(self, request: StunMessage) -> Agent | None:
        user = request.message.attributes.get("USERNAME", "")
        return self._agents.get(user.partition(":")[0])

    def _from_tcp(self, data: bytes, route: TcpRoute) -> None:
        first = data[0] if data else 255
        agent = route.agent
        if first in STUN:
            try:
                request = StunMessage(data)
            except ValueError:
                self.strays += 1
                return
            if request.message.message_class != stun.Class.REQUEST:
                if agent is not None:
                    agent.answered(request, route)
                return
            found = self._agent(request)
            if found is not None and agent in (None, found) and found.check(request, route):
                route.belong(found)
                return
        elif first in MEDIA and agent is not None:
            agent.receive(data)
            return
        self.strays += 1


def from_this_machine(host: str, local: bytes) -> bool:
    """Return whether an IPv4 packet is from this machine: from a loopback address, or from the address that it was sent to."""
    return host.startswith("127.") or socket.inet_aton(host) == local
