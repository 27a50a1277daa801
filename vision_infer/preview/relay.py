"""The link from a stream to its preview: keeps the current group of pictures, and forwards each packet and frame."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from vision_infer.core.frame import Frame
from vision_infer.core.packet import EncodedPacket, SoundPacket, VideoFormat

MAX_GROUP_BYTES = 8_000_000
MAX_GROUP_PACKETS = 600
"""The limits of the group that is kept. Playing a longer group would take longer than waiting for the next key frame."""


@dataclass(frozen=True, slots=True)
class ConnectionOpened:
    """A connection was opened; the following packets do not continue the previous ones."""

    video: VideoFormat


PacketWatcher = Callable[[ConnectionOpened | EncodedPacket], None]
FrameWatcher = Callable[[Frame], None]
SoundWatcher = Callable[[ConnectionOpened | SoundPacket], None]


class Relay:
    """Forwards a stream's packets and frames to watchers, on the stream's thread (it is a :class:`PacketTap`).

    Without watchers, a packet is only appended to the current group. Methods may be called from any thread; watchers must not
    block.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all fields; held for a list operation only, never while watchers run
        self._packet_watchers: tuple[PacketWatcher, ...] = ()
        self._frame_watchers: tuple[FrameWatcher, ...] = ()
        self._sound_watchers: tuple[SoundWatcher, ...] = ()
        self._group: list[EncodedPacket] = []
        self._group_bytes = 0
        self._latest_pts: int | None = None
        self.video: VideoFormat | None = None
        """The video format of the open connection; None without one."""
        self.reordered = False
        """Whether packets of this connection are out of presentation order, that is, it has B-frames."""
        self.key: EncodedPacket | None = None
        """The newest key frame of the connection; None before the first."""

    # Called by the stream's thread (PacketTap)

    def opened(self, video: VideoFormat) -> None:
        """Take note of a new connection."""
        with self._lock:
            self.video = video
            self._forget()
            self.key = None
            self.reordered, self._latest_pts = False, None
            watchers = (*self._packet_watchers, *self._sound_watchers)
        for watch in watchers:
            watch(ConnectionOpened(video))

    def packet(self, packet: EncodedPacket) -> None:
        """Keep and forward a packet. Its RTP payloads, which double its size, are kept only while there are watchers."""
        if packet.payloads and not self._packet_watchers:
            packet = replace(packet, payloads=())
        pts = packet.pts_ns
        with self._lock:
            if pts is not None:
                if packet.key or self._latest_pts is None or pts >= self._latest_pts:
                    self._latest_pts = pts
                else:
                    self.reordered = True
            self._keep(packet)
            watchers = self._packet_watchers
        for watch in watchers:
            watch(packet)

    def frame(self, frame: Frame) -> None:
        """Forward a decoded frame."""
        for watch in self._frame_watchers:
            watch(frame)

    def sound(self, packet: SoundPacket) -> None:
        """Forward a packet of sound."""
        for watch in self._sound_watchers:
            watch(packet)

    def wants_sound(self) -> bool:
        """Return whether there is a watcher of sound."""
        return bool(self._sound_watchers)

    def closed(self) -> None:
        """Take note of the end of the connection."""
        with self._lock:
            self.video = None
            self._forget()

    # Called by watchers

    def watch_packets(self, watcher: PacketWatcher) -> list[EncodedPacket]:
        """Forward each packet to a watcher; return the current group, which they continue without a gap."""
        with self._lock:
            self._packet_watchers = (*self._packet_watchers, watcher)
            return list(self._group)

    def watch_frames(self, watcher: FrameWatcher) -> None:
        """Forward each decoded frame to a watcher."""
        with self._lock:
            self._frame_watchers = (*self._frame_watchers, watcher)

    def watch_sound(self, watcher: SoundWatcher) -> VideoFormat | None:
        """Forward each packet of sound to a watcher; return the format of the open connection."""
        with self._lock:
            self._sound_watchers = (*self._sound_watchers, watcher)
            return self.video

    def frames_wanted(self) -> bool:
        """Whether there is a watcher of frames."""
        return bool(self._frame_watchers)

    def forget(self, watcher: PacketWatcher | FrameWatcher | SoundWatcher) -> None:
        """Remove a watcher. One call to it may still be in progress."""
        with self._lock:
            self._packet_watchers = tuple(known for known in self._packet_watchers if known != watcher)
            self._frame_watchers = tuple(known for known in self._frame_watchers if known != watcher)
            self._sound_watchers = tuple(known for known in self._sound_watchers if known != watcher)

    def _keep(self, packet: EncodedPacket) -> None:
        if packet.key:
            self._forget()
            self.key = packet
        elif not self._group:
            return
        self._group.append(packet)
        self._group_bytes += packet.data.nbytes
        if self._group_bytes > MAX_GROUP_BYTES or len(self._group) > MAX_GROUP_PACKETS:
            self._forget()

    def _forget(self) -> None:
        self._group = []
        self._group_bytes = 0
