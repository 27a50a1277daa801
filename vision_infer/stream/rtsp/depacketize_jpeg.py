"""JPEG images in RTP payloads (RFC 2435).

A payload has no JPEG headers: the receiver writes them. The image has one of two kinds of chroma subsampling, the Huffman tables
of the JPEG standard, and quantization tables that follow from a quality or are sent with the image.
"""

from __future__ import annotations

from vision_infer.stream.rtsp.nal_pieces import CONTINUES, DAMAGED_PIECE, FIRST, KEY, SLICE, Piece
from vision_infer.stream.rtsp.rtp import RtpPacket

_HEADER, _RESTART_HEADER, _TABLES_HEADER = 8, 4, 4
_TABLE = 64
_RESTARTS = 64
"""The bit of the type that announces a restart header."""
_SENT_TABLES, _NEVER_KEPT = 128, 255
"""The first value of Q with which tables are sent, and the one whose tables may change with each image."""
_SAMPLING = {0: 0x21, 1: 0x22}
"""The sampling factors of luminance by the type: 4:2:2 and 4:2:0."""
_START, _END = b"\xff\xd8", b"\xff\xd9"
_SCAN = bytes.fromhex("ffda000c03010002110311003f00")
# The tables of the JPEG standard, annex K, in zigzag order.
_LUMINANCE = bytes.fromhex(
    "100b0c0e0c0a100e0d0e1211101318281a181616183123251d283a333d3c3933"
    "383740485c4e404457453738506d51575f626768673e4d71797064785c656763"
)
_CHROMINANCE = bytes.fromhex("1112121815182f1a1a2f6342384263").ljust(64, b"\x63")
_HUFFMAN = b"\xff\xc4\x01\xa2" + bytes.fromhex(
    "0000010501010101010100000000000000000102030405060708090a0b100002010303020403050504040000017d01020300041105122131"
    "410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a434445464748494a53"
    "5455565758595a636465666768696a737475767778797a838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8"
    "b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa01000301010101010101010100000000"
    "00000102030405060708090a0b1100020102040403040705040400010277000102031104052131061241510761711322328108144291a1b1"
    "c109233352f0156272d10a162434e125f11718191a262728292a35363738393a434445464748494a535455565758595a636465666768696a"
    "737475767778797a82838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4"
    "d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa"
)


class JpegDepacketizer:
    """Writes the images of one stream. An image of which a fragment is missing ends there."""

    def __init__(self) -> None:
        self._tables: dict[int, bytes] = {}
        """The tables that were sent, by the value of Q."""
        self._next = 0
        """The offset of the next fragment."""

    def push(self, packet: RtpPacket, lost: int) -> list[Piece]:
        """Return the pieces of a packet: see :class:`~vision_infer.stream.rtsp.nal_pieces.Depacketizer`."""
        data, at, end = packet.data, packet.begin, packet.end
        if lost:
            self._next = -1
        if at >= end:
            return []
        offset = int.from_bytes(data[at + 1 : at + 4], "big")
        out = self._fragment(data, at, end, offset) if end - at > _HEADER and (not offset or offset == self._next) else []
        if not out:
            self._next = -1
            return [DAMAGED_PIECE]
        if packet.marker and data[end - 2 : end] != _END:
            out.append((CONTINUES, _END))
        return out

    def _fragment(self, data: bytes, at: int, end: int, offset: int) -> list[Piece]:
        """Return the pieces of a fragment; none if it is damaged or not supported."""
        kind, quality, width, height = data[at + 4 : at + 8]
        at += _HEADER
        restart = b""
        if kind & _RESTARTS:
            restart = b"\xff\xdd\0\4" + data[at : at + 2]
            at += _RESTART_HEADER
        head = b""
        if not offset:
            tables, at = self._quantization(data, at, end, quality)
            sampling = _SAMPLING.get(kind & ~_RESTARTS)
            if not tables or sampling is None or not width or not height:  # 2,048 pixels and more do not fit into a byte
                return []
            head = _head(width * 8, height * 8, sampling, restart, tables)
        if at >= end:
            return []
        self._next = offset + end - at
        return [(CONTINUES if offset else SLICE | FIRST | KEY, head + data[at:end])]

    def _quantization(self, data: bytes, at: int, end: int, quality: int) -> tuple[bytes, int]:
        """Return the tables of an image, empty if they are damaged, and the position after them."""
        if quality < _SENT_TABLES:
            return _scaled(quality), at
        size = data[at + 2] << 8 | data[at + 3] if at + _TABLES_HEADER <= end else 0
        precision = data[at + 1] if size else 0
        at += _TABLES_HEADER
        if size:
            tables = data[at : at + size]
            # One table serves both. Tables with 16 bits belong to images with 12 bits.
            self._tables[quality] = (
                tables * (2 if size == _TABLE else 1) if size in (_TABLE, 2 * _TABLE) and not precision else b""
            )
        found = self._tables.get(quality, b"")
        if quality == _NEVER_KEPT:
            self._tables.pop(quality, None)
        return (found if at + size <= end else b""), at + size


def _scaled(quality: int) -> bytes:
    """Return the tables that follow from a quality, 1–99; empty if it is reserved."""
    if not 0 < quality < 100:
        return b""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return bytes(min(255, max(1, (value * scale + 50) // 100)) for value in _LUMINANCE + _CHROMINANCE)


def _head(width: int, height: int, sampling: int, restart: bytes, tables: bytes) -> bytes:
    quantization = b"\xff\xdb\0\x84\0" + tables[:_TABLE] + b"\1" + tables[_TABLE:]
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    frame = b"\xff\xc0\0\x11\x08" + size + b"\3\1" + bytes((sampling,)) + b"\0\2\x11\1\3\x11\1"
    return _START + quantization + restart + frame + _HUFFMAN + _SCAN
