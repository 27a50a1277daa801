"""VP8: the header of key frames and RTP payloads (RFC 6386; RFC 7741)."""

from __future__ import annotations

from vision_infer.core.geometry import Size
from vision_infer.core.packet import EncodedPacket
from vision_infer.preview.codecs.payloads import chunks
from vision_infer.stream.browser import VideoFacts

_FIRST, _FURTHER = b"\x10", b"\0"
"""The payload descriptors of the first and of all other payloads of a frame. Without a picture ID, players follow the sequence
numbers, which stay continuous for each viewer when frames are skipped or a group is sent again."""
_START_CODE = b"\x9d\x01\x2a"


class Vp8Packets:
    """VP8 of one connection."""

    def __init__(self) -> None:
        self.facts: VideoFacts | None = None

    def payloads(self, packet: EncodedPacket) -> tuple[bytes, ...]:
        """Return the RTP payloads of a packet; empty if it contains nothing to send."""
        data = bytes(packet.data)
        if packet.key:
            self.facts = key_facts(data)
        return payloads(data)

    def sprop(self) -> str:
        """Return no parameters: each key frame describes itself."""
        return ""


def payloads(data: bytes) -> tuple[bytes, ...]:
    """Return the RTP payloads of a frame."""
    return chunks(data, _FIRST, _FURTHER)


def key_facts(data: bytes) -> VideoFacts | None:
    """Return the facts of a key frame (RFC 6386, section 9.1); None if it is damaged."""
    if len(data) < 10 or data[0] & 1 or data[3:6] != _START_CODE:
        return None
    width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    return VideoFacts("vp8", size=Size(width, height)) if width and height else None
