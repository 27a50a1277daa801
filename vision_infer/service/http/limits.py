"""How much one client may ask for: requests a second, bytes of a body, and how long these may take to come."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from starlette.types import Message, Receive, Scope

from vision_infer.core.clock import Clock
from vision_infer.service.http.problem import Problem

MAX_ADDRESSES = 4096
"""addresses that are remembered; the one that was quiet for longest is forgotten first"""
BODY_TIMEOUT_S = 30.0
"""how long the body of a request may take to come"""


class TokenBuckets:
    """A token bucket for each client address, in bounded memory. Not thread-safe: it belongs to the event loop.

    Args:
        per_second: tokens that come back.
        burst: tokens that there are at most.
    """

    def __init__(self, per_second: float, burst: float, clock: Clock, most: int = MAX_ADDRESSES) -> None:
        self._per_second = per_second
        self._burst = max(1.0, burst)
        self._clock = clock
        self._most = most
        self._buckets: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def wait_s(self, address: str) -> float:
        """Seconds until there is a token for the address; 0 when there is one. None is taken."""
        return max(0.0, (1 - self._level(address)) / self._per_second)

    def take(self, address: str) -> float:
        """Take a token: 0, or where there is none, the seconds until there is one."""
        wait_s = self.wait_s(address)
        if wait_s == 0:
            self._buckets[address] = (self._level(address) - 1, self._clock.monotonic_ns())
            self._buckets.move_to_end(address)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        return wait_s

    def _level(self, address: str) -> float:
        level, at_ns = self._buckets.get(address, (self._burst, 0))
        return min(self._burst, level + (self._clock.monotonic_ns() - at_ns) / 1e9 * self._per_second)


def address_of(scope: Scope) -> str:
    """What stands for a client: its IPv4 address, or the /64 network of its IPv6 address, for it may have all of that."""
    host = (scope.get("client") or ("", 0))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    if address.version == 6:
        mapped = address.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)


def limited(scope: Scope, receive: Receive, most_bytes: int, timeout_s: float = BODY_TIMEOUT_S) -> Receive:
    """Read a body no further than this, whatever its header says.

    Raises:
        Problem: 413, at once where the header says so; the returned function raises it, or 408, when that turns out.
    """
    too_large = Problem("too-large", f"the body may have {most_bytes} bytes at most", {"Connection": "close"})
    for name, value in scope["headers"]:
        if name == b"content-length" and (not value.isdigit() or int(value) > most_bytes):
            raise too_large
    deadline = asyncio.get_running_loop().time() + timeout_s
    read = 0
    complete = False

    async def receive_some() -> Message:
        nonlocal read, complete
        if complete:
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise Problem("too-slow", f"the body did not come within {timeout_s:g} s", {"Connection": "close"}) from None
        if message["type"] == "http.request":
            read += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if read > most_bytes:
                raise too_large
        return message

    return receive_some


class Gate:
    """Places for work that takes long, so that it takes neither all threads nor all memory.

    Args:
        places: so much of it runs at the same time.
        queue: so many more may wait for a place; others are turned away.
    """

    def __init__(self, places: int, queue: int) -> None:
        self._places = asyncio.Semaphore(places)
        self._most = places + queue
        self._count = 0
        self.threads = anyio.CapacityLimiter(places)
        """for the threads on which the work is done"""

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place.

        Raises:
            Problem: 503, too many wait already.
        """
        if self._count >= self._most:
            raise Problem("unavailable", "too many of these requests are on their way already", {"Retry-After": "1"})
        self._count += 1
        try:
            async with self._places:
                yield
        finally:
            self._count -= 1
