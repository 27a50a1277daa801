"""Sends the packets of a picture in as few calls of the system as it can (UDP segmentation offload, Linux 4.18 and later)."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

_UDP_SEGMENT = 103
"""of linux/udp.h; Python has no name for it"""
BURST = 32
"""packets that are sent in one go, where Linux would take 64 and 65,507 bytes; more at once overflow a receiver's socket"""
_UNABLE = frozenset({errno.EINVAL, errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EMSGSIZE})
"""the system, or the interface that leads there, cannot do it"""
_LENGTH = struct.Struct("=H")


class Datagrams:
    """Where a viewer's packets go. It belongs to the event loop.

    The transport's queue stays the only one: what the system does not take at once waits there, and what comes meanwhile waits
    behind it.

    Args:
        transport: of asyncio, with a socket; anything else with ``sendto`` gets one packet at a time.
        address: of the viewer.
    """

    def __init__(self, transport: Any, address: tuple[str, int]) -> None:
        self.transport = transport
        self.address = address
        self._queued = getattr(transport, "get_write_buffer_size", None)
        self._socket = None if self._queued is None else _duplicate(transport)

    @property
    def waiting(self) -> int:
        """Bytes that the system has not taken yet."""
        return 0 if self._queued is None else int(self._queued())

    @property
    def at_once(self) -> bool:
        """Whether it sends several packets in one call."""
        return self._socket is not None

    def send(self, burst: Sequence[bytes]) -> None:
        """Send packets whose lengths are as those of :func:`bursts`: together, or one by one where that is not taken.

        No error is raised: asyncio's transport tells its protocol.
        """
        if len(burst) == 1 or self._socket is None or self.waiting or not self._send(self._socket, burst):
            for packet in burst:
                self.transport.sendto(packet, self.address)

    def close(self) -> None:
        """Send one packet at a time from now on; the transport stays as it is."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, own: socket.socket, burst: Sequence[bytes]) -> bool:
        length = _LENGTH.pack(len(burst[0]))
        try:
            own.sendmsg(burst, [(socket.IPPROTO_UDP, _UDP_SEGMENT, length)], 0, self.address)
        except OSError as error:
            if error.errno in _UNABLE:
                self.close()
            return False
        return True


def bursts(payloads: Sequence[bytes]) -> tuple[tuple[bytes, ...], ...]:
    """Parts that one call can send: payloads of one length, and at most one shorter one behind them; at most 32."""
    found: list[list[bytes]] = []
    for payload in payloads:
        burst = found[-1] if found else []
        if 0 < len(burst) < BURST and len(payload) <= len(burst[0]) == len(burst[-1]):
            burst.append(payload)
        else:
            found.append([payload])
    return tuple(map(tuple, found))


def _duplicate(transport: Any) -> socket.socket | None:
    """A socket of our own for the transport's: its own may be closed, and its number given to another, while we send.

    None where the system does not know segments: it would take no notice, and send all as one large datagram.
    """
    shared = transport.get_extra_info("socket")
    if shared is None or sys.platform != "linux":
        return None
    with suppress(OSError):
        shared.getsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT)
        own: socket.socket = shared.dup()
        own.setblocking(False)
        return own
    return None
