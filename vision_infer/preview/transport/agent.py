"""The ICE agent of one viewer on the shared port: ICE-lite (RFC 8445, section 2.5), in place of aioice's inside aiortc.

It answers connectivity checks, and sends to the route that the viewer has nominated. Anyone who has seen a check can repeat it
from another address, and with ICE-lite alone the video would go there. Therefore the first route is used at once, but another
one needs one check in the other direction, which only the viewer can answer.

If a TURN server is configured, the viewer can also reach an address there. The server lets packets through to the service only
from addresses to which the service has sent (RFC 8656, section 9). Therefore one check goes through the server to each candidate
of the viewer. STUN servers are for players only: behind a NAT, the service announces ``preview.addresses`` instead, because
with ICE-lite no packet of the service would open the NAT for a viewer.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections import deque
from contextlib import suppress
from typing import Any

from aioice import Candidate, ConnectionClosed, stun

from vision_infer.core.clock import Clock
from vision_infer.preview.transport.candidates import CheckRate
from vision_infer.preview.transport.datagrams import Datagrams
from vision_infer.preview.transport.port import MEDIA, STUN, SharedPort
from vision_infer.preview.transport.route import Route
from vision_infer.preview.transport.stun_message import StunMessage
from vision_infer.preview.transport.turn_relay import TurnRelay

MAX_ROUTES = 32
"""The maximum number of routes of a viewer; a further one replaces the oldest that is not in use."""
_MAX_RECEIVED = 256
"""The maximum number of received packets that wait; further ones are dropped."""
_CHECK_PAUSE_S = 0.02
_UFRAG, _PASSWORD = 9, 24
"""The number of random bytes of the user name fragment and the password, which are multiples of 3 for Base64."""


class LiteAgent:
    """Answers the checks of one viewer. It is used on the event loop only.

    aiortc uses the attributes and coroutines that ``aioice.Connection`` has as well.

    Args:
        port: The shared port.
        clock: The source of time.
        checks: The limit of own checks through TURN servers for all viewers.
        servers: The arguments of ``aioice.Connection`` for the STUN and TURN server.
    """

    def __init__(self, port: SharedPort, clock: Clock, checks: CheckRate, **servers: Any) -> None:
        self.local_username = port.prefix + _random(_UFRAG)
        self.local_password = _random(_PASSWORD)
        self.local_candidates: list[Candidate] = []
        self.remote_candidates: list[Candidate] = []
        self.remote_username: str | None = None
        self.remote_password: str | None = None
        self.remote_is_lite = False
        self.ice_controlling = False
        self.route: Route | None = None
        """The route to the viewer; None until a valid check has arrived, and after the end."""
        self.checks = 0
        """The number of valid connectivity checks from the viewer."""
        self.heard_ns = 0
        """The time of the last valid check, monotonic; 0 before the first."""
        self._turn = {name: value for name, value in servers.items() if name.startswith("turn_")}
        self._relay: TurnRelay | None = None
        self._rate = checks
        self._port = port
        self._now = clock.monotonic_ns
        self._routes: dict[object, Route] = {}
        self._used: set[object] = set()
        """The keys of the routes that were the first, or that the viewer has verified."""
        self._verifying: dict[object, bytes] = {}
        """The transaction of the own check by the key of its route."""
        self._tie_breaker = secrets.randbits(64)
        self._received: deque[bytes] = deque()
        loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._connected: asyncio.Future[None] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()

    # For aiortc

    async def gather_candidates(self) -> None:
        """Determine the own candidates, and start to answer checks."""
        self.local_candidates = await self._port.candidates()
        if self._turn:
            relay = TurnRelay(self._relayed, self._relay_lost)
            candidate = await relay.open(self._turn)
            if candidate is not None:
                self._relay = relay
                self.local_candidates.append(candidate)
        if self._closed.done():
            self._close_relay()
        else:
            self._port.add(self)

    async def add_remote_candidate(self, candidate: Candidate | None) -> None:
        """Let a candidate of the viewer through the TURN server. The shared port needs none: checks show the address."""
        if candidate is not None:
            self.remote_candidates.append(candidate)
            await self._permit(candidate)

    async def connect(self) -> None:
        """Wait for a valid check.

        Raises:
            ConnectionError: The agent was closed.
        """
        for candidate in tuple(self.remote_candidates):  # those of the offer, for which the password was not known yet
            await self._permit(candidate)
        await asyncio.shield(self._connected)

    async def close(self) -> None:
        """Stop to answer checks, and close all routes."""
        if self._closed.done():
            return
        self._closed.set_result(None)
        self._close_relay()
        self._port.remove(self)
        self.route = None
        for route in list(self._routes.values()):
            route.close()
        self._routes.clear()
        if not self._connected.done():
            self._connected.set_exception(ConnectionError("closed"))
            self._connected.exception()  # aiortc may not have started to wait for it
        self._wake()

    async def get_event(self) -> ConnectionClosed:
        """Wait for the end of the connection."""
        await asyncio.shield(self._closed)
        return ConnectionClosed()

    async def recv(self) -> bytes:
        """Return the next DTLS or SRTP packet.

        Raises:
            ConnectionError: The agent was closed.
        """
        while not self._received:
            if self._closed.done():
                raise ConnectionError("the connection is closed")
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._received.popleft()

    async def send(self, data: bytes) -> None:
        """Send a packet.

        Raises:
            ConnectionError: There is no route to the viewer.
        """
        if self.route is None:
            raise ConnectionError("the viewer is not connected")
        self.route.send((data,))

    # For the port

    def receive(self, data: bytes) -> None:
        """Take a DTLS or SRTP packet from an address of the viewer."""
        if len(self._received) < _MAX_RECEIVED:
            self._received.append(data)
            self._wake()

    def check(self, request: StunMessage, route: Route) -> bool:
        """Answer a connectivity check; return whether it is valid, so that its route belongs to the viewer."""
        message = request.message
        user = f"{self.local_username}:{self.remote_username}"
        if message.attributes.get("USERNAME") != user or not request.proves(self.local_password):
            return False
        self.checks += 1
        self.heard_ns = self._now()
        answer = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, message.transaction_id)
        if "ICE-CONTROLLED" in message.attributes:  # only the viewer can be the controlling agent
            answer.message_class = stun.Class.ERROR
            answer.attributes["ERROR-CODE"] = (487, "Role Conflict")
        else:
            answer.attributes["XOR-MAPPED-ADDRESS"] = route.remote
        answer.add_message_integrity(self.local_password.encode())
        route = self._keep(route)
        route.send((bytes(answer),))
        if answer.message_class == stun.Class.RESPONSE:
            if not self._connected.done():
                self._use(route)
            elif route is not self.route and (self.route is None or "USE-CANDIDATE" in message.attributes):
                self._ask(route)
        return True

    def answered(self, request: StunMessage, key: object) -> None:
        """Take an answer to an own check."""
        message, route = request.message, self._routes.get(key)
        if route is None or self.remote_password is None or self._verifying.get(key) != message.transaction_id:
            return
        if message.message_class == stun.Class.RESPONSE and request.proves(self.remote_password):
            self._use(route)

    def lost(self, route: Route) -> None:
        """Forget a route that no longer exists."""
        self._routes.pop(route.key, None)
        self._verifying.pop(route.key, None)
        self._used.discard(route.key)
        if self.route is route:
            self.route = next((one for key, one in reversed(self._routes.items()) if key in self._used), None)

    # Private

    def _keep(self, route: Route) -> Route:
        key = route.key
        known = self._routes.get(key)
        if known is not None:
            return known
        if len(self._routes) >= MAX_ROUTES:
            old = next(one for one in self._routes.values() if one is not self.route)
            self.lost(old)
            if all(one.remote != old.remote for one in self._routes.values()):
                self._port.release(self, old)
            old.close()
        self._routes[key] = route
        return route

    def _use(self, route: Route) -> None:
        self.route = route
        self._used.add(route.key)
        self._verifying.clear()
        if not self._connected.done():
            self._connected.set_result(None)

    async def _permit(self, candidate: Candidate) -> None:
        while not self._connected.done() and self._relay is not None and self.remote_password is not None:
            if self._rate.take():
                self._ask(Datagrams(self._relay.transport, (candidate.host, candidate.port)))
                return
            await asyncio.sleep(_CHECK_PAUSE_S)

    def _relayed(self, data: bytes, remote: tuple[str, int]) -> None:
        """Take a packet from the TURN server, as the port does for others."""
        first = data[0] if data else 255
        if first in MEDIA and remote in self._routes:
            self.receive(data)
        elif first in STUN and self._relay is not None:
            with suppress(ValueError):
                message = StunMessage(data)
                if message.message.message_class == stun.Class.REQUEST:
                    self.check(message, Datagrams(self._relay.transport, remote))
                else:
                    self.answered(message, remote)

    def _relay_lost(self) -> None:
        self._relay = None
        for route in [one for one in self._routes.values() if isinstance(one, Datagrams)]:
            self.lost(route)

    def _close_relay(self) -> None:
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.close()

    def _ask(self, route: Route) -> None:
        """Send an own check."""
        if self.remote_password is None:
            return
        check = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, self._verifying.get(route.key))
        self._verifying[route.key] = check.transaction_id
        check.attributes["USERNAME"] = f"{self.remote_username}:{self.local_username}"
        check.attributes["PRIORITY"] = 1
        check.attributes["ICE-CONTROLLED"] = self._tie_breaker
        check.add_message_integrity(self.remote_password.encode())
        route.send((bytes(check),))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _random(size: int) -> str:
    return base64.b64encode(secrets.token_bytes(size)).decode()
