"""What a stream sends, kept ready for those who watch: its current group of pictures, and each packet and frame as it comes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from vision_infer.core.frame import Frame
from vision_infer.core.packet import EncodedPacket, VideoFormat

GROUP_MOST_BYTES = 8_000_000
GROUP_MOST_PACKETS = 600
"""a longer group is not kept: to play it would take longer than to wait for the next"""


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection began: what follows has nothing to do with what was before."""

    video: VideoFormat


PacketWatcher = Callable[[Opened | EncodedPacket], None]
FrameWatcher = Callable[[Frame], None]


class Relay:
    """Takes what a stream's thread reads (it is a :class:`PacketTap`), and hands it to watchers, on that thread.

    With no watcher a packet costs a place in the list of the current group. Methods may be called from any thread; watchers must
    not block.
    """

    def __init__(self, most_bytes: int = GROUP_MOST_BYTES, most_packets: int = GROUP_MOST_PACKETS) -> None:
        self._most_bytes = most_bytes
        self._most_packets = most_packets
        self._lock = threading.Lock()
        self._packet_watchers: tuple[PacketWatcher, ...] = ()
        self._frame_watchers: tuple[FrameWatcher, ...] = ()
        self._group: list[EncodedPacket] = []
        self._group_bytes = 0
        self._latest_pts: int | None = None
        self.video: VideoFormat | None = None
        """of the connection that is open; None: none is"""
        self.reordered = False
        """this connection's pictures do not come in the order in which they are shown: there are B-frames"""
        self.key: EncodedPacket | None = None
        """the newest key frame of the connection; None: there was none yet"""
        self.group_too_long = False
        """the current group is longer than what is kept"""

    # Of PacketTap

    def opened(self, video: VideoFormat) -> None:
        """A connection began."""
        with self._lock:
            self.video = video
            self._forget()
            self.key = None
            self.reordered, self._latest_pts = False, None
            watchers = self._packet_watchers
        for watch in watchers:
            watch(Opened(video))

    def packet(self, packet: EncodedPacket) -> None:
        """A packet came."""
        pts = packet.pts_ns
        with self._lock:
            if pts is not None:
                latest = self._latest_pts
                if latest is None or pts >= latest:
                    self._latest_pts = pts
                elif not packet.key:
                    self.reordered = True
                else:
                    self._latest_pts = pts
            self._keep(packet)
            watchers = self._packet_watchers
        for watch in watchers:
            watch(packet)

    def frame(self, frame: Frame) -> None:
        """A frame was decoded."""
        for watch in self._frame_watchers:
            watch(frame)

    def closed(self) -> None:
        """The connection ended."""
        with self._lock:
            self.video = None
            self._forget()

    # Of those who watch

    def watch_packets(self, watcher: PacketWatcher) -> list[EncodedPacket]:
        """Hand each packet to it from now on.

        Returns:
            The current group up to now: nothing is missing between it and what follows. Empty where none is kept.
        """
        with self._lock:
            self._packet_watchers = (*self._packet_watchers, watcher)
            return list(self._group)

    def watch_frames(self, watcher: FrameWatcher) -> None:
        """Hand each frame to it from now on."""
        with self._lock:
            self._frame_watchers = (*self._frame_watchers, watcher)

    def frames_wanted(self) -> bool:
        """Whether anybody watches frames."""
        return bool(self._frame_watchers)

    def forget(self, watcher: PacketWatcher | FrameWatcher) -> None:
        """Hand it nothing any more; one call may still be under way."""
        with self._lock:
            self._packet_watchers = tuple(one for one in self._packet_watchers if one != watcher)
            self._frame_watchers = tuple(one for one in self._frame_watchers if one != watcher)

    def group(self) -> list[EncodedPacket]:
        """The current group."""
        with self._lock:
            return list(self._group)

    def _keep(self, packet: EncodedPacket) -> None:
        if packet.key:
            self._forget()
            self.key = packet
        elif not self._group:
            return
        self._group.append(packet)
        self._group_bytes += packet.data.nbytes
        if self._group_bytes > self._most_bytes or len(self._group) > self._most_packets:
            self._forget()
            self.group_too_long = True

    def _forget(self) -> None:
        self._group = []
        self._group_bytes = 0
        self.group_too_long = False
