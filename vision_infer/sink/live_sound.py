"""The sound of a live source on its way into the annotated video, in step by the capture times."""

from __future__ import annotations

from collections import deque

from vision_infer.core.clock import Clock
from vision_infer.core.frame import Frame
from vision_infer.core.packet import EncodedPacket, SoundFormat, SoundPacket, VideoFormat

_MAX_WAITING = 1024
"""The maximum number of packets that wait for the frames of their time, about 20 s; the oldest are dropped."""


_MAX_APART_NS = 2_000_000_000
"""The difference between the times of sound and video above which the camera's clocks are wrong, and the sound is dropped."""


class LiveSound:
    """Buffers sound with its capture times (a :class:`PacketTap`). The stream's thread fills it, the outlet's thread takes."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.monotonic_ns
        self._format: SoundFormat | None = None
        self._newest: tuple[int, int] | None = None
        """The capture time and the presentation time of the newest video packet, nanoseconds."""
        self._waiting: deque[tuple[SoundFormat, SoundPacket]] = deque(maxlen=_MAX_WAITING)

    # PacketTap

    def opened(self, video: VideoFormat) -> None:
        """Take note of a new connection."""
        self._format, self._newest = video.sound, None

    def packet(self, packet: EncodedPacket) -> None:
        """Take note of the capture time of the video."""
        if packet.pts_ns is not None:
            self._newest = (packet.captured_ns or self._now(), packet.pts_ns)

    def frame(self, frame: Frame) -> None:
        """Ignore decoded frames."""

    def sound(self, packet: SoundPacket) -> None:
        """Buffer a packet of sound."""
        if self._newest is not None and self._format is not None:
            captured_ns, pts_ns = self._newest
            ahead_ns = packet.pts_ns - pts_ns
            if abs(ahead_ns) < _MAX_APART_NS:
                self._waiting.append((self._format, SoundPacket(packet.data, captured_ns + ahead_ns)))

    def wants_sound(self) -> bool:
        """Return True: the video keeps its sound."""
        return True

    def closed(self) -> None:
        """Keep what is buffered."""

    # The annotated video

    @property
    def format(self) -> SoundFormat | None:
        """The format of the sound of the current connection; None without sound."""
        return self._format

    def take(self, until_ns: float) -> list[tuple[SoundFormat, SoundPacket]]:
        """Return the packets that were captured up to this time, monotonic, nanoseconds; their times are capture times."""
        taken: list[tuple[SoundFormat, SoundPacket]] = []
        while self._waiting and self._waiting[0][1].pts_ns <= until_ns:
            taken.append(self._waiting.popleft())
        return taken
