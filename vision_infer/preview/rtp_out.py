"""RTP packets through one of aiortc's senders, in place of its own loop. Private attributes of senders are used here only.

aiortc's sender encodes or packs each packet per viewer, does not expose its RTP times, and has an unbounded queue. ICE, DTLS,
SRTP and the transmission of sender reports remain aiortc's.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import Sequence
from typing import Any

from aiortc import MediaStreamTrack, RTCRtpSender
from aiortc.mediastreams import MediaStreamError

from vision_infer.preview.transport.datagrams import Datagrams

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


class RtpOut:
    """Sends the packets of one SSRC. It is used on the event loop only.

    Args:
        sender: The sender of the connection, not started yet.
        extensions: The negotiated header extensions of each packet: identifier and value.
        history: The number of packets kept for retransmission; 0 for none.
    """

    def __init__(self, sender: RTCRtpSender, extensions: list[tuple[int, bytes]], history: int = 0) -> None:
        self._sender: Any = sender
        self._extension = _extension(extensions)
        self._history: list[tuple[int, bytes] | None] = [None] * history
        self._datagrams: Datagrams | None = None
        self._sequence = secrets.randbelow(_FIRST_SEQUENCE)
        self._again_sequence = secrets.randbelow(_FIRST_SEQUENCE)
        self.packets = 0
        self.resent = 0
        self._take_over()

    async def run(self, payload_type: int) -> None:
        """Send packets until canceled, or until the viewer is no longer connected."""
        raise NotImplementedError

    def heard(self, packet: object) -> bool:  # noqa: ARG002
        """Take an RTCP packet of the player; return False if aiortc must process it."""
        return False

    @property
    def ice(self) -> Any:
        """The ICE transport of aiortc."""
        return self.dtls.transport

    @property
    def dtls(self) -> Any:
        """The DTLS transport of aiortc."""
        return self._sender.transport

    @property
    def waiting(self) -> int:
        """The number of bytes that the kernel has not accepted yet.

        Raises:
            ConnectionError: The viewer is not connected.
        """
        return self._route().waiting

    def send(self, payloads: Sequence[bytes], time: int, payload_type: int, last: bool) -> None:
        """Send packets of one RTP time.

        Args:
            time: The RTP time, 32 bits.
            last: Whether the last packet has the marker bit.

        Raises:
            ConnectionError: The viewer is not connected.
        """
        sender: Any = self._sender
        route, protect, ssrc = self._route(), sender.transport._tx_srtp.protect, sender._ssrc
        packets: list[bytes] = []
        for number, payload in enumerate(payloads, 1):
            sequence = self._sequence = (self._sequence + 1) & 0xFFFF
            kind = payload_type | _MARKER if last and number == len(payloads) else payload_type
            packet = _HEADER.pack(_EXTENDED, kind, sequence, time, ssrc) + self._extension + payload
            if self._history:
                self._history[sequence % len(self._history)] = (sequence, packet)
            packets.append(protect(packet))
        route.send(packets)
        self.packets += len(packets)
        sender._RTCRtpSender__packet_count += len(packets)
        sender._RTCRtpSender__octet_count += sum(map(len, payloads))

    def report(self, wall_ns: int, time: int) -> None:
        """Set the time that sender reports contain (RFC 3550, section 6.4.1).

        Args:
            wall_ns: The capture time of a frame or sample, nanoseconds since 1970 (UTC).
            time: Its RTP time.
        """
        seconds, rest = divmod(wall_ns, _SECOND)
        self._sender._RTCRtpSender__ntp_timestamp = (seconds + _NTP_EPOCH_S) << 32 | (rest << 32) // _SECOND
        self._sender._RTCRtpSender__rtp_timestamp = time

    def _take_over(self) -> None:
        sender = self._sender
        handle = sender._handle_rtcp_packet

        async def received(packet: object) -> None:
            if not self.heard(packet):
                await handle(packet)

        async def running(codec: Any) -> None:  # like aiortc's loop, it sets the events for its start and end
            sender._RTCRtpSender__rtp_started.set()
            try:
                await self.run(codec.payloadType)
            except (asyncio.CancelledError, ConnectionError):
                pass
            finally:
                if self._datagrams is not None:
                    self._datagrams.close()
                sender._RTCRtpSender__rtp_exited.set()

        sender._handle_rtcp_packet = received
        sender._retransmit = self._send_again
        sender._run_rtp = running

    def _route(self) -> Datagrams:
        """Return the route that ICE has selected, bypassing aiortc's and aioice's coroutines, as slow as encryption."""
        pair = self.ice._connection._nominated.get(1)
        if self.dtls.state != "connected" or pair is None:
            raise ConnectionError("the viewer is not connected")
        route, transport = self._datagrams, pair.protocol.transport
        if route is None or route.transport is not transport or route.address != pair.remote_addr:
            if route is not None:
                route.close()
            route = self._datagrams = Datagrams(transport, pair.remote_addr)
        return route

    async def _send_again(self, sequence: int) -> None:
        """Retransmit a lost packet (RFC 4588)."""
        kept = self._history[sequence % len(self._history)] if self._history else None
        if kept is None or kept[0] != sequence:
            return
        sender: Any = self._sender
        packet = kept[1]
        kind = sender._RTCRtpSender__rtx_payload_type
        if kind is not None:
            begin = _HEADER.size + len(self._extension)
            again = self._again_sequence = (self._again_sequence + 1) & 0xFFFF
            _, first, _, time, _ = _HEADER.unpack_from(packet)
            header = _HEADER.pack(_EXTENDED, kind | (first & _MARKER), again, time, sender._rtx_ssrc)
            packet = header + self._extension + struct.pack("!H", sequence) + packet[begin:]
        self.resent += 1
        await sender.transport._send_rtp(packet)


def join_stream(sender: Any, other: Any) -> None:
    """Announce the track of a sender in the same stream as that of another one, so that the player shows both in step."""
    sender._stream_id = other._stream_id


def _extension(values: list[tuple[int, bytes]]) -> bytes:
    """Encode one-byte header extensions (RFC 8285, section 4.2); the field is present even without any."""
    body = b"".join(bytes([number << 4 | len(value) - 1]) + value for number, value in values)
    body += b"\0" * (-len(body) % 4)
    return struct.pack("!HH", _ONE_BYTE, len(body) // 4) + body
