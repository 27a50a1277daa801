"""The sound of one viewer: its RTP sender, on the connection of its video."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Protocol

from aiortc import RTCRtpSender

from vision_infer.core.clock import Clock
from vision_infer.preview.rtp_out import RtpOut
from vision_infer.preview.sound.sound_frame import SoundFrame, SoundTimeline

_MAX_SOCKET_BYTES = 64 * 1024
"""The size of the transport's queue above which sound is dropped."""
_MAX_APART_NS = 2_000_000_000
"""The difference between the presentation times of sound and video above which the camera's clocks are considered wrong. A
player would delay one of both by this time."""


class SoundSource(Protocol):
    """What a viewer listens to."""

    dropped: int
    """The number of packets that were dropped."""

    def join(self, listener: SoundSender) -> None:
        """Add a listener."""
        ...

    def leave(self, listener: SoundSender) -> None:
        """Remove a listener."""
        ...


class SoundSender(RtpOut):
    """Sends sound through one of aiortc's RTP senders while the viewer listens. It is used on the event loop only.

    Args:
        sender: The sender of the connection, not started yet.
        extensions: The negotiated header extensions of each packet: identifier and value.
        payload_types: The negotiated payload types by the name of the codec.
        feed: The sound of the stream.
        synced: Returns the wall-clock time and the presentation time of a frame in nanoseconds; None before the first frame.
    """

    def __init__(
        self,
        sender: RTCRtpSender,
        extensions: list[tuple[int, bytes]],
        payload_types: Mapping[str, int],
        feed: SoundSource,
        synced: Callable[[], tuple[int, int] | None],
        clock: Clock,
    ) -> None:
        super().__init__(sender, extensions)
        self._payload_types = payload_types
        self._feed = feed
        self._synced = synced
        self._now = clock.monotonic_ns
        self._timeline = SoundTimeline(secrets.randbits(32))
        self._closed = False

    def listen(self, on: bool) -> None:
        """Start or stop sending; without effect after :meth:`close`."""
        if on and not self._closed:
            self._feed.join(self)
        else:
            self._feed.leave(self)

    def close(self) -> None:
        """Stop sending for good: later requests of the player are ignored."""
        self._closed = True
        self._feed.leave(self)

    def request(self, message: object) -> None:
        """Start or stop sending as the player requests: ``{"sound": true}``. Other messages are ignored."""
        if not isinstance(message, str | bytes):
            return
        try:
            wanted = json.loads(message)
        except (ValueError, RecursionError):
            return
        if isinstance(wanted, dict) and isinstance(wanted.get("sound"), bool):
            self.listen(wanted["sound"])

    def push(self, frame: SoundFrame) -> None:
        """Send a payload. Before the first frame of the video, and while too much waits to be sent, it is dropped."""
        payload_type, synced = self._payload_types.get(frame.codec.name), self._synced()
        if payload_type is None or synced is None:
            return
        time, begins = self._timeline.next(frame, self._now())
        try:
            if self.waiting > _MAX_SOCKET_BYTES:
                self._feed.dropped += 1
                return
            self.send([frame.payload], time, payload_type, last=begins)
        except ConnectionError:
            return  # not connected yet, or no longer
        wall_ns, pts_ns = synced
        ahead_ns = frame.pts_ns - pts_ns
        self.report(wall_ns + (ahead_ns if abs(ahead_ns) < _MAX_APART_NS else 0), time)

    async def run(self, payload_type: int) -> None:  # noqa: ARG002
        """Wait until canceled: each packet is sent when it arrives."""
        await asyncio.Event().wait()
