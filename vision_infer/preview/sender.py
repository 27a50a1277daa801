"""An RTP sender for video that is already encoded, in place of aiortc's.

aiortc's sender passes requests for key frames to an encoder only. This sender takes frames that are packed for RTP, answers such
requests with the current group of pictures, has a bounded queue, and reports the RTP time of frames.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from aiortc import RTCRtpSender
from aiortc.rtp import RTCP_PSFB_FIR, RTCP_PSFB_PLI, RtcpPsfbPacket

from vision_infer.core.clock import Clock
from vision_infer.preview.media import CLOCK_RATE, By, MediaImage, Timeline
from vision_infer.preview.rtp_out import RtpOut
from vision_infer.preview.transport.datagrams import BURST

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


@dataclass(frozen=True, slots=True)
class Anchor:
    """A frame's RTP time together with its presentation time."""

    rtp: int
    pts_ns: int
    captured_ns: int | None
    by: By


class Viewer(RtpOut):
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
        super().__init__(sender, extensions, HISTORY)
        self._current = current
        self._on_anchor = on_anchor
        self._clock = clock
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
        self._unpaused = 0
        """The number of packets sent since the last pause; a group consists of many frames that are ready at once."""
        self.heard_ns = self._now()
        """The time of the last packet from the player, monotonic."""
        self.sending = False
        self.synced: tuple[int, int] | None = None
        """The wall-clock capture time and the presentation time of the newest frame, nanoseconds; the sender reports of sound
        follow it, so that the player shows both in step."""
        self.restarts = 0
        """The number of groups that were sent again on request."""
        self.dropped = 0
        """The number of frames that were skipped because the viewer was too slow."""

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
        self.synced = (self._clock.wall_ns() - now + (image.captured_ns or now), image.pts_ns)
        self.report(self.synced[0], time)
        if self._timeline.restarted or now - self._anchored_ns >= ANCHOR_INTERVAL_NS:
            self._anchored_ns = now
            self._on_anchor(Anchor(time, image.pts_ns, image.captured_ns, image.by))

    def close(self) -> None:
        """Drop all frames that wait."""
        if self._restart is not None:
            self._restart.cancel()
        self._queue.clear()

    # Called for aiortc

    def heard(self, packet: object) -> bool:
        """Answer a request for a key frame."""
        self.heard_ns = self._now()
        lost = isinstance(packet, RtcpPsfbPacket) and packet.fmt in (RTCP_PSFB_PLI, RTCP_PSFB_FIR)
        if lost:
            self._image_lost()
        return lost

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

    async def run(self, payload_type: int) -> None:
        """Send frames until canceled."""
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
                await self._send(image, time, payload_type)
        finally:
            self.sending = False

    async def _send(self, image: MediaImage, time: int, payload_type: int) -> None:
        for burst in image.bursts:
            if self._unpaused and self._unpaused + len(burst) > BURST:
                self._unpaused = 0
                await asyncio.sleep(_BURST_PAUSE_S)
            self._unpaused += len(burst)
            while self.waiting > _MAX_SOCKET_BYTES:
                await asyncio.sleep(_SOCKET_PAUSE_S)
            self.send(burst, time, payload_type, last=burst is image.bursts[-1])
