"""The NAL units of H.264 in RTP payloads (RFC 6184, packetization modes 0 and 1)."""

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

_STAP_A, _FU_A = 24, 28
_LAST_SINGLE = 23
_IDR = 5
_SEI = 6
_RECOVERY_POINT = 6
"""The type of the SEI message that marks a key frame without an IDR picture (H.264, annex D.1.8)."""
_LOOK_AT = 512
"""The number of bytes at the beginning of an SEI unit in which messages are looked for."""
_SLICES, _HEADS = frozenset({1, 2, _IDR}), frozenset({7, 8, 9})


class H264Depacketizer:
    """Takes the NAL units out of the RTP payloads of one stream.

    It accepts fragments whose type changes (https://github.com/scottlamb/moonfire-nvr/issues/344), empty fragments
    (https://github.com/scottlamb/retina/issues/115), a unit in a single fragment, and a unit without a last fragment.
    """

    def __init__(self) -> None:
        self._fragmented = FragmentedUnit(_flags)

    def push(self, packet: RtpPacket, lost: int) -> list[Piece]:
        """Return the pieces of a packet: see :class:`~vision_infer.stream.rtsp.nal_pieces.Depacketizer`."""
        data, begin, end = packet.data, packet.begin, packet.end
        if lost:
            self._fragmented.end()
        if begin >= end:
            return []
        kind = data[begin] & 31
        if kind == _FU_A:
            return self._fragment(data, begin, end)
        self._fragmented.end()
        if kind == _STAP_A:
            return [
                DAMAGED_PIECE if unit is None else started(_flags, data[unit[0] : unit[0] + 1], data, unit[0] + 1, unit[1])
                for unit in aggregated(data, begin + 1, end)
            ]
        if not kind:
            begin = without_start(data, begin, end)
            kind = data[begin] & 31 if begin < end else 0
        if not 0 < kind <= _LAST_SINGLE:
            return [DAMAGED_PIECE]
        return [started(_flags, data[begin : begin + 1], data, begin + 1, end)]

    def _fragment(self, data: bytes, begin: int, end: int) -> list[Piece]:
        if end - begin < 2:
            return [DAMAGED_PIECE]
        header = data[begin + 1]
        unit = bytes((data[begin] & 0xE0 | header & 31,)) if header & 0x80 else b""
        return self._fragmented.push(header, unit, data, begin + 2, end)


def _flags(data: bytes, at: int, end: int) -> int:
    """Return the flags of the unit whose header is at a position."""
    if at + 1 >= end:
        return OTHER
    kind, after = data[at] & 31, data[at + 1]
    if kind in _SLICES:
        # first_mb_in_slice is 0 if its first bit is 1 (H.264, 7.3.3).
        return SLICE | (FIRST if after & 0x80 else 0) | (KEY if kind == _IDR else 0)
    if kind == _SEI:
        return HEAD | OPAQUE | (0 if recovery_frames(data, at + 1, min(end, at + _LOOK_AT)) is None else KEY)
    return HEAD if kind in _HEADS else OTHER


def recovery_frames(data: bytes, at: int, end: int) -> int | None:
    """Return after how many frames all are exact if decoding begins here (recovery_frame_cnt of H.264, D.1.8).

    Args:
        data: Bytes that contain SEI messages (H.264, 7.3.2.3); encoders write others before a recovery point.
        at: The position of the first message.
        end: The end of the messages.

    Returns:
        The number of frames; None if there is no recovery point.
    """
    while at + 1 < end:
        kind, at = _number(data, at, end)
        size, at = _number(data, at, end)
        if kind == _RECOVERY_POINT:
            bits = int.from_bytes(data[at : min(end, at + 8)].ljust(8, b"\0"), "big")
            zeros = 64 - bits.bit_length()  # ue(v): zeros, a one, and as many further bits
            return (bits >> 63 - 2 * zeros) - 1 if zeros < 32 else 0
        at += size
    return None


def _number(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the type or the size of an SEI message, and the position after it."""
    value = 0
    while at < end and data[at] == 0xFF:
        value, at = value + 0xFF, at + 1
    return (value + data[at] if at < end else value), at + 1
