"""The candidates of viewers: which addresses the service probes for a viewer, and how fast (RFC 8445).

A viewer chooses the addresses in its offer, so without limits it could make the service probe or flood other machines.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from vision_infer.core.clock import Clock

MAX_CANDIDATES = 16
"""The maximum number of candidates per viewer: each is probed."""
MAX_PEERS = 32
"""The maximum number of addresses per viewer, including those that its packets come from."""
CHECKS_PER_S = 50
"""The maximum rate of connectivity checks of all viewers together; each is a packet that is repeated up to six times."""
_BURST = 100
_FIRST_PORT = 1024
"""Lower ports are privileged: no viewer receives video there."""


def usable(candidate: str, local: bool) -> bool:
    """Return whether a viewer may receive packets at a candidate.

    It must use UDP and have the address of a single machine. A name ending in ``.local`` would need a multicast query of about
    one second. A player that hides its address behind such a name still connects: it is discovered as a peer-reflexive
    candidate (RFC 8445, section 7.3.1.3).

    Args:
        candidate: The line of the offer.
        local: Whether the viewer is on this machine, so that loopback addresses are allowed.
    """
    parts = candidate.split()
    if len(parts) < 8 or parts[2].lower() != "udp" or not (parts[5].isascii() and parts[5].isdigit()):
        return False
    try:
        address = ipaddress.ip_address(parts[4])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        allowed = local
    else:
        allowed = not (address.is_link_local or address.is_multicast or address.is_unspecified or address.is_reserved)
    return allowed and _FIRST_PORT <= int(parts[5]) <= 65535


class CheckRate:
    """A limit of connectivity checks per second for all viewers together. It is used on the event loop only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._level = float(_BURST)
        self._at_ns = clock.monotonic_ns()

    def take(self) -> bool:
        """Return whether a check may start now."""
        now = self._clock.monotonic_ns()
        self._level = min(_BURST, self._level + (now - self._at_ns) / 1e9 * CHECKS_PER_S)
        self._at_ns = now
        if self._level < 1:
            return False
        self._level -= 1
        return True


def too_many_peers(connection: Any, address: tuple[str, int]) -> bool:
    """Return whether an ICE connection of aioice must ignore an address, because it already has enough of them."""
    known = connection.remote_candidates
    return len(known) >= MAX_PEERS and not any((one.host, one.port) == address for one in known)
