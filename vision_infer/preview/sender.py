"""An RTP sender for video that is already encoded, in place of aiortc's. Private attributes of aiortc are used here only.

aiortc's sender encodes or packs each packet per viewer, does not expose its RTP times, has an unbounded queue, and passes
requests for key frames to an encoder only. This sender takes frames that are packed for RTP, answers such requests with the
current group of pictures, has a bounded queue, and reports the RTP time of frames. ICE, DTLS, SRTP and sender reports remain
aiortc's.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiortc import MediaStreamTrack, RTCRtpSender
from aiortc import clock as rtc_clock
from aiortc.mediastreams import MediaStreamError
from aiortc.rtp import RTCP_PSFB_FIR, RTCP_PSFB_PLI, RtcpPsfbPacket

from vision_infer.core.clock import Clock
from vision_infer.preview.media import CLOCK_RATE, By, MediaImage, Timeline
from vision_infer.preview.transport.datagrams import BURST, Datagrams

MAX_QUEUE = 60
"""The maximum number of frames that wait for one viewer, in addition to a group that it has just received."""
KEY_INTERVAL_NS = 1_000_000_000
"""The minimum interval between two answers to requests for a key frame."""
ANCHOR_INTERVAL_NS = 1_000_000_000
HISTORY = 1024
"""The number of packets kept for retransmission, a power of 2."""
_BURST_PAUSE_S = 0.002
_MAX_SOCKET_BYTES = 512 * 1024
"""The size of the transport's queue above which sending pauses."""
_SOCKET_PAUSE_S = 0.005
_HEADER = struct.Struct("!BBHII")
_EXTENDED, _ONE_BYTE = 0x90, 0xBEDE
_MARKER = 0x80
_FIRST_SEQUENCE = 0x8000
"""The first sequence number is below this, since early wrapping confuses SRTP (RFC 3711, section 3.3.1)."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A frame's RTP time together with its presentation time."""

    rtp: int
    pts_ns: int
    captured_ns: int | None
    by: By


class NoTrack(MediaStreamTrack):
    """A track without content: aiortc requires one, but never reads from it."""

    kind = "video"

    async def recv(self) -> Any:
        """Fail, since there is no content."""
        raise MediaStreamError


class Viewer:
    """Sends frames through one of aiortc's RTP senders. It is used on the event loop only.

    Args:
        sender: The sender of the connection, not started yet.
        extensions: The negotiated header extensions of each packet: identifier and value.
        current: Returns the current group of pictures, for a viewer that has lost packets.
        on_anchor: Called when the mapping from presentation time to RTP time starts or restarts, and about once per second.
    """

    def __init__(
        self,
        sender: RTCRtpSender,
        extensions: list[tuple[int, bytes]],
        current: Callable[[], list[MediaImage]],
        on_anchor: Callable[[Anchor], None],
        clock: Clock,
    ) -> None:
        self._sender = sender
        self._extension = _extension(extensions)
        self._current = current
        self._on_anchor = on_anchor
        self._now = clock.monotonic_ns
        self._timeline = Timeline(secrets.randbits(32))
        self._queue: deque[tuple[MediaImage, int]] = deque()
        self._limit = MAX_QUEUE
        self._wake = asyncio.Event()
        self._keyless = False
        self._restarted_ns = -KEY_INTERVAL_NS
        self._restart: asyncio.TimerHandle | None = None
        self._anchored_ns = 0
        self._pushed_ns = 0
        self._history: list[tuple[int, bytes] | None] = [None] * HISTORY
        self._datagrams: Datagrams | None = None
        self._unpaused = 0
        """The number of packets sent since the last pause; a group consists of many frames that are ready at once."""
        self._sequence = secrets.randbelow(_FIRST_SEQUENCE)
        self._again_sequence = secrets.randbelow(_FIRST_SEQUENCE)
        self.heard_ns = self._now()
        """The time of the last packet from the player, monotonic."""
        self.sending = False
        self.packets = 0
        self.resent = 0
        self.restarts = 0
        """The number of groups that were sent again on request."""
        self.dropped = 0
        """The number of frames that were skipped because the viewer was too slow."""
        self._take_over()

    # Called by the feed

    def push(self, image: MediaImage) -> None:
        """Queue a frame. If too many wait, all are skipped up to the next key frame."""
        now = self._now()
        elapsed = (now - self._pushed_ns) * 9 // 100_000 if self._pushed_ns else CLOCK_RATE // 30
        self._pushed_ns = now
        if self._keyless and not image.key:
            self.dropped += 1
            return
        if len(self._queue) >= self._limit:
            self.dropped += len(self._queue)
            self._queue.clear()
            self._limit = MAX_QUEUE
            if not image.key:
                self.dropped += 1
                self._keyless = True
                return
        self._keyless = False
        self._append(image, elapsed)

    def restart(self, group: list[MediaImage]) -> None:
        """Send a group at once with compressed RTP times, then continue with live frames."""
        self.dropped += len(self._queue)
        self._queue.clear()
        self._keyless = False
        self._limit = MAX_QUEUE + len(group)
        *before, newest = group
        span = newest.pts_ns - group[0].pts_ns
        interval = span * 9 // 100_000 // len(before) if before and span > 0 else CLOCK_RATE // 30
        for image, time in zip(before, self._timeline.compressed(len(before), interval), strict=True):
            self._queue.append((image, time))
        self._append(newest, interval)

    def _append(self, image: MediaImage, elapsed: int) -> None:
        time = self._timeline.live(image, elapsed)
        self._queue.append((image, time))
        self._wake.set()
        now = self._now()
        if self._timeline.restarted or now - self._anchored_ns >= ANCHOR_INTERVAL_NS:
            self._anchored_ns = now
            self._on_anchor(Anchor(time, image.pts_ns, image.captured_ns, image.by))

    @property
    def ice(self) -> Any:
        """The ICE transport of aiortc."""
        return self.dtls.transport

    @property
    def dtls(self) -> Any:
        """The DTLS transport of aiortc."""
        return self._sender.transport

    def close(self) -> None:
        """Drop all frames that wait."""
        if self._restart is not None:
            self._restart.cancel()
        self._queue.clear()

    # In place of aiortc's methods

    def _take_over(self) -> None:
        sender: Any = self._sender
        handle = sender._handle_rtcp_packet

        async def heard(packet: object) -> None:
            self.heard_ns = self._now()
            if isinstance(packet, RtcpPsfbPacket) and packet.fmt in (RTCP_PSFB_PLI, RTCP_PSFB_FIR):
                self._image_lost()
            else:
                await handle(packet)

        sender._handle_rtcp_packet = heard
        sender._retransmit = self._send_again
        sender._run_rtp = self._run

    def _image_lost(self) -> None:
        if self._restart is not None:
            return  # an answer is scheduled already
        wait_ns = self._restarted_ns + KEY_INTERVAL_NS - self._now()
        if wait_ns <= 0:
            self._answer_loss()
        else:
            self._restart = asyncio.get_running_loop().call_later(wait_ns / 1e9, self._answer_loss)

    def _answer_loss(self) -> None:
        self._restart = None
        group = self._current()
        if group:
            self._restarted_ns = self._now()
            self.restarts += 1
            self.restart(group)

    async def _run(self, codec: Any) -> None:
        """Send frames until canceled. Like aiortc's loop, it sets the events for its start and end."""
        sender: Any = self._sender
        sender._RTCRtpSender__rtp_started.set()
        self.sending = True
        try:
            while True:
                if not self._queue:
                    self._wake.clear()
                    await self._wake.wait()
                    self._unpaused = 0
                    continue
                image, time = self._queue.popleft()
                if self._limit > MAX_QUEUE:
                    self._limit = max(MAX_QUEUE, len(self._queue) + MAX_QUEUE // 2)
                await self._send(image, time, codec.payloadType)
        except (asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self.sending = False
            if self._datagrams is not None:
                self._datagrams.close()
            sender._RTCRtpSender__rtp_exited.set()

    async def _send(self, image: MediaImage, time: int, payload_type: int) -> None:
        sender: Any = self._sender
        for burst in image.bursts:
            if self._unpaused and self._unpaused + len(burst) > BURST:
                self._unpaused = 0
                await asyncio.sleep(_BURST_PAUSE_S)
            self._unpaused += len(burst)
            self._send_burst(burst, time, payload_type, last=burst is image.bursts[-1])
        while self._route().waiting > _MAX_SOCKET_BYTES:
            await asyncio.sleep(_SOCKET_PAUSE_S)
        total = sum(map(len, image.bursts))
        self.packets += total
        sender._RTCRtpSender__ntp_timestamp = rtc_clock.current_ntp_time()
        sender._RTCRtpSender__rtp_timestamp = time
        sender._RTCRtpSender__packet_count += total
        sender._RTCRtpSender__octet_count += image.size

    def _send_burst(self, burst: Sequence[bytes], time: int, payload_type: int, last: bool) -> None:
        sender: Any = self._sender
        route, protect, ssrc = self._route(), sender.transport._tx_srtp.protect, sender._ssrc
        packets: list[bytes] = []
        for number, payload in enumerate(burst, 1):
            sequence = self._sequence = (self._sequence + 1) & 0xFFFF
            kind = payload_type | _MARKER if last and number == len(burst) else payload_type
            packet = _HEADER.pack(_EXTENDED, kind, sequence, time, ssrc) + self._extension + payload
            self._history[sequence % HISTORY] = (sequence, packet)
            packets.append(protect(packet))
        route.send(packets)

    def _route(self) -> Datagrams:
        """Return the route that ICE has selected, bypassing aiortc's and aioice's coroutines, which cost as much as encryption.

        Raises:
            ConnectionError: The viewer is no longer connected.
        """
        pair = self.ice._connection._nominated.get(1)
        sender: Any = self._sender
        if sender.transport.state != "connected" or pair is None:
            raise ConnectionError("the viewer is not connected")
        route, transport = self._datagrams, pair.protocol.transport
        if route is None or route.transport is not transport or route.address != pair.remote_addr:
            if route is not None:
                route.close()
            route = self._datagrams = Datagrams(transport, pair.remote_addr)
        return route

    async def _send_again(self, sequence: int) -> None:
        """Retransmit a lost packet (RFC 4588)."""
        kept = self._history[sequence % HISTORY]
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


def _extension(values: list[tuple[int, bytes]]) -> bytes:
    """Encode one-byte header extensions (RFC 8285, section 4.2); the field is present even without any."""
    body = b"".join(bytes([number << 4 | len(value) - 1]) + value for number, value in values)
    body += b"\0" * (-len(body) % 4)
    return struct.pack("!HH", _ONE_BYTE, len(body) // 4) + body
