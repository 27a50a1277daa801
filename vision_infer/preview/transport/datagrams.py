"""Send the packets of a frame in as few system calls as possible (UDP segmentation offload, Linux 4.18 and later)."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

UDP_SEGMENT = 103
"""``UDP_SEGMENT`` of linux/udp.h, for which Python has no constant."""
BURST = 32
"""The maximum number of packets per call. Linux takes 64, but longer bursts overflow the receiver's socket buffer."""
UNABLE = frozenset({errno.EINVAL, errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EMSGSIZE})
"""The errors by which the kernel or the network interface reports that it does not support segmentation."""
_LENGTH = struct.Struct("=H")


class Datagrams:
    """Sends packets to one viewer through a separate socket. It is used on the event loop only.

    There is no queue besides the transport's: packets that the kernel does not accept wait there, and later packets wait behind
    them, so that their order is kept.

    Args:
        transport: An asyncio datagram transport with a socket. Other objects with ``sendto`` get one packet at a time.
    """

    protocol: Literal["udp"] = "udp"

    def __init__(self, transport: Any, address: tuple[str, int]) -> None:
        self.transport = transport
        self.remote = address
        allocation = getattr(transport, "_TurnTransport__inner_protocol", None)
        way = transport if allocation is None else allocation.transport  # to the TURN server, which may be a TCP connection
        self._queued = getattr(way, "get_write_buffer_size", None)
        self._socket = None if self._queued is None else _duplicate(transport)

    @property
    def key(self) -> object:
        """The identity of the route."""
        return self.remote

    @property
    def waiting(self) -> int:
        """The number of bytes that the kernel has not accepted yet."""
        return 0 if self._queued is None else int(self._queued())

    def send(self, burst: Sequence[bytes]) -> None:
        """Send a burst as made by :func:`bursts`: in one call, or packet by packet where segmentation is not supported.

        Errors are not raised here; asyncio's transport reports them to its protocol.
        """
        if len(burst) == 1 or self._socket is None or self.waiting or not self._send(self._socket, burst):
            for packet in burst:
                self.transport.sendto(packet, self.remote)

    def close(self) -> None:
        """Release the duplicated socket. The transport stays open, and later packets are sent individually."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, duplicate: socket.socket, burst: Sequence[bytes]) -> bool:
        length = _LENGTH.pack(len(burst[0]))
        try:
            duplicate.sendmsg(burst, [(socket.IPPROTO_UDP, UDP_SEGMENT, length)], 0, self.remote)
        except OSError as error:
            if error.errno in UNABLE:
                self.close()
            return False
        return True


def bursts(payloads: Sequence[bytes]) -> tuple[tuple[bytes, ...], ...]:
    """Group payloads for one call each: at most 32 of equal length, of which the last may be shorter."""
    found: list[list[bytes]] = []
    for payload in payloads:
        burst = found[-1] if found else []
        if 0 < len(burst) < BURST and len(payload) <= len(burst[0]) == len(burst[-1]):
            burst.append(payload)
        else:
            found.append([payload])
    return tuple(map(tuple, found))


def _duplicate(transport: Any) -> socket.socket | None:
    """Duplicate the transport's socket: the original may be closed, and its number reused, while a burst is sent.

    Returns None where the kernel does not support segments: it would ignore the option and send one large datagram.
    """
    shared = transport.get_extra_info("socket")
    if shared is None or sys.platform != "linux":
        return None
    with suppress(OSError):
        shared.getsockopt(socket.IPPROTO_UDP, UDP_SEGMENT)
        duplicate: socket.socket = shared.dup()
        duplicate.setblocking(False)
        return duplicate
    return None
