"""H.265: parameter sets and RTP payloads (ITU-T H.265; RFC 7798)."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence

from vision_infer.core.geometry import Size
from vision_infer.preview.codecs.bits import Bits, without_emulation
from vision_infer.preview.codecs.h264 import CHROMA, MAX_SIDE
from vision_infer.preview.codecs.nal_units import NalPackets, listed_sets, units
from vision_infer.preview.codecs.payloads import MAX_PAYLOAD, aggregated
from vision_infer.stream.browser import VideoFacts

VPS, SPS, PPS = 32, 33, 34
_AGGREGATION, _FRAGMENTATION = 48, 49
_ACCESS_UNIT_DELIMITER, _FILLER = 35, 38
_HVCC_VERSION, _HVCC_HEADER = 1, 23
_PROFILES = {1: "Main", 2: "Main 10", 3: "Main Still Picture", 4: "Rext"}


def kind(unit: bytes) -> int:
    """Return the type of a unit."""
    return unit[0] >> 1 & 63


def parameter_sets(extradata: bytes) -> tuple[int, list[bytes]]:
    """Return the size of the length fields in packets (0 for start codes), and the parameter sets of the extradata."""
    if len(extradata) < _HVCC_HEADER or extradata[0] != _HVCC_VERSION:
        return 0, list(units(extradata))
    found: list[bytes] = []
    at = _HVCC_HEADER
    for _ in range(extradata[22]):
        if at + 3 > len(extradata):
            break
        listed, at = listed_sets(extradata, at + 3, int.from_bytes(extradata[at + 1 : at + 3], "big"))
        found += listed
    return (extradata[21] & 3) + 1, found


def payloads(units: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the RTP payloads of an access unit (RFC 7798, section 4.4). Units without a whole header are skipped."""
    return aggregated((unit for unit in units if len(unit) > 1), _aggregation, _fragments, 2)


def _aggregation(units: Sequence[bytes]) -> bytes:
    """Return the header of several units in one payload: the lowest layer and temporal layer (RFC 7798, section 4.4.2)."""
    forbidden = max(unit[0] & 0x80 for unit in units)
    layer = min((unit[0] & 1) << 5 | unit[1] >> 3 for unit in units)
    return bytes([forbidden | _AGGREGATION << 1 | layer >> 5, (layer & 31) << 3 | min(unit[1] & 7 for unit in units)])


def _fragments(unit: bytes) -> Iterator[bytes]:
    """Split a unit that is too large for a payload (RFC 7798, section 4.4.3)."""
    header, size = bytes([unit[0] & 0x81 | _FRAGMENTATION << 1, unit[1]]), MAX_PAYLOAD - 3
    for at in range(2, len(unit), size):
        first, last = at == 2, at + size >= len(unit)
        yield header + bytes([first << 7 | last << 6 | kind(unit)]) + unit[at : at + size]


def sps_facts(unit: bytes) -> VideoFacts:
    """Parse a sequence parameter set (H.265, 7.3.2.2 and 7.3.3).

    Raises:
        ValueError: The parameter set is damaged.
    """
    if len(unit) < 4 or kind(unit) != SPS:
        raise ValueError("this is not a sequence parameter set")
    read = Bits(without_emulation(unit[2:]))
    read.bits(4)
    sub_layers = read.bits(3)
    read.bits(1)
    read.bits(2)
    high_tier, profile, compatible = read.bits(1), read.bits(5), read.bits(32)
    progressive, interlaced = read.bits(1), read.bits(1)
    read.bits(46)
    level = read.bits(8)
    if sub_layers:
        present = [(read.bits(1), read.bits(1)) for _ in range(sub_layers)]
        read.bits(2 * (8 - sub_layers))
        for has_profile, has_level in present:
            read.bits(88 * has_profile + 8 * has_level)
    read.exp()
    chroma = read.exp()
    separate = read.bits(1) if chroma == 3 else 0
    width, height = read.exp(), read.exp()
    if read.bits(1):
        across = 2 if chroma in (1, 2) and not separate else 1
        down = 2 if chroma == 1 and not separate else 1
        left, right, top, bottom = (read.exp() for _ in range(4))
        width, height = width - across * (left + right), height - down * (top + bottom)
    bits = 8 + max(read.exp(), read.exp())
    if not 0 < width <= MAX_SIDE or not 0 < height <= MAX_SIDE or chroma > 3 or bits > 16:
        raise ValueError("the parameter set is damaged")
    if profile == 0:  # it then conforms to the lowest profile whose flag is set
        profile = next((number for number in _PROFILES if compatible >> 31 - number & 1), 0)
    shown = _PROFILES.get(profile, f"profile {profile}")
    fields = bool(interlaced and not progressive)
    return VideoFacts("hevc", shown, level, bool(high_tier), bits, CHROMA[chroma], Size(width, height), fields)


class H265Packets(NalPackets):
    """H.265 of one connection."""

    sets = (VPS, SPS, PPS)
    dropped = frozenset({_ACCESS_UNIT_DELIMITER, _FILLER})
    single = range(_AGGREGATION)
    joined, fragmented, header_size = _AGGREGATION, _FRAGMENTATION, 2
    kind = staticmethod(kind)
    parameter_sets = staticmethod(parameter_sets)
    sps_facts = staticmethod(sps_facts)
    packed = staticmethod(payloads)

    def sprop(self) -> str:
        """Return the parameter sets as SDP parameters (RFC 7798, section 7.1)."""
        named = zip(("vps", "sps", "pps"), self.sets, strict=True)
        values = ((name, b",".join(map(base64.b64encode, self._sets.get(kind, ())))) for name, kind in named)
        return ";".join(f"sprop-{name}={value.decode()}" for name, value in values if value)
