"""The sound of one connection: read next to the video while it is wanted, and otherwise dropped by the demuxer."""

from __future__ import annotations

from collections import deque

import av.container
from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Discard

from vision_infer.core.packet import SoundFormat, SoundPacket

_MAX_WAITING = 1024
"""The maximum number of packets that wait for their time, in a source that is read ahead of it; the oldest are dropped."""


class SoundReader:
    """Selects the first sound track. All tracks except the video are dropped by the demuxer, until sound is wanted.

    Args:
        container: The open source.
        video: The index of the video track.
        wanted: Whether the source has sound for this program; if not, the demuxer always drops it.
    """

    def __init__(self, container: av.container.InputContainer, video: int, wanted: bool) -> None:
        for stream in container.streams:
            if stream.index != video:
                stream.discard = Discard.all
        known = [track for track in container.streams.audio if getattr(track, "codec_context", None)]
        self._track: AudioStream | None = known[0] if known and wanted else None
        self._listening = False
        self._waiting: deque[SoundPacket] = deque(maxlen=_MAX_WAITING)
        self.format: SoundFormat | None = None
        """The format of the sound; None if there is none."""
        if self._track is not None:
            context = self._track.codec_context
            extradata = bytes(context.extradata or b"")
            # PyAV names a decoder, which for some codecs is not the name of the codec (mp3float).
            self.format = SoundFormat(context.codec.canonical_name, context.sample_rate or 0, context.channels, extradata)

    @property
    def index(self) -> int:
        """The index of the track; -1 if there is none."""
        return -1 if self._track is None else self._track.index

    def listen(self, wanted: bool) -> None:
        """Read the sound from now on, or drop it."""
        if wanted != self._listening and self._track is not None:
            self._listening = wanted
            self._track.discard = Discard.default if wanted else Discard.all
            self._waiting.clear()

    def read(self, packet: Packet[AudioStream], pts_ns: int | None) -> None:
        """Keep a packet until it is taken. Without a presentation time, it is dropped: its place is unknown."""
        if pts_ns is not None and packet.size and self._listening:
            self._waiting.append(SoundPacket(memoryview(bytes(packet)), pts_ns))

    def take(self, until_ns: int | None = None) -> list[SoundPacket]:
        """Return the packets that were read, up to a presentation time."""
        taken: list[SoundPacket] = []
        while self._waiting and (until_ns is None or self._waiting[0].pts_ns <= until_ns):
            taken.append(self._waiting.popleft())
        return taken
