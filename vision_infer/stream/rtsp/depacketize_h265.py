"""The NAL units of H.265 in RTP payloads (RFC 7798, without decoding order numbers)."""

from __future__ import annotations

from vision_infer.stream.rtsp.nal_pieces import (
    DAMAGED_PIECE,
    FIRST,
    HEAD,
    KEY,
    OPAQUE,
    OTHER,
    SLICE,
    FragmentedUnit,
    Piece,
    aggregated,
    started,
    without_start,
)
from vision_infer.stream.rtsp.rtp import RtpPacket

_AGGREGATION, _FRAGMENT = 48, 49
_LAST_SLICE = 31
_FIRST_KEY, _LAST_KEY = 16, 23
_HEADS = frozenset({32, 33, 34, 35})
"""Parameter sets and the delimiter."""
_SEIS = {39: HEAD | OPAQUE, 40: OTHER | OPAQUE}
"""Supplemental information before and after the slices of a picture."""


class H265Depacketizer:
    """Takes the NAL units out of the RTP payloads of one stream.

    It accepts what :class:`~vision_infer.stream.rtsp.depacketize_h264.H264Depacketizer` accepts.
    """

    def __init__(self) -> None:
        self._fragmented = FragmentedUnit(_flags)

    def push(self, packet: RtpPacket, lost: int) -> list[Piece]:
        """Return the pieces of a packet: see :class:`~vision_infer.stream.rtsp.nal_pieces.Depacketizer`."""
        data, begin, end = packet.data, packet.begin, packet.end
        if lost:
            self._fragmented.end()
        if end - begin < 2:
            return [DAMAGED_PIECE] if end > begin else []
        kind = data[begin] >> 1 & 63
        if kind == _FRAGMENT:
            return self._fragment(data, begin, end)
        self._fragmented.end()
        if kind == _AGGREGATION:
            return [
                DAMAGED_PIECE if unit is None else started(_flags, data[unit[0] : unit[0] + 2], data, unit[0] + 2, unit[1])
                for unit in aggregated(data, begin + 2, end)
            ]
        if not data[begin + 1] & 7:  # no unit has the temporal identifier 0: this may be a start code
            begin = without_start(data, begin, end)
        if end - begin < 2 or data[begin] >> 1 & 63 >= _AGGREGATION or not data[begin + 1] & 7:
            return [DAMAGED_PIECE]
        return [started(_flags, data[begin : begin + 2], data, begin + 2, end)]

    def _fragment(self, data: bytes, begin: int, end: int) -> list[Piece]:
        if end - begin < 3:
            return [DAMAGED_PIECE]
        header = data[begin + 2]
        unit = bytes((data[begin] & 0x81 | (header & 63) << 1, data[begin + 1])) if header & 0x80 else b""
        return self._fragmented.push(header, unit, data, begin + 3, end)


def _flags(data: bytes, at: int, end: int) -> int:
    """Return the flags of the unit whose header begins at a position."""
    if at + 2 >= end:
        return OTHER
    kind = data[at] >> 1 & 63
    if kind <= _LAST_SLICE:
        # first_slice_segment_in_pic_flag is the first bit (H.265, 7.3.6.1).
        return SLICE | (FIRST if data[at + 2] & 0x80 else 0) | (KEY if _FIRST_KEY <= kind <= _LAST_KEY else 0)
    return _SEIS.get(kind) or (HEAD if kind in _HEADS else OTHER)
