"""AV1: sequence headers and RTP payloads (AV1 Bitstream & Decoding Process Specification; RTP Payload Format For AV1, AOM)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vision_infer.core.geometry import Size
from vision_infer.core.packet import EncodedPacket, VideoFormat
from vision_infer.preview.codecs.bits import Bits
from vision_infer.preview.codecs.payloads import MAX_PAYLOAD
from vision_infer.stream.browser import VideoFacts

_SEQUENCE_HEADER, _TEMPORAL_DELIMITER, _TILE_LIST, _PADDING = 1, 2, 8, 15
_DROPPED = frozenset({_TEMPORAL_DELIMITER, _TILE_LIST, _PADDING})
_EXTENSION, _HAS_SIZE = 0x04, 0x02
_CONTINUES, _CONTINUED, _NEW_SEQUENCE = 0x80, 0x40, 0x08
"""The bits Z, Y and N of the aggregation header. W is 0: each OBU element has a length."""
_AV1C_MARKER, _AV1C_HEADER = 0x81, 4
_MAX_HEADER = 256
"""The size of a sequence header in bytes up to which it is read."""
_PROFILES = ("Main", "High", "Professional")
_SCREEN_CONTENT_BY_FRAME = 2
_SRGB = (1, 13, 0)
"""The color description of RGB, which has no chroma format."""


class Av1Packets:
    """AV1 of one connection. A key frame without a sequence header gets the newest one."""

    def __init__(self, video: VideoFormat) -> None:
        self.facts: VideoFacts | None = None
        self._header = b""
        begin = _AV1C_HEADER if video.extradata[:1] == bytes([_AV1C_MARKER]) else 0
        self._note(list(obus(video.extradata[begin:])))

    def payloads(self, packet: EncodedPacket) -> tuple[bytes, ...]:
        """Return the RTP payloads of a packet; empty if it contains nothing to send."""
        found = [obu for obu in obus(bytes(packet.data)) if _kind(obu) not in _DROPPED]
        self._note(found)
        if packet.key and self._header and not any(_kind(obu) == _SEQUENCE_HEADER for obu in found):
            found.insert(0, self._header)
        return payloads(found, packet.key)

    def sprop(self) -> str:
        """Return no parameters: each key frame has a sequence header."""
        return ""

    def _note(self, found: Sequence[bytes]) -> None:
        header = next((obu for obu in found if _kind(obu) == _SEQUENCE_HEADER), self._header)
        if header != self._header:
            self._header = header
            try:
                self.facts = sequence_facts(header)
            except ValueError:
                self.facts = None


def _kind(obu: bytes) -> int:
    return obu[0] >> 3 & 15


def obus(data: bytes) -> Iterator[bytes]:
    """Yield the OBUs of a temporal unit without their size fields, as RTP carries them. Damaged data ends the sequence."""
    at = 0
    while at < len(data):
        header = data[at : at + (2 if data[at] & _EXTENSION else 1)]
        at += len(header)
        size = len(data) - at
        if header[0] & _HAS_SIZE:
            size, at = _leb128(data, at)
        if at + size > len(data):
            return
        yield bytes([header[0] & ~_HAS_SIZE]) + header[1:] + data[at : at + size]
        at += size


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """Read a length (section 4.10.5 of the AV1 specification); return it and the next position. Damaged ones are too large."""
    value = 0
    for number, octet in enumerate(data[at : at + 8]):
        value |= (octet & 127) << 7 * number
        if not octet & 128:
            return value, at + number + 1
    return len(data) + 1, at


def payloads(obus: Sequence[bytes], key: bool) -> tuple[bytes, ...]:
    """Return the RTP payloads of a temporal unit (section 4 of the payload format). All but the last are full.

    Args:
        obus: The OBUs without size fields.
        key: Whether a new coded video sequence begins.
    """
    found: list[bytes] = []
    payload = bytearray([_NEW_SEQUENCE if key else 0])
    for obu in obus:
        remaining = obu
        while remaining:
            room = MAX_PAYLOAD - 2 - len(payload)
            if room > 0:
                part, remaining = remaining[:room], remaining[room:]
                size = len(part)
                payload += (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])) + part
            if remaining:
                inside = len(remaining) < len(obu)
                payload[0] |= _CONTINUED if inside else 0
                found.append(bytes(payload))
                payload = bytearray([_CONTINUES if inside else 0])
    return (*found, bytes(payload)) if len(payload) > 1 else tuple(found)


def sequence_facts(obu: bytes) -> VideoFacts:
    """Parse a sequence header OBU (section 5.5 of the AV1 specification).

    Raises:
        ValueError: The header is damaged.
    """
    read = Bits(obu[2 if obu[0] & _EXTENSION else 1 : _MAX_HEADER])
    profile = read.bits(3)
    read.bits(1)
    reduced = read.bits(1)
    level, tier = (read.bits(5), 0) if reduced else _operating_point(read)
    across, down = read.bits(4) + 1, read.bits(4) + 1
    size = Size(read.bits(across) + 1, read.bits(down) + 1)
    if not reduced and read.bits(1):
        read.bits(7)
    read.bits(3)
    if not reduced:
        _skip_tools(read)
    read.bits(3)
    bits, chroma = _color(read, profile)
    if profile >= len(_PROFILES):
        raise ValueError("the sequence header has a reserved profile")
    return VideoFacts("av1", _PROFILES[profile], level, bool(tier), bits, chroma, size)


def _operating_point(read: Bits) -> tuple[int, int]:
    """Return the level and tier of the first operating point, which contains all layers (section 5.5.1)."""
    delay_bits = 0
    if read.bits(1):  # timing information
        read.bits(64)
        if read.bits(1):
            read.exp()
        if read.bits(1):  # decoder model
            delay_bits = read.bits(5) + 1
            read.bits(42)
    display_delay = read.bits(1)
    found: list[tuple[int, int]] = []
    for _ in range(read.bits(5) + 1):
        read.bits(12)
        level = read.bits(5)
        found.append((level, read.bits(1) if level > 7 else 0))
        if delay_bits and read.bits(1):
            read.bits(2 * delay_bits + 1)
        if display_delay and read.bits(1):
            read.bits(4)
    return found[0]


def _skip_tools(read: Bits) -> None:
    """Skip the coding tools of a sequence (section 5.5.1)."""
    read.bits(4)
    order_hint = read.bits(1)
    if order_hint:
        read.bits(2)
    screen_content = _SCREEN_CONTENT_BY_FRAME if read.bits(1) else read.bits(1)
    if screen_content and not read.bits(1):
        read.bits(1)
    if order_hint:
        read.bits(3)


def _color(read: Bits, profile: int) -> tuple[int, str]:
    """Return the bit depth and the chroma format (section 5.5.2)."""
    bits = 10 if read.bits(1) else 8
    if profile == 2 and bits == 10 and read.bits(1):
        bits = 12
    monochrome = profile != 1 and read.bits(1)
    description = tuple(read.bits(8) for _ in range(3)) if read.bits(1) else ()
    if monochrome:
        return bits, "4:0:0"
    if description == _SRGB or profile == 1:
        return bits, "4:4:4"
    if profile == 0:
        return bits, "4:2:0"
    read.bits(1)
    if bits < 12:
        return bits, "4:2:2"
    across = read.bits(1)
    return bits, ("4:2:0" if read.bits(1) else "4:2:2") if across else "4:4:4"
