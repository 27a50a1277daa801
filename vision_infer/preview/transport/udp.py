"""The UDP socket that all viewers share.

Python has no asynchronous ``recvmsg``, and asyncio's datagram transport has one queue for all addresses and drops the local
address of a packet. Therefore the socket is read and written here. The reply to a packet leaves from the address to which the
packet was sent, because players ignore replies from another address of the machine (RFC 8445, section 7.2.5.2.1).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal

from vision_infer.preview.transport.datagrams import UDP_SEGMENT, UNABLE
from vision_infer.preview.transport.route import MAX_WAITING

Address = tuple[str, int] | tuple[str, int, int, int]
"""A remote address in Python's form: two values for IPv4, four for IPv6."""

MAX_DATAGRAM = 2048
"""The size above which packets are ignored, in bytes: no player sends larger ones."""
_READS = 64
"""The maximum number of packets that are read before other tasks run."""
_BUFFER_BYTES = 4 * 1024 * 1024
_IP_PKTINFO = 8
"""``IP_PKTINFO`` of linux/in.h, for which older versions of Python have no constant."""
_V4_INFO, _V6_INFO = struct.Struct("=i4s4s"), struct.Struct("=16si")
_LENGTH = struct.Struct("=H")
_BUSY = frozenset({errno.EAGAIN, errno.EWOULDBLOCK})


class UdpSocket:
    """Reads and writes a UDP socket on the event loop.

    Args:
        bound: The socket; it is closed with this object.
        received: Called with each packet, the address of its sender, and the local address that it was sent to (packed; empty if
            the system does not report it).
    """

    def __init__(self, bound: socket.socket, received: Callable[[bytes, Address, bytes], None]) -> None:
        self.socket = bound
        self._received = received
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: deque[UdpRoute] = deque()
        self.segments = sys.platform == "linux" and _has_segments(bound)
        """Whether the kernel can split a burst into packets."""
        bound.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            with suppress(OSError):
                bound.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        if sys.platform == "linux":
            six = bound.family == socket.AF_INET6
            bound.setsockopt(*((socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO) if six else (socket.IPPROTO_IP, _IP_PKTINFO)), 1)

    def open(self, receive: bool = True) -> None:
        """Use the running event loop to send, and to receive unless another process does."""
        self._loop = asyncio.get_running_loop()
        if receive:
            self._loop.add_reader(self.socket, self._readable)

    def close(self) -> None:
        """Stop to receive and send, and close the socket."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.remove_reader(self.socket)
            loop.remove_writer(self.socket)
        self._pending.clear()
        self.socket.close()

    def wait_for(self, route: UdpRoute) -> None:
        """Send the queue of a route as soon as the kernel accepts packets; routes take turns."""
        if not self._pending and self._loop is not None:
            self._loop.add_writer(self.socket, self._writable)
        self._pending.append(route)

    def _writable(self) -> None:
        for _ in range(len(self._pending)):
            route = self._pending.popleft()
            if not route.flush():
                self._pending.append(route)
                return
        if self._loop is not None:
            self._loop.remove_writer(self.socket)

    def _readable(self) -> None:
        for _ in range(_READS):
            try:
                data, ancillary, flags, address = self.socket.recvmsg(MAX_DATAGRAM, 64)
            except OSError:  # all packets are read, or the network reports an error that concerns one packet
                return
            if not flags & socket.MSG_TRUNC:
                self._received(data, address, _local(ancillary))


class UdpRoute:
    """Sends packets to one viewer through the shared socket.

    A burst is one system call where the system supports segmentation. Packets that the kernel does not accept wait in a queue
    of this route, so that they delay no other viewer.

    Args:
        shared: The shared socket.
        address: The viewer's address.
        local: The local address that the viewer uses, packed; empty if it is not known.
    """

    protocol: Literal["udp"] = "udp"

    def __init__(self, shared: UdpSocket, address: Address, local: bytes) -> None:
        self.remote = remote_of(address)
        self.key = (self.remote, local)
        self.waiting = 0
        self._shared = shared
        self._address = address
        self._from = _leaving_from(local)
        self._queue: deque[bytes] = deque()
        self._segments = shared.segments

    def send(self, burst: Sequence[bytes]) -> None:
        """Send packets of equal length, of which the last may be shorter."""
        if not self._queue:
            if len(burst) > 1 and self._segments and self._send_burst(burst):
                return
            burst = burst[self._send_each(burst) :]
        self._wait(burst)

    def flush(self) -> bool:
        """Send what waits; return whether nothing is left."""
        sent = self._send_each(tuple(self._queue))
        for _ in range(min(sent, len(self._queue))):
            self.waiting -= len(self._queue.popleft())
        return not self._queue

    def close(self) -> None:
        """Drop what waits."""
        self._queue.clear()
        self.waiting = 0

    def _wait(self, burst: Sequence[bytes]) -> None:
        for packet in burst:
            if self.waiting + len(packet) > MAX_WAITING:
                return
            if not self._queue:
                self._shared.wait_for(self)
            self._queue.append(packet)
            self.waiting += len(packet)

    def _send_burst(self, burst: Sequence[bytes]) -> bool:
        option = (socket.IPPROTO_UDP, UDP_SEGMENT, _LENGTH.pack(len(burst[0])))
        try:
            self._shared.socket.sendmsg(burst, [option, *self._from], 0, self._address)
        except OSError as error:
            if error.errno in UNABLE:
                self._segments = False
            return False
        return True

    def _send_each(self, packets: Sequence[bytes]) -> int:
        """Send packets until the kernel accepts no more; return how many are done."""
        for number, packet in enumerate(packets):
            try:
                self._shared.socket.sendmsg([packet], self._from, 0, self._address)
            except OSError as error:
                if error.errno in _BUSY:
                    return number
                # The network refuses this packet, for example because the interface is down: it is lost.
        return len(packets)


def remote_of(address: Address) -> tuple[str, int]:
    """Return the IP address and port; an IPv4 address that an IPv6 socket reports has the form of IPv4."""
    host = address[0]
    if host.startswith("::ffff:") and "." in host:
        host = host[7:]
    return host.partition("%")[0], address[1]


def _local(ancillary: list[tuple[int, int, bytes]]) -> bytes:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO) and len(data) == _V4_INFO.size:
            return bytes(_V4_INFO.unpack(data)[2])
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO) and len(data) == _V6_INFO.size:
            return bytes(_V6_INFO.unpack(data)[0])
    return b""


def _leaving_from(local: bytes) -> list[tuple[int, int, bytes]]:
    if len(local) == 4:
        return [(socket.IPPROTO_IP, _IP_PKTINFO, _V4_INFO.pack(0, local, bytes(4)))]
    if len(local) == 16:
        return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _V6_INFO.pack(local, 0))]
    return []


def _has_segments(shared: socket.socket) -> bool:
    """Return whether the kernel supports segments: otherwise it would ignore the option and send one large datagram."""
    with suppress(OSError):
        shared.getsockopt(socket.IPPROTO_UDP, UDP_SEGMENT)
        return True
    return False
