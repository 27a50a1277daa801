"""The addresses at which viewers reach the shared port: those of ``preview.addresses``, or of the machine's interfaces."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Sequence

from aioice import ice

from vision_infer.core.clock import Clock

RESOLVE_AGAIN_NS = 30_000_000_000
"""The time after which host names are resolved again, for the next viewer."""
RESOLVE_S = 3.0
"""The maximum time that a viewer waits for the resolution of host names, in seconds."""

_log = logging.getLogger("vision_infer.preview")


class Addresses:
    """The announced IP addresses. It is used on the event loop only.

    Args:
        configured: IP addresses and host names; empty: the addresses on which the port listens.
        bound: The address to which the port is bound.
        clock: The source of time.
    """

    def __init__(self, configured: Sequence[str], bound: str, clock: Clock) -> None:
        self._configured = configured
        self._bound = ipaddress.ip_address(bound)
        self._clock = clock
        self._resolved: dict[str, list[str]] = {}
        self._due_ns = 0
        self._resolving = asyncio.Lock()  # guards _resolved: only one viewer resolves the names, and the others wait for it

    async def current(self) -> list[str]:
        """Return the addresses, in the order of the setting. A name that cannot be resolved keeps its previous addresses."""
        if not self._configured:
            return self._own()
        async with self._resolving:
            now = self._clock.monotonic_ns()
            names = [name for name in self._configured if not _is_address(name)]
            if names and now >= self._due_ns:
                self._due_ns = now + RESOLVE_AGAIN_NS
                await asyncio.gather(*map(self._resolve, names))
        found = [address for name in self._configured for address in self._resolved.get(name, [name] * _is_address(name))]
        return list(dict.fromkeys(found))

    async def _resolve(self, name: str) -> None:
        try:
            async with asyncio.timeout(RESOLVE_S):
                answers = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
            _log.warning("preview.addresses: cannot resolve %s: %s", name, error or "no answer in time")
            return
        self._resolved[name] = [str(answer[4][0]) for answer in answers]

    def _own(self) -> list[str]:
        if not self._bound.is_unspecified:
            return [str(self._bound)]
        return own_addresses(self._bound.version == 6) or ["127.0.0.1"]


def own_addresses(ipv6: bool) -> list[str]:
    """Return the addresses of the machine's interfaces, without loopback; none where the system does not list them.

    Linux lists them through netlink sockets, which a sandbox may forbid, such as ``RestrictAddressFamilies`` of systemd.
    """
    try:
        found: list[str] = ice.get_host_addresses(use_ipv4=True, use_ipv6=ipv6)
    except OSError as error:
        _log.warning("the addresses of this machine cannot be read (%s): set preview.addresses", error.strerror)
        return []
    return found


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
