"""Limits for clients: the request rate, the size of request bodies, and the time in which they must arrive."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from vision_infer.core.clock import Clock
from vision_infer.service.http.problem import Problem

MAX_ADDRESSES = 4096
"""The maximum number of tracked addresses; the least recently active one is removed first."""
BODY_TIMEOUT_S = 30.0
"""The time limit for receiving a request body, in seconds."""


class TokenBuckets:
    """A bucket for each client address, of ``burst`` tokens, refilled with ``per_second``. Only the event loop may use it."""

    def __init__(self, per_second: float, burst: float, clock: Clock, max_addresses: int = MAX_ADDRESSES) -> None:
        self._per_second = per_second
        self._burst = max(1.0, burst)
        self._clock = clock
        self._max_addresses = max_addresses
        self._buckets: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def wait_s(self, address: str) -> float:
        """Return the seconds until the address has a token; 0 if it has one. No token is taken."""
        return max(0.0, (1 - self._level(address)) / self._per_second)

    def take(self, address: str) -> float:
        """Take a token and return 0, or return the seconds until one is available."""
        wait_s = self.wait_s(address)
        if wait_s == 0:
            self._buckets[address] = (self._level(address) - 1, self._clock.monotonic_ns())
            self._buckets.move_to_end(address)
            if len(self._buckets) > self._max_addresses:
                self._buckets.popitem(last=False)
        return wait_s

    def _level(self, address: str) -> float:
        level, at_ns = self._buckets.get(address, (self._burst, 0))
        return min(self._burst, level + (self._clock.monotonic_ns() - at_ns) / 1e9 * self._per_second)


def client_of(peer: str, forwarded: Sequence[str], proxies: Sequence[str]) -> str:
    """Return the address of the client that sent a request, possibly through proxies.

    A client can put anything at the beginning of ``X-Forwarded-For``: only the entries of trusted proxies count, from the end.

    Args:
        peer: The address that the connection comes from.
        forwarded: The values of the ``X-Forwarded-For`` headers.
        proxies: The networks of trusted proxies (CIDR).
    """
    trusted = [ipaddress.ip_network(network) for network in proxies]
    for entry in reversed(",".join(forwarded).split(",")):
        try:
            address = ipaddress.ip_address(peer)
            ipaddress.ip_address(entry.strip())
        except ValueError:
            break
        address = getattr(address, "ipv4_mapped", None) or address
        if not any(address in network for network in trusted):
            break
        peer = entry.strip()
    return peer


def address_of(scope: Scope) -> str:
    """Return the identity of a client; see :func:`network_of`."""
    return network_of((scope.get("client") or ("", 0))[0])


def network_of(host: str) -> str:
    """Return the identity of a client: its IPv4 address, or the /64 network of its IPv6 address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    if address.version == 6:
        mapped = address.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)


def limited(scope: Scope, receive: Receive, max_bytes: int, timeout_s: float = BODY_TIMEOUT_S) -> Receive:
    """Limit the size of a request body and the time to receive it.

    Raises:
        Problem: 413 if the Content-Length header exceeds the limit. The returned function raises 413 or 408 while reading.
    """
    # The connection stays open, and the server discards the body for a limited time: many clients send all of it before they
    # read the response, which a reset of the connection would remove.
    too_large = Problem("too-large", f"the request body exceeds {max_bytes} bytes")
    for name, value in scope["headers"]:
        if name == b"content-length" and (not value.isdigit() or int(value) > max_bytes):
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
            raise Problem(
                "too-slow", f"the request body did not arrive within {timeout_s:g} s", {"Connection": "close"}
            ) from None
        if message["type"] == "http.request":
            read += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if read > max_bytes:
                raise too_large
        return message

    return receive_some


class RequestLimiter:
    """Runs ``slots`` slow requests at once and queues some more, so that they cannot use all threads or all memory."""

    def __init__(self, slots: int, queue: int) -> None:
        # Held while a request runs; only the event loop uses it.
        self._slots = asyncio.Semaphore(slots)
        self._max_requests = slots + queue
        self._count = 0
        self.threads = anyio.CapacityLimiter(slots)
        """The limiter of the worker threads for these requests."""

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot.

        Raises:
            Problem: 503 if too many requests already wait.
        """
        if self._count >= self._max_requests:
            raise Problem("unavailable", "too many concurrent requests of this kind", {"Retry-After": "1"})
        self._count += 1
        try:
            async with self._slots:
                yield
        finally:
            self._count -= 1


class BodyMemory:
    """The memory for all request bodies of one kind together.

    A body does not take a slot while it arrives, so that slow clients do not stop others.
    """

    def __init__(self, max_bytes: int) -> None:
        self._free_bytes = max_bytes

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Receive the body of a request, and hold its memory.

        Raises:
            Problem: 503 if the bodies of concurrent requests use all memory.
        """
        chunks: list[bytes] = []
        held = 0
        try:
            async for chunk in request.stream():
                held += len(chunk)
                self._free_bytes -= len(chunk)
                if self._free_bytes < 0:
                    raise Problem("unavailable", "too many concurrent uploads", {"Retry-After": "1"})
                chunks.append(chunk)
            data = b"".join(chunks)
            chunks.clear()
            yield data
        finally:
            self._free_bytes += held
