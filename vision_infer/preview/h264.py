"""The H.264 bitstream: NAL units, parameter sets and RTP payloads (ITU-T H.264; RFC 6184)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aiortc.codecs.h264 import PACKET_MAX, H264Encoder

from vision_infer.core.geometry import Size

SPS, PPS = 7, 8
_FU_A = 28
_ACCESS_UNIT_DELIMITER, _FILLER = 9, 12
_START = re.compile(rb"\x00\x00\x01")
_AVCC_VERSION = 1
_WITH_CHROMA = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
"""The profiles whose SPS contains the chroma format and the bit depth (H.264, 7.3.2.1.1)."""
_NO_UNITS = frozenset({_ACCESS_UNIT_DELIMITER, _FILLER})


@dataclass(frozen=True, slots=True)
class SpsFacts:
    """The contents of a sequence parameter set that the preview needs."""

    profile_level_id: str
    """Profile, constraints and level as in SDP, for example ``42e01f``."""
    size: Size
    """The size after cropping, in pixels."""
    interlaced: bool
    """Whether frames may consist of two fields."""
    eight_bits_420: bool
    """Whether samples have 8 bits and the chroma format is 4:2:0 or monochrome."""


def units(data: bytes, length_size: int = 0) -> Iterator[bytes]:
    """Yield the NAL units of an access unit, without delimiters and filler data.

    Args:
        length_size: The size of the length field before each unit in bytes (avcC); 0 for start codes (Annex B).
    """
    for unit in _lengths(data, length_size) if length_size else _starts(data):
        if unit and unit[0] & 31 not in _NO_UNITS:
            yield unit


def _starts(data: bytes) -> Iterator[bytes]:
    begin: int | None = None
    for match in _START.finditer(data):
        if begin is not None:
            yield data[begin : match.start()].rstrip(b"\0")
        begin = match.end()
    if begin is not None:
        yield data[begin:].rstrip(b"\0")


def _lengths(data: bytes, size: int) -> Iterator[bytes]:
    at = 0
    while at + size < len(data):
        length = int.from_bytes(data[at : at + size], "big")
        yield data[at + size : at + size + length]
        at += size + length


def parameter_sets(extradata: bytes) -> tuple[int, list[bytes]]:
    """Return the size of the length fields in packets (0 for start codes), and the parameter sets of the extradata."""
    if len(extradata) < 7 or extradata[0] != _AVCC_VERSION:
        return 0, list(units(extradata))
    found: list[bytes] = []
    at = 5
    for mask in (31, 255):  # the number of SPS, then the number of PPS
        if at >= len(extradata):
            break
        count = extradata[at] & mask
        at += 1
        for _ in range(count):
            length = int.from_bytes(extradata[at : at + 2], "big")
            found.append(extradata[at + 2 : at + 2 + length])
            at += 2 + length
    return (extradata[4] & 3) + 1, [unit for unit in found if unit]


def payloads(units: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the RTP payloads of an access unit in packetization mode 1.

    All fragments of a large unit except the last are full, so that the packets have one length and can be sent in one call.
    aiortc's fragments differ by one byte, which would need two calls.
    """
    found: list[bytes] = []
    small: list[bytes] = []
    for unit in units:
        if len(unit) <= PACKET_MAX:
            small.append(unit)
            continue
        found += H264Encoder._packetize(iter(small))
        small.clear()
        found += _fragments(unit)
    return (*found, *H264Encoder._packetize(iter(small)))


def _fragments(unit: bytes) -> Iterator[bytes]:
    """Split a unit that is too large for a packet (RFC 6184, 5.8)."""
    indicator, kind, size = unit[0] & 0xE0 | _FU_A, unit[0] & 31, PACKET_MAX - 2
    for at in range(1, len(unit), size):
        first, last = at == 1, at + size >= len(unit)
        yield bytes((indicator, kind | first << 7 | last << 6)) + unit[at : at + size]


class _Bits:
    """Reads the bits of a unit (H.264, 7.2 and 9.1)."""

    def __init__(self, unit: bytes) -> None:
        self._value = int.from_bytes(unit.replace(b"\0\0\3", b"\0\0"), "big")
        self._left = 8 * len(unit.replace(b"\0\0\3", b"\0\0"))

    def bits(self, count: int) -> int:
        """Read a number of ``count`` bits, u(n)."""
        self._left -= count
        if self._left < 0:
            raise ValueError("the parameter set is truncated")
        return self._value >> self._left & ((1 << count) - 1)

    def exp(self) -> int:
        """Read an unsigned Exp-Golomb number, ue(v)."""
        zeros = 0
        while not self.bits(1):
            zeros += 1
            if zeros > 32:
                raise ValueError("the parameter set is damaged")
        return (1 << zeros) - 1 + self.bits(zeros)

    def signed(self) -> int:
        """Read a signed Exp-Golomb number, se(v)."""
        code = self.exp()
        return (code + 1) // 2 if code & 1 else -(code // 2)


def sps_facts(unit: bytes) -> SpsFacts:
    """Parse a sequence parameter set (H.264, 7.3.2.1.1).

    Raises:
        ValueError: The parameter set is damaged.
    """
    if len(unit) < 5 or unit[0] & 31 != SPS:
        raise ValueError("this is not a sequence parameter set")
    profile = unit[1]
    read = _Bits(unit[4:])
    read.exp()
    chroma, eight_bits, separate = 1, True, 0
    if profile in _WITH_CHROMA:
        chroma = read.exp()
        separate = read.bits(1) if chroma == 3 else 0
        luma, other = read.exp(), read.exp()
        eight_bits = luma == other == 0
        read.bits(1)
        if read.bits(1):
            _skip_scaling(read, 12 if chroma == 3 else 8)
    read.exp()
    order = read.exp()
    if order == 0:
        read.exp()
    elif order == 1:
        read.bits(1)
        read.signed()
        read.signed()
        for _ in range(min(read.exp(), 255)):
            read.signed()
    read.exp()
    read.bits(1)
    width, height = 16 * (read.exp() + 1), 16 * (read.exp() + 1)
    frames_only = read.bits(1)
    if not frames_only:
        height *= 2
        read.bits(1)
    read.bits(1)
    if read.bits(1):
        across = 2 if chroma in (1, 2) and not separate else 1
        down = (2 if chroma == 1 and not separate else 1) * (2 - frames_only)
        left, right, top, bottom = (read.exp() for _ in range(4))
        width, height = width - across * (left + right), height - down * (top + bottom)
    if not 0 < width <= 16384 or not 0 < height <= 16384:
        raise ValueError("the parameter set is damaged")
    return SpsFacts(unit[1:4].hex(), Size(width, height), not frames_only, eight_bits and chroma in (0, 1))


def _skip_scaling(read: _Bits, lists: int) -> None:
    for number in range(lists):
        if not read.bits(1):
            continue
        last = following = 8
        for _ in range(16 if number < 6 else 64):
            if following:
                following = (last + read.signed()) % 256
            last = following or last
