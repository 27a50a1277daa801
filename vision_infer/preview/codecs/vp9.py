"""VP9: the header of key frames and RTP payloads (VP9 Bitstream and Decoding Process Specification; RFC 9628)."""

from __future__ import annotations

import struct

from vision_infer.core.geometry import Size
from vision_infer.core.packet import EncodedPacket
from vision_infer.preview.codecs.bits import Bits
from vision_infer.preview.codecs.payloads import chunks
from vision_infer.stream.browser import VideoFacts

_PREDICTED, _BEGIN, _END, _STRUCTURE = 0x40, 0x08, 0x04, 0x02
"""Flags of the payload descriptor (RFC 9628, section 4.2). It has no picture ID, for the reason given for VP8, and no layers."""
_ONE_LAYER = 0x10
"""A scalability structure of one spatial layer with its size and without a description of pictures."""
_SYNC, _RGB = 0x498342, 7


class Vp9Packets:
    """VP9 of one connection."""

    def __init__(self) -> None:
        self.facts: VideoFacts | None = None

    def payloads(self, packet: EncodedPacket) -> tuple[bytes, ...]:
        """Return the RTP payloads of a packet; empty if it contains nothing to send."""
        data = bytes(packet.data)
        if packet.key:
            self.facts = key_facts(data)
        return payloads(data, None if self.facts is None else self.facts.size, packet.key)

    def sprop(self) -> str:
        """Return no parameters: each key frame describes itself."""
        return ""


def payloads(data: bytes, size: Size | None, key: bool) -> tuple[bytes, ...]:
    """Return the RTP payloads of a frame, or of a superframe that shows one frame.

    Args:
        data: The frame.
        size: The size, which is sent with key frames; None if it is unknown.
        key: Whether the frame is a key frame.
    """
    flags = 0 if key else _PREDICTED
    first = bytes([flags | _BEGIN])
    if key and size is not None and max(size.width, size.height) < 1 << 16:  # else it does not fit the field
        first = struct.pack("!BBHH", flags | _BEGIN | _STRUCTURE, _ONE_LAYER, size.width, size.height)
    found = chunks(data, first, bytes([flags]))
    if not found:
        return ()
    last = found[-1]
    return (*found[:-1], bytes([last[0] | _END]) + last[1:])


def key_facts(data: bytes) -> VideoFacts | None:
    """Return the facts of a key frame's uncompressed header (section 6.2 of the VP9 specification); None if it is damaged."""
    read = Bits(data[:32])
    try:
        marker = read.bits(2)
        profile = read.bits(1) | read.bits(1) << 1
        if profile == 3:
            read.bits(1)
        existing, inter = read.bits(1), read.bits(1)
        read.bits(2)
        if marker != 2 or existing or inter or read.bits(24) != _SYNC:
            return None
        bits = (12 if read.bits(1) else 10) if profile > 1 else 8
        chroma = _chroma(read, profile)
        size = Size(read.bits(16) + 1, read.bits(16) + 1)
    except ValueError:
        return None
    return VideoFacts("vp9", f"Profile {profile}", bits=bits, chroma=chroma, size=size)


def _chroma(read: Bits, profile: int) -> str:
    if read.bits(3) == _RGB:
        read.bits(profile & 1)
        return "4:4:4"
    read.bits(1)
    if not profile & 1:
        return "4:2:0"
    across, down = read.bits(1), read.bits(1)
    read.bits(1)
    return {(0, 0): "4:4:4", (1, 0): "4:2:2", (0, 1): "4:4:0"}.get((across, down), "4:2:0")
