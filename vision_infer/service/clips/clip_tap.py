"""Encoded video of one stream for clips: buffered for a few seconds, and passed on while a clip is open."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from vision_infer.config.clips import ClipSettings
from vision_infer.core.clock import Clock
from vision_infer.core.frame import Frame
from vision_infer.core.packet import EncodedPacket, SoundPacket, VideoFormat
from vision_infer.service.clips.event_log import EventRecord
from vision_infer.sink.clip_file import CODECS
from vision_infer.sink.clip_ring import PacketRing, TimedPacket, length_size, parameter_sets

LATE_S = 4.0
"""The maximum delay between a frame and its event in seconds; video is buffered for this time in addition to ``pre_s``."""

MAX_EVENTS = 10_000
"""The maximum number of events in one clip."""
ENDED = "complete"
CLOSED, CHANGED, JUMPED, SLOW, STOPPED = "connection_ended", "picture_changed", "time_jumped", "slow_disk", "stopped"
CUT = {
    CLOSED: "the connection ended",
    CHANGED: "the camera changed the frame size or the codec parameters",
    JUMPED: "the camera's timestamps jumped",
    SLOW: "the disk was too slow",
    STOPPED: "the service stopped, or the stream's settings changed",
}
"""The reasons why a clip may end early."""


@dataclass(slots=True, eq=False)
class OpenClip:
    """A clip that is being written. Every access requires the tap's lock."""

    stream: str
    video: VideoFormat
    begun_ns: int
    """The capture time of the first frame, monotonic nanoseconds."""
    until_ns: int
    """The planned end, monotonic nanoseconds."""
    limit_ns: int
    """The latest end; further events cannot extend the clip beyond it."""
    records: list[EventRecord]
    waiting: deque[TimedPacket] = field(default_factory=deque)
    waiting_bytes: int = 0
    last_ns: int = 0
    """The capture time of the last written frame; only the writer thread uses it."""
    ended: str | None = None
    """The reason for the end; None while the clip continues."""

    def add(self, timed: TimedPacket, max_bytes: int) -> None:
        """Add the next packet; end the clip if too much data waits."""
        self.waiting.append(timed)
        self.waiting_bytes += timed.packet.data.nbytes
        if self.waiting_bytes > max_bytes:
            self.ended = SLOW

    def take(self) -> list[TimedPacket]:
        """Remove and return the packets that wait to be written."""
        taken = list(self.waiting)
        self.waiting.clear()
        self.waiting_bytes = 0
        return taken


class ClipTap:
    """A :class:`PacketTap` that buffers encoded video; other threads add events and settings.

    Args:
        stream: The name of the stream.
        max_bytes: The maximum size of the buffered video, and again of the packets that wait to be written.
        on_clip: Called with each new clip while the lock is held.
    """

    def __init__(self, stream: str, max_bytes: int, on_clip: Callable[[ClipTap, OpenClip], None], clock: Clock) -> None:
        self.stream = stream
        # Guards the ring and the open clip. The stream's thread, the results thread, the writer thread and the API hold it while
        # they add or take packets; no file is written while it is held.
        self.lock = threading.Lock()
        self._max_bytes = max_bytes
        self._on_clip = on_clip
        self._now = clock.monotonic_ns
        self._settings: ClipSettings | None = None
        self._ring = PacketRing(0, max_bytes)
        self._video: VideoFormat | None = None
        self._newest: TimedPacket | None = None
        """The newest packet of the video."""
        self._sets = b""
        self._closed = True
        self._clip: OpenClip | None = None

    @property
    def bytes(self) -> int:
        """The size of the buffered video."""
        return self._ring.bytes

    @property
    def too_large(self) -> int:
        """The number of groups of pictures that were larger than the buffer."""
        return self._ring.too_large

    def configure(self, settings: ClipSettings | None) -> None:
        """Set the clip settings; None disables clips."""
        with self.lock:
            self._settings = settings
            if settings is None:
                self._ring.clear()
                self._end(STOPPED)
            else:
                self._ring.keep_ns = round((settings.pre_s + LATE_S) * 1e9)

    # PacketTap

    def opened(self, video: VideoFormat) -> None:
        """Start a new connection."""
        with self.lock:
            self._end(CLOSED)
            self._ring.clear()
            self._video, self._newest, self._sets, self._closed = video, None, b"", False

    def packet(self, packet: EncodedPacket) -> None:
        """Buffer a packet and pass it to the open clip."""
        if self._settings is None:
            return
        with self.lock:
            video = self._video
            if video is None or video.codec not in CODECS:
                return
            kept = replace(packet, payloads=())  # they double the size, and clips do not need them
            timed = TimedPacket(self._now() if packet.captured_ns is None else packet.captured_ns, kept)
            if packet.key:
                sets = parameter_sets(video.codec, packet.data, length_size(video.codec, video.extradata))
                if sets and self._sets and sets != self._sets:
                    self._end(CHANGED)
                    self._ring.clear()
                self._sets = sets or self._sets
            self._newest = timed
            self._ring.add(timed)
            self._pass_on(timed)

    def sound(self, packet: SoundPacket) -> None:
        """Buffer a packet of sound next to the video of the same time, and pass it to the open clip."""
        with self.lock:
            newest = self._newest
            if self._settings is not None and newest is not None and newest.packet.pts_ns is not None:
                timed = TimedPacket(newest.at_ns + packet.pts_ns - newest.packet.pts_ns, packet)
                self._ring.add(timed)
                self._pass_on(timed)

    def wants_sound(self) -> bool:
        """Return whether clips are recorded."""
        return self._settings is not None

    def frame(self, frame: Frame) -> None:
        """Ignore decoded frames."""

    def closed(self) -> None:
        """End the connection; the buffer is kept for events that arrive later."""
        with self.lock:
            self._end(CLOSED)
            self._closed = True

    # Events

    def add_event(self, record: EventRecord, at_ns: int) -> None:
        """Start a clip for an event, or extend the open one.

        Args:
            record: The event; its clip state is updated.
            at_ns: The capture time of the frame, monotonic nanoseconds.
        """
        with self.lock:
            settings = self._settings
            if settings is None or (settings.events is not None and record.event["place"] not in settings.events):
                return
            until_ns = at_ns + round(settings.post_s * 1e9)
            clip = self._clip
            if clip is not None and at_ns <= clip.limit_ns and len(clip.records) < MAX_EVENTS:
                record.state = "recording"
                clip.records.append(record)
                clip.until_ns = min(max(clip.until_ns, until_ns), clip.limit_ns)
                return
            self._end(ENDED)
            self._begin(record, at_ns - round(settings.pre_s * 1e9), until_ns, round(settings.max_s * 1e9))

    def detach(self, clip: OpenClip, why: str) -> None:
        """End a clip; the caller holds the lock."""
        if clip.ended is None:
            clip.ended = why
        if self._clip is clip:
            self._clip = None

    def _begin(self, record: EventRecord, from_ns: int, until_ns: int, max_ns: int) -> None:
        video, packets = self._video, self._ring.since(from_ns)
        if video is None or not packets:
            codec = "" if video is None or video.codec in CODECS else f": clips support H.264 and H.265, not {video.codec}"
            record.state, record.reason = "missing", f"the video of that time was not in memory{codec}"
            return
        record.state = "recording"
        begun_ns = packets[0].at_ns
        clip = self._clip = OpenClip(self.stream, video, begun_ns, until_ns, max(until_ns, begun_ns + max_ns), [record])
        for timed in packets:
            self._pass_on(timed)
        if self._closed:
            self._end(CLOSED)
        self._on_clip(self, clip)

    def _pass_on(self, timed: TimedPacket) -> None:
        clip = self._clip
        if clip is None:
            return
        if timed.at_ns > clip.until_ns:
            if isinstance(timed.packet, EncodedPacket):
                self._end(ENDED)
            return
        clip.add(timed, 2 * self._max_bytes)
        if clip.ended is not None:
            self._clip = None

    def _end(self, why: str) -> None:
        if self._clip is not None:
            self.detach(self._clip, why)
