"""Pieces of NAL units, taken out of RTP payloads: what the depacketizers of H.264 and H.265 have in common.

The output is a byte stream with start codes (Annex B). A camera that puts such a stream into a payload, against RFC 6184 and RFC
7798, therefore needs no conversion; only the types of the units in it are looked up (https://github.com/scottlamb/retina/issues/68).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from vision_infer.stream.rtsp.rtp import RtpPacket

CONTINUES = 0
"""The piece continues the unit of the previous one."""
SLICE = 1
"""A unit with a part of a picture begins."""
FIRST = 2
"""It is the first slice of a picture."""
KEY = 4
"""A decoder can start with this picture."""
HEAD = 8
"""A unit begins that precedes the slices of a picture: a parameter set, a delimiter, or supplemental information (SEI)."""
OTHER = 16
"""A unit begins that is none of these; it belongs to the present picture."""
DAMAGED = 32
"""A part of the payload could not be used."""
OPAQUE = 64
"""A unit of supplemental information (SEI) begins, in which start codes mean nothing."""

Piece = tuple[int, bytes]
"""What begins with the piece, as flags, and its bytes."""
DAMAGED_PIECE: Piece = DAMAGED, b""
_START = b"\0\0\1"
_LOOK_AT = 512
"""The number of bytes at the beginning of a unit in which further units are looked for; parameter sets are shorter."""


class Depacketizer(Protocol):
    """Takes the NAL units out of the RTP payloads of one stream."""

    def push(self, packet: RtpPacket, lost: int) -> list[Piece]:
        """Return the pieces of a packet.

        Args:
            packet: The next packet in order.
            lost: The number of packets that are missing before it.
        """
        ...


def started(flags: Callable[[bytes, int, int], int], header: bytes, data: bytes, at: int, end: int) -> Piece:
    """Return the piece of a unit that begins.

    Args:
        flags: Returns the flags of the unit whose header begins at a position.
        header: The unit's header.
        data: The packet.
        at: The position after the header.
        end: The end of the payload.
    """
    piece = b"\0\0\0\1" + header + data[at:end]
    found = flags(piece, 4, len(piece))
    if found & OPAQUE:
        return found, piece[:4] + escaped(piece[4:])
    inner = piece.find(_START, 4 + len(header), _LOOK_AT)
    while inner >= 0:
        found |= flags(piece, inner + 3, len(piece))
        inner = piece.find(_START, inner + 3, _LOOK_AT)
    return found, piece


def without_start(data: bytes, begin: int, end: int) -> int:
    """Return the position after a start code at the beginning of a payload; the beginning if there is none."""
    for size in (4, 3):
        if data[begin : min(end, begin + size)] == b"\0\0\0\1"[-size:]:
            return begin + size
    return begin


def aggregated(data: bytes, at: int, end: int) -> Iterator[tuple[int, int] | None]:
    """Yield the beginning and the end of each unit of an aggregation packet; None for a part that is damaged.

    Units without bytes are left out, as in https://github.com/FFmpeg/FFmpeg/blob/master/libavformat/rtpdec_h264.c, and so are
    zeros at the end, which are padding.
    """
    while at + 2 <= end:
        size = data[at] << 8 | data[at + 1]
        at += 2
        if at + size > end:
            yield None
            return
        if size:
            yield at, at + size
        at += size
    if at < end and data[at]:
        yield None


def escaped(data: bytes) -> bytes:
    """Return a part of an SEI unit without start codes in it.

    A signature of the video may contain some (ONVIF Media Signing): https://github.com/bluenviron/gortsplib/issues/1156.
    """
    return data.replace(_START, b"\0\0\3\1")


class FragmentedUnit:
    """The unit whose fragments arrive (FU-A of RFC 6184, section 5.8; FU of RFC 7798, section 4.4.3).

    Args:
        flags: Returns the flags of the unit whose header begins at a position.
    """

    def __init__(self, flags: Callable[[bytes, int, int], int]) -> None:
        self._flags = flags
        self._open = False
        """Whether a unit has begun."""
        self._header = b""
        """The header of a unit whose fragments were empty so far."""
        self._opaque = False
        """Whether it is an SEI unit."""

    def end(self) -> None:
        """Expect no further fragment: a packet is missing, or another unit begins."""
        self._open = False

    def push(self, marks: int, header: bytes, data: bytes, at: int, end: int) -> list[Piece]:
        """Return the pieces of a fragment.

        Args:
            marks: The header of the fragment, of which the bits for start and end are used.
            header: The header of the unit; only used with the start bit.
            data: The packet.
            at: The position after the header of the fragment.
            end: The end of the payload.
        """
        if marks & 0x80:
            self._open, self._header = True, header
        elif not self._open:
            return [DAMAGED_PIECE]
        if marks & 0x40:
            self._open = False
        if at >= end:
            return []
        if self._header:
            unit, self._header = self._header, b""
            flags, piece = started(self._flags, unit, data, at, end)
            self._opaque = bool(flags & OPAQUE)
            return [(flags, piece)]
        return [(CONTINUES, escaped(data[at:end]) if self._opaque else data[at:end])]
