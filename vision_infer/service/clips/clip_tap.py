"""Coded video of one stream on its way into clips: kept for a few seconds, and handed on while an event's clip is open."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from vision_infer.config.clips import ClipSettings
from vision_infer.core.clock import Clock
from vision_infer.core.frame import Frame
from vision_infer.core.packet import EncodedPacket, VideoFormat
from vision_infer.service.clips.event_log import EventRecord
from vision_infer.sink.clip_file import CODECS
from vision_infer.sink.clip_ring import PacketRing, TimedPacket, length_size, parameter_sets

LATE_S = 4.0
"""so long after its picture an event may be known: what goes before it is kept for that time too"""

MAX_EVENTS = 10_000
"""that share a clip"""
ENDED = "complete"
CLOSED, CHANGED, JUMPED, SLOW, STOPPED = "connection_ended", "picture_changed", "time_jumped", "slow_disk", "stopped"
CUT = {
    CLOSED: "the connection ended",
    CHANGED: "the camera changed the size or the form of its pictures",
    JUMPED: "the camera's own time jumped",
    SLOW: "the disk was too slow",
    STOPPED: "the service stopped, or the stream has other settings",
}
"""why a clip may end before its time"""


@dataclass(slots=True, eq=False)
class OpenClip:
    """A clip that is being written. Its tap's lock is held by whoever touches it."""

    stream: str
    video: VideoFormat
    begun_ns: int
    """of its first picture, monotonic"""
    until_ns: int
    """of its last"""
    limit_ns: int
    """no event makes it last longer"""
    records: list[EventRecord]
    waiting: deque[TimedPacket] = field(default_factory=deque)
    waiting_bytes: int = 0
    last_ns: int = 0
    """of the last picture that is written; the writer's own"""
    ended: str | None = None
    """why nothing more comes; None: it goes on"""

    def add(self, timed: TimedPacket, most_bytes: int) -> None:
        """Take the next packet."""
        self.waiting.append(timed)
        self.waiting_bytes += timed.packet.data.nbytes
        if self.waiting_bytes > most_bytes:
            self.ended = SLOW

    def take(self) -> list[TimedPacket]:
        """What waits to be written."""
        taken = list(self.waiting)
        self.waiting.clear()
        self.waiting_bytes = 0
        return taken


class ClipTap:
    """A :class:`PacketTap`; other threads come with events and settings.

    Args:
        stream: its name.
        most_bytes: of coded video that is kept, and again of what waits to be written.
        opened_clip: called with each new clip, while the lock is held.
    """

    def __init__(self, stream: str, most_bytes: int, opened_clip: Callable[[ClipTap, OpenClip], None], clock: Clock) -> None:
        self.stream = stream
        self.lock = threading.Lock()
        self._most_bytes = most_bytes
        self._opened_clip = opened_clip
        self._now = clock.monotonic_ns
        self._settings: ClipSettings | None = None
        self._ring = PacketRing(0, most_bytes)
        self._video: VideoFormat | None = None
        self._sets = b""
        self._closed = True
        self._clip: OpenClip | None = None

    @property
    def bytes(self) -> int:
        """Of coded video that is kept."""
        return self._ring.bytes

    @property
    def too_large(self) -> int:
        """Groups of pictures that were larger than all that may be kept."""
        return self._ring.too_large

    def configure(self, settings: ClipSettings | None) -> None:
        """Make clips so from now on; None: make none."""
        with self.lock:
            self._settings = settings
            if settings is None:
                self._ring.clear()
                self._end(STOPPED)
            else:
                self._ring.keep_ns = round((settings.pre_s + LATE_S) * 1e9)

    # Of PacketTap

    def opened(self, video: VideoFormat) -> None:
        """A connection began."""
        with self.lock:
            self._end(CLOSED)
            self._ring.clear()
            self._video, self._sets, self._closed = video, b"", False

    def packet(self, packet: EncodedPacket) -> None:
        """A packet came."""
        if self._settings is None:
            return
        with self.lock:
            video = self._video
            if video is None or video.codec not in CODECS:
                return
            timed = TimedPacket(self._now() if packet.captured_ns is None else packet.captured_ns, packet)
            if packet.key:
                sets = parameter_sets(video.codec, packet.data, length_size(video.codec, video.extradata))
                if sets and self._sets and sets != self._sets:
                    self._end(CHANGED)
                    self._ring.clear()
                self._sets = sets or self._sets
            self._ring.add(timed)
            self._hand_on(timed)

    def frame(self, frame: Frame) -> None:
        """A frame was decoded, which is of no use here."""

    def closed(self) -> None:
        """The connection ended. What was kept is for events that are still to be told."""
        with self.lock:
            self._end(CLOSED)
            self._closed = True

    # Of events

    def happened(self, record: EventRecord, at_ns: int) -> None:
        """Something happened: begin a clip, or let the one that is being written last longer.

        Args:
            record: of it; its clip's state is set.
            at_ns: when the picture was taken, monotonic.
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

    def let_go(self, clip: OpenClip, why: str) -> None:
        """Hand nothing on to this clip any more; the lock is held."""
        if clip.ended is None:
            clip.ended = why
        if self._clip is clip:
            self._clip = None

    def _begin(self, record: EventRecord, from_ns: int, until_ns: int, most_ns: int) -> None:
        video, packets = self._video, self._ring.since(from_ns)
        if video is None or not packets:
            codec = "" if video is None or video.codec in CODECS else f": {video.codec} is not kept, only H.264 and H.265 are"
            record.state, record.reason = "missing", f"no coded video of that moment was in memory{codec}"
            return
        record.state = "recording"
        begun_ns = packets[0].at_ns
        clip = self._clip = OpenClip(self.stream, video, begun_ns, until_ns, max(until_ns, begun_ns + most_ns), [record])
        for timed in packets:
            self._hand_on(timed)
        if self._closed:
            self._end(CLOSED)
        self._opened_clip(self, clip)

    def _hand_on(self, timed: TimedPacket) -> None:
        clip = self._clip
        if clip is None:
            return
        if timed.at_ns > clip.until_ns:
            self._end(ENDED)
            return
        clip.add(timed, 2 * self._most_bytes)
        if clip.ended is not None:
            self._clip = None

    def _end(self, why: str) -> None:
        if self._clip is not None:
            self.let_go(self._clip, why)
