"""Sends the RTP packets of video or sound through one of aiortc's senders, and replaces its loop.

aiortc's sender encodes or packs each packet per viewer, does not expose its RTP times, and has an unbounded queue. ICE, DTLS,
SRTP and the transmission of sender reports remain aiortc's.
"""

from __future__ import annotations

import secrets
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from vision_infer.preview.transport.aiortc_private import Outgoing

_HEADER = struct.Struct("!BBHII")
_EXTENDED, _ONE_BYTE = 0x90, 0xBEDE
_MARKER = 0x80
_FIRST_SEQUENCE = 0x8000
"""The first sequence number is below this, since early wrapping confuses SRTP (RFC 3711, section 3.3.1)."""
_SECOND = 1_000_000_000
_NTP_EPOCH_S = 2_208_988_800
"""The seconds from 1900, the epoch of NTP, to 1970."""


class NoTrack(MediaStreamTrack):
    """A track without content: aiortc requires one, but never reads from it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    async def recv(self) -> Any:
        """Fail, since there is no content."""
        raise MediaStreamError


class RtpOut(ABC):
    """Sends the packets of one SSRC. It is used on the event loop only.

    Args:
        sender: The ``RTCRtpSender`` of the connection, not started yet.
        extensions: The negotiated header extensions of each packet: identifier and value.
        history: The number of packets kept for retransmission; 0 for none.
    """

    def __init__(self, sender: Any, extensions: list[tuple[int, bytes]], history: int = 0) -> None:
        self.outgoing = Outgoing(sender, self.run, self._send_again, self.heard)
        self._extension = _extension(extensions)
        self._history: list[tuple[int, bytes] | None] = [None] * history
        self._sequence = secrets.randbelow(_FIRST_SEQUENCE)
        self._again_sequence = secrets.randbelow(_FIRST_SEQUENCE)
        self.packets = 0
        self.resent = 0

    @abstractmethod
    async def run(self, payload_type: int) -> None:
        """Send packets until canceled, or until the viewer is no longer connected."""

    def heard(self, packet: object) -> bool:  # noqa: ARG002
        """Take an RTCP packet of the player; return False if aiortc must process it."""
        return False

    @property
    def waiting(self) -> int:
        """The number of bytes that the kernel has not accepted yet."""
        route = self.outgoing.agent.route
        return 0 if route is None else route.waiting

    def send(self, payloads: Sequence[bytes], time: int, payload_type: int, last: bool) -> None:
        """Send packets of one RTP time. They are lost while there is no route to the viewer.

        Args:
            time: The RTP time, 32 bits.
            last: Whether the last packet has the marker bit.

        Raises:
            ConnectionError: The viewer is not connected.
        """
        route, protect, ssrc = self.outgoing.agent.route, self.outgoing.protect, self.outgoing.ssrc
        packets: list[bytes] = []
        for number, payload in enumerate(payloads, 1):
            sequence = self._sequence = (self._sequence + 1) & 0xFFFF
            kind = payload_type | _MARKER if last and number == len(payloads) else payload_type
            packet = _HEADER.pack(_EXTENDED, kind, sequence, time, ssrc) + self._extension + payload
            if self._history:
                self._history[sequence % len(self._history)] = (sequence, packet)
            packets.append(protect(packet))
        if route is not None:
            route.send(packets)
        self.packets += len(packets)
        self.outgoing.count(len(packets), sum(map(len, payloads)))

    def report(self, wall_ns: int, time: int) -> None:
        """Set the time that sender reports contain (RFC 3550, section 6.4.1).

        Args:
            wall_ns: The capture time of a frame or sample, nanoseconds since 1970 (UTC).
            time: Its RTP time.
        """
        seconds, rest = divmod(wall_ns, _SECOND)
        self.outgoing.report((seconds + _NTP_EPOCH_S) % (1 << 32) << 32 | (rest << 32) // _SECOND, time)

    async def _send_again(self, sequence: int) -> None:
        """Retransmit a lost packet (RFC 4588)."""
        kept = self._history[sequence % len(self._history)] if self._history else None
        if kept is None or kept[0] != sequence:
            return
        packet = kept[1]
        kind = self.outgoing.again_type
        if kind is not None:
            begin = _HEADER.size + len(self._extension)
            again = self._again_sequence = (self._again_sequence + 1) & 0xFFFF
            _, first, _, time, _ = _HEADER.unpack_from(packet)
            header = _HEADER.pack(_EXTENDED, kind | (first & _MARKER), again, time, self.outgoing.again_ssrc)
            packet = header + self._extension + struct.pack("!H", sequence) + packet[begin:]
        self.resent += 1
        await self.outgoing.send_again(packet)


def _extension(values: list[tuple[int, bytes]]) -> bytes:
    """Encode one-byte header extensions (RFC 8285, section 4.2); the field is present even without any."""
    body = b"".join(bytes([number << 4 | len(value) - 1]) + value for number, value in values)
    body += b"\0" * (-len(body) % 4)
    return struct.pack("!HH", _ONE_BYTE, len(body) // 4) + body
