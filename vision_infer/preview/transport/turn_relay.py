"""An address at a TURN server (RFC 8656), for viewers that cannot reach the shared port."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from aioice import Candidate, ice, stun

OPEN_S = 5.0
"""The maximum time that an answer waits for the TURN server, in seconds."""

_log = logging.getLogger("vision_infer.preview")


class TurnRelay(asyncio.DatagramProtocol):
    """Receives the packets that the TURN server relays for one viewer. It is used on the event loop only.

    Args:
        received: Called with each packet and the address of its sender.
        lost: Called when the server or the connection to it has ended.
    """

    def __init__(self, received: Callable[[bytes, tuple[str, int]], None], lost: Callable[[], None]) -> None:
        self.transport: Any = None
        """Sends through the server: ``sendto``; None before the server has assigned an address."""
        self.local_candidate: Candidate | None = None
        self._received = received
        self._lost = lost

    async def open(self, turn: dict[str, Any]) -> Candidate | None:
        """Request an address; return its candidate, or None if the server assigns none.

        Args:
            turn: The arguments of ``aioice.Connection`` whose names begin with ``turn_``.
        """
        given: dict[str, Any] = {**turn, "component": 1, "hide_related_address": True, "protocol_factory": lambda: self}
        try:
            async with asyncio.timeout(OPEN_S):
                candidate, _ = await ice.relayed_candidate(**given)
        except (OSError, stun.TransactionError) as error:  # TimeoutError is an OSError
            _log.warning("preview.ice_servers: the TURN server assigns no address: %s", error or "no answer in time")
            return None
        return candidate

    def close(self) -> None:
        """Return the address to the server."""
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.close()

    # aioice calls these

    def connection_made(self, transport: Any) -> None:
        """Take the way through the server."""
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Report the end."""
        self.transport = None
        self._lost()

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """Pass on a packet."""
        self._received(data, (str(addr[0]), addr[1]))
