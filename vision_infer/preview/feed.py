"""Encoded frames on their way from a stream's thread to its viewers: packed for RTP once for all of them, on the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from vision_infer.core.clock import Clock
from vision_infer.core.geometry import Size
from vision_infer.core.packet import EncodedPacket, VideoFormat
from vision_infer.preview.codecs.payloads import Packets
from vision_infer.preview.codecs.registry import packets_of
from vision_infer.preview.media import By, MediaImage
from vision_infer.preview.relay import MAX_GROUP_BYTES, MAX_GROUP_PACKETS, ConnectionOpened, Relay
from vision_infer.preview.sender import Viewer
from vision_infer.preview.transport.datagrams import bursts
from vision_infer.stream.browser import VideoFacts

_MAX_WAITING = 256
"""The maximum number of packets that wait for the event loop. Beyond it, the feed skips to the next key frame."""


class Feed:
    """One encoded video and its viewers. It is used on the event loop only."""

    def __init__(self, codec: str, by: By) -> None:
        self.codec = codec
        """The name of the codec in SDP, for example ``H264``."""
        self.by = by
        self.viewers: list[Viewer] = []
        self.size: Size | None = None
        """The size of its frames in pixels; None while it is unknown."""
        self.group: list[MediaImage] = []
        self.group_too_long = False
        self.behind = 0
        """The number of frames that were skipped because the event loop was too slow."""
        self._group_bytes = 0
        self._begun = False

    def join(self, viewer: Viewer) -> None:
        """Add a viewer. The first one starts the feed."""
        self.viewers.append(viewer)
        if len(self.viewers) == 1:
            self.start()
        elif self.group:
            viewer.restart(self.group)

    def leave(self, viewer: Viewer) -> None:
        """Remove a viewer. The last one stops the feed."""
        if viewer in self.viewers:
            self.viewers.remove(viewer)
            if not self.viewers:
                self.stop()
                self.reset()

    def start(self) -> None:
        """Start: there is a first viewer."""

    def stop(self) -> None:
        """Stop: the last viewer has left."""

    def accept(self, image: MediaImage) -> None:
        """Send a frame to all viewers. Frames before the first key frame are skipped, since they cannot be decoded."""
        if self.keep(image):
            for viewer in self.viewers:
                viewer.push(image)

    def keep(self, image: MediaImage) -> bool:
        """Add a frame to the current group. Returns whether a decoder can have started at it or before it."""
        if image.key:
            self.forget()
            self._begun = True
        if image.key or self.group:
            self.group.append(image)
            self._group_bytes += image.size
            if self._group_bytes > MAX_GROUP_BYTES or len(self.group) > MAX_GROUP_PACKETS:
                self.forget()
                self.group_too_long = True
        return self._begun

    def reset(self) -> None:
        """Wait for a key frame: the next frames do not continue the previous ones."""
        self.forget()
        self._begun = False

    def forget(self) -> None:
        """Drop the current group."""
        self.group = []
        self._group_bytes = 0
        self.group_too_long = False


class PassthroughFeed(Feed):
    """A stream's own packets, passed through unmodified.

    Args:
        codec: The name of the codec in SDP.
        facts: The facts that the viewers have agreed to.
        check: Returns why browsers cannot play video with these facts; empty if they can.
        give_up: Called once with the reason when browsers can no longer play the video.
    """

    def __init__(
        self,
        codec: str,
        facts: VideoFacts,
        relay: Relay,
        by: By,
        check: Callable[[Relay, VideoFormat, VideoFacts | None], str],
        give_up: Callable[[PassthroughFeed, str], None],
        clock: Clock,
    ) -> None:
        super().__init__(codec, by)
        self.agreed = facts.codec, facts.profile
        """The codec and the profile that the viewers have agreed to."""
        self._relay = relay
        self._check = check
        self._give_up = give_up
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[ConnectionOpened | EncodedPacket] = deque()
        self._awaited = False
        self._lost = False
        self._video: VideoFormat | None = None
        self._packets: Packets | None = None
        self._checked: tuple[VideoFacts | None, bool] | None = None
        self.over = False
        """Whether it has given up."""

    def start(self) -> None:
        """Start watching the stream. The first viewer receives the current group."""
        video = self._relay.video
        if video is not None:
            self._open(video)
        for packet in self._relay.watch_packets(self._from_stream):
            image = self._image(packet)
            if image is not None:
                self.keep(image)
        if self.group:
            for viewer in self.viewers:
                viewer.restart(self.group)

    def stop(self) -> None:
        """Stop watching the stream."""
        self._relay.forget(self._from_stream)
        self._waiting.clear()

    def _from_stream(self, event: ConnectionOpened | EncodedPacket) -> None:
        """Take an event, on the stream's thread."""
        if len(self._waiting) >= _MAX_WAITING:
            opened = [one for one in self._waiting if isinstance(one, ConnectionOpened)]
            self._waiting = deque(opened[-1:])
            self._lost = True
        self._waiting.append(event)
        if not self._awaited:
            self._awaited = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:  # the loop has ended
                self._relay.forget(self._from_stream)

    def _drain(self) -> None:
        self._awaited = False
        waiting = self._waiting  # the stream's thread may replace the deque meanwhile
        while waiting and not self.over:
            event = waiting.popleft()
            if isinstance(event, ConnectionOpened):
                self._open(event.video)
            else:
                image = self._image(event)
                if image is not None:
                    self.accept(image)

    def _open(self, video: VideoFormat) -> None:
        self.reset()
        self._packets = packets_of(video)
        self._video = video
        self._checked = None
        facts = None if self._packets is None else self._packets.facts
        self.size = None if facts is None else facts.size
        if self._packets is None:
            self._end(self._check(self._relay, video, None))

    def _image(self, packet: EncodedPacket) -> MediaImage | None:
        """Pack a packet for RTP. Returns None if it is not to be sent."""
        packets, video = self._packets, self._video
        if packets is None or video is None:
            return None
        if self._lost:
            if not packet.key:
                self.behind += 1
                return None
            self._lost = False
        payloads = packets.payloads(packet)
        facts = packets.facts
        state = (facts, self._relay.reordered)
        if state != self._checked:
            self._checked = state
            self.size = None if facts is None else facts.size
            reason = self._check(self._relay, video, facts)
            if not reason and facts is not None and (facts.codec, facts.profile) != self.agreed:
                reason = f"the stream is now {facts}"
            if reason:
                self._end(reason)
                return None
        if not payloads:
            return None
        pts, by = packet.pts_ns, self.by
        if pts is None:
            pts, by = packet.captured_ns, "captured"
            if pts is None:
                pts = self._clock.monotonic_ns()
        return MediaImage(bursts(payloads), pts, packet.captured_ns, packet.key, by, sum(map(len, payloads)))

    def _end(self, reason: str) -> None:
        if not self.over:
            self.over = True
            self._relay.forget(self._from_stream)
            self._loop.call_soon(self._give_up, self, reason)
