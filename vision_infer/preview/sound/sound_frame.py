"""Sound packed for RTP (RFC 3551, RFC 7587), and the mapping from presentation time to RTP time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vision_infer.core.packet import SoundFormat, SoundPacket

_SECOND = 1_000_000_000
_MAX_PAYLOAD = 1200
"""The maximum size of a payload, bytes; longer G.711 is divided, and longer Opus, which cannot be divided, is dropped."""
_MAX_OPUS = 5760
"""The maximum duration of an Opus packet: 120 ms (RFC 6716, section 3.2.5)."""
_SLACK_MS = 40
"""The deviation of presentation times from the duration of the sound up to which RTP times continue without a gap."""
_LONGEST_GAP_S = 3600


@dataclass(frozen=True, slots=True)
class SoundCodec:
    """A codec that browsers play."""

    name: str
    """The name in SDP."""
    rate: int
    """The RTP clock rate, Hz."""


OPUS, PCMU, PCMA = SoundCodec("opus", 48_000), SoundCodec("PCMU", 8000), SoundCodec("PCMA", 8000)
_G711 = {"pcm_mulaw": PCMU, "pcm_alaw": PCMA}


@dataclass(frozen=True, slots=True)
class SoundFrame:
    """One payload."""

    codec: SoundCodec
    payload: bytes
    pts_ns: int
    ticks: int
    """The duration in units of the RTP clock."""


def own_codec(sound: SoundFormat) -> SoundCodec | None:
    """Return the codec in which browsers play sound unmodified; None if it must be encoded."""
    if sound.codec == "opus" and sound.channels <= 2:
        return OPUS
    return _G711.get(sound.codec) if sound.rate == 8000 and sound.channels == 1 else None


def frames_of(codec: SoundCodec, packet: SoundPacket) -> Iterator[SoundFrame]:
    """Yield the payloads of a packet: its bytes, divided if they are too long."""
    data = bytes(packet.data)
    if codec is OPUS:
        ticks = opus_ticks(data)
        if ticks and len(data) <= _MAX_PAYLOAD:
            yield SoundFrame(codec, data, packet.pts_ns, ticks)
        return
    for begin in range(0, len(data), _MAX_PAYLOAD):
        part = data[begin : begin + _MAX_PAYLOAD]
        yield SoundFrame(codec, part, packet.pts_ns + begin * _SECOND // codec.rate, len(part))


def opus_ticks(data: bytes) -> int:
    """Return the duration of an Opus packet in 1/48000 s (RFC 6716, section 3.1); 0 if it is not one."""
    if not data:
        return 0
    config, code = data[0] >> 3, data[0] & 3
    if config < 12:
        frame = (480, 960, 1920, 2880)[config & 3]
    elif config < 16:
        frame = (480, 960)[config & 1]
    else:
        frame = (120, 240, 480, 960)[config & 3]
    frames = (1, 2, 2, data[1] & 63 if len(data) > 1 else 0)[code]
    return frame * frames if frame * frames <= _MAX_OPUS else 0


class SoundTimeline:
    """Assigns RTP times to the sound of one viewer. They follow the duration of the sound; gaps follow the presentation times."""

    def __init__(self, origin: int) -> None:
        self._next = origin
        self._offset: int | None = None
        self._rate = 0
        self._pushed_ns = 0

    def next(self, frame: SoundFrame, now_ns: int) -> tuple[int, bool]:
        """Return the RTP time of the next payload, and whether it begins after a gap.

        Args:
            now_ns: The monotonic time; it gives the length of a gap that presentation times do not show.
        """
        rate = frame.codec.rate
        ticks = frame.pts_ns * rate // _SECOND
        ahead = None if self._offset is None or rate != self._rate else ticks + self._offset - self._next
        begins = ahead is None or abs(ahead) > rate * _SLACK_MS // 1000
        if ahead is None or ahead < 0 or ahead > rate * _LONGEST_GAP_S:
            if begins:
                paused = (now_ns - self._pushed_ns) * self._rate // _SECOND if self._pushed_ns else 0
                self._next += max(0, min(paused, self._rate * _LONGEST_GAP_S))
                self._offset = self._next - ticks
        elif begins:
            self._next += ahead
        self._rate, self._pushed_ns = rate, now_ns
        time, self._next = self._next & 0xFFFFFFFF, self._next + frame.ticks
        return time, begins
