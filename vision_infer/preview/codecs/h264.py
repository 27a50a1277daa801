"""H.264: parameter sets and RTP payloads in packetization mode 1 (ITU-T H.264; RFC 6184)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vision_infer.core.geometry import Size
from vision_infer.preview.codecs.bits import Bits, without_emulation
from vision_infer.preview.codecs.nal_units import NalPackets, listed_sets, units
from vision_infer.preview.codecs.payloads import MAX_PAYLOAD, aggregated
from vision_infer.stream.browser import VideoFacts

SPS, PPS = 7, 8
_STAP_A, _FU_A = 24, 28
_ACCESS_UNIT_DELIMITER, _FILLER = 9, 12
_AVCC_VERSION = 1
_WITH_CHROMA = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
"""The profiles whose SPS contains the chroma format and the bit depth (H.264, 7.3.2.1.1)."""
_PROFILES = {66: "Baseline", 77: "Main", 88: "Extended", 100: "High", 110: "High 10", 122: "High 4:2:2", 244: "High 4:4:4"}
CHROMA = ("4:0:0", "4:2:0", "4:2:2", "4:4:4")
"""The chroma formats by ``chroma_format_idc``, also of H.265."""
MAX_SIDE = 16384
"""The maximum width and height that are considered undamaged, in pixels."""


def kind(unit: bytes) -> int:
    """Return the type of a unit."""
    return unit[0] & 31


def parameter_sets(extradata: bytes) -> tuple[int, list[bytes]]:
    """Return the size of the length fields in packets (0 for start codes), and the parameter sets of the extradata."""
    if len(extradata) < 7 or extradata[0] != _AVCC_VERSION:
        return 0, list(units(extradata))
    found, at = listed_sets(extradata, 6, extradata[5] & 31)
    if at < len(extradata):
        found += listed_sets(extradata, at + 1, extradata[at])[0]
    return (extradata[4] & 3) + 1, found


def payloads(units: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the RTP payloads of an access unit in packetization mode 1."""
    return aggregated(units, _stap_a, _fragments, 1)


def _stap_a(units: Sequence[bytes]) -> bytes:
    """Return the header of several units in one payload (RFC 6184, 5.7.1)."""
    forbidden = max(unit[0] & 0x80 for unit in units)
    return bytes([forbidden | max(unit[0] & 0x60 for unit in units) | _STAP_A])


def _fragments(unit: bytes) -> Iterator[bytes]:
    """Split a unit that is too large for a payload (RFC 6184, 5.8)."""
    indicator, size = unit[0] & 0xE0 | _FU_A, MAX_PAYLOAD - 2
    for at in range(1, len(unit), size):
        first, last = at == 1, at + size >= len(unit)
        yield bytes((indicator, kind(unit) | first << 7 | last << 6)) + unit[at : at + size]


def sps_facts(unit: bytes) -> VideoFacts:
    """Parse a sequence parameter set (H.264, 7.3.2.1.1).

    Raises:
        ValueError: The parameter set is damaged.
    """
    if len(unit) < 5 or kind(unit) != SPS:
        raise ValueError("this is not a sequence parameter set")
    profile = unit[1]
    read = Bits(without_emulation(unit[4:]))
    read.exp()
    chroma, bits, separate = 1, 8, 0
    if profile in _WITH_CHROMA:
        chroma = read.exp()
        separate = read.bits(1) if chroma == 3 else 0
        bits = 8 + max(read.exp(), read.exp())
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
    if not 0 < width <= MAX_SIDE or not 0 < height <= MAX_SIDE or chroma > 3:
        raise ValueError("the parameter set is damaged")
    shown = profile_name(profile, unit[2])
    return VideoFacts("h264", shown, unit[3], False, bits, CHROMA[chroma], Size(width, height), not frames_only)


def profile_name(number: int, flags: int) -> str:
    """Return the name of a profile, without flags that cameras set additionally (RFC 6184, table 5)."""
    if (number == 66 and flags & 0x40) or (number == 77 and flags & 0x80):
        return "Constrained Baseline"
    if number == 100 and flags & 0x0C == 0x0C:
        return "Constrained High"
    return _PROFILES.get(number, f"profile {number}")


def _skip_scaling(read: Bits, lists: int) -> None:
    for number in range(lists):
        if not read.bits(1):
            continue
        last = following = 8
        for _ in range(16 if number < 6 else 64):
            if following:
                following = (last + read.signed()) % 256
            last = following or last


class H264Packets(NalPackets):
    """H.264 of one connection."""

    sets = (SPS, PPS)
    dropped = frozenset({_ACCESS_UNIT_DELIMITER, _FILLER})
    single = range(1, _STAP_A)
    joined, fragmented, header_size = _STAP_A, _FU_A, 1
    kind = staticmethod(kind)
    parameter_sets = staticmethod(parameter_sets)
    sps_facts = staticmethod(sps_facts)
    packed = staticmethod(payloads)
