"""H.264 as it is coded: NAL units, what its parameter sets tell, and its RTP payloads (ITU-T H.264; RFC 6184)."""

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
"""profiles whose SPS tells the chroma format and the bit depth"""
_NO_UNITS = frozenset({_ACCESS_UNIT_DELIMITER, _FILLER})


@dataclass(frozen=True, slots=True)
class SpsFacts:
    """What a sequence parameter set tells of the pictures that follow it."""

    profile_level_id: str
    """as SDP writes it: ``42e01f``"""
    size: Size
    """shown pixels"""
    interlaced: bool
    """its pictures may be fields"""
    eight_bits_420: bool
    in_order: bool
    """pictures are surely shown in the order in which they come"""


def units(data: bytes, length_size: int = 0) -> Iterator[bytes]:
    """The NAL units of a picture, without what divides them, and without fillers.

    Args:
        data: one coded picture.
        length_size: bytes of the length before each unit, as avcC tells; 0: Annex B, start codes.
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
    """The parameter sets that stand outside the packets.

    Returns:
        Bytes of the lengths in the packets, 0 where they have start codes; and the units.
    """
    if len(extradata) < 7 or extradata[0] != _AVCC_VERSION:
        return 0, list(units(extradata))
    found: list[bytes] = []
    at = 5
    for mask in (31, 255):  # how many SPS, then how many PPS
        if at >= len(extradata):
            break
        count = extradata[at] & mask
        at += 1
        for _ in range(count):
            length = int.from_bytes(extradata[at : at + 2], "big")
            found.append(extradata[at + 2 : at + 2 + length])
            at += 2 + length
    return (extradata[4] & 3) + 1, [unit for unit in found if unit]


def payloads(image: Sequence[bytes]) -> tuple[bytes, ...]:
    """The RTP payloads of a picture, in packetization mode 1.

    The parts of a large unit are full but for the last: packets of one length can be sent together. Those of aiortc differ by a
    byte, which makes two bursts.

    Args:
        picture: its NAL units.
    """
    found: list[bytes] = []
    small: list[bytes] = []
    for unit in image:
        if len(unit) <= PACKET_MAX:
            small.append(unit)
            continue
        found += H264Encoder._packetize(iter(small))
        small.clear()
        found += _fragments(unit)
    return (*found, *H264Encoder._packetize(iter(small)))


def _fragments(unit: bytes) -> Iterator[bytes]:
    """A unit that is too large for a packet (RFC 6184, 5.8)."""
    indicator, kind, room = unit[0] & 0xE0 | _FU_A, unit[0] & 31, PACKET_MAX - 2
    for at in range(1, len(unit), room):
        first, last = at == 1, at + room >= len(unit)
        yield bytes((indicator, kind | first << 7 | last << 6)) + unit[at : at + room]


class _Bits:
    """Reads the bits of a unit (H.264, 7.2 and 9.1)."""

    def __init__(self, unit: bytes) -> None:
        self._value = int.from_bytes(unit.replace(b"\0\0\3", b"\0\0"), "big")
        self._left = 8 * len(unit.replace(b"\0\0\3", b"\0\0"))

    def bits(self, count: int) -> int:
        """So many bits as a number."""
        self._left -= count
        if self._left < 0:
            raise ValueError("the parameter set is cut off")
        return self._value >> self._left & ((1 << count) - 1)

    def exp(self) -> int:
        """An Exp-Golomb number, ue(v)."""
        zeros = 0
        while not self.bits(1):
            zeros += 1
            if zeros > 32:
                raise ValueError("the parameter set is damaged")
        return (1 << zeros) - 1 + self.bits(zeros)

    def signed(self) -> int:
        """se(v)."""
        code = self.exp()
        return (code + 1) // 2 if code & 1 else -(code // 2)


def sps_facts(unit: bytes) -> SpsFacts:
    """What a sequence parameter set says (H.264, 7.3.2.1.1).

    Raises:
        ValueError: it is damaged.
    """
    if len(unit) < 5 or unit[0] & 31 != SPS:
        raise ValueError("this is no sequence parameter set")
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
    return SpsFacts(unit[1:4].hex(), Size(width, height), not frames_only, eight_bits and chroma in (0, 1), order == 2)


def _skip_scaling(read: _Bits, lists: int) -> None:
    for number in range(lists):
        if not read.bits(1):
            continue
        last = following = 8
        for _ in range(16 if number < 6 else 64):
            if following:
                following = (last + read.signed()) % 256
            last = following or last
