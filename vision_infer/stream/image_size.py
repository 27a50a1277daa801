"""Reads the size of a still image from its header, so that an image that is too large is rejected before it is decoded."""

from __future__ import annotations

import struct

from vision_infer.core.geometry import Size

_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_ALONE = frozenset(range(0xD0, 0xD9)) | {0x01}
"""Markers without a length field."""


def image_size(data: bytes | memoryview) -> Size | None:
    """Return the size that the header of a JPEG, PNG, BMP, WebP or TIFF declares; its beginning is sufficient.

    Returns:
        The size in pixels; None for another format or a damaged header.
    """
    try:
        found = _size(data)
    except (struct.error, IndexError):
        return None
    return Size(*found) if found is not None and min(found) > 0 else None


def _size(data: bytes | memoryview) -> tuple[int, int] | None:
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _two(">II", data, 16)
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    if data[:2] == b"BM":
        if struct.unpack_from("<I", data, 14)[0] == 12:  # OS/2
            return _two("<HH", data, 18)
        width, height = _two("<ii", data, 18)
        return width, abs(height)  # negative: the rows are stored from top to bottom
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:4] in (b"II*\x00", b"MM\x00*"):
        return _tiff(data, "<" if data[:1] == b"I" else ">")
    return None


def _two(layout: str, data: bytes | memoryview, offset: int) -> tuple[int, int]:
    first, second = struct.unpack_from(layout, data, offset)
    return first, second


def _jpeg(data: bytes | memoryview) -> tuple[int, int] | None:
    at = 2
    while at < len(data):
        if data[at] != 0xFF:
            at += 1
            continue
        marker = data[at + 1]
        at += 2
        if marker in _JPEG_FRAMES:
            height, width = _two(">HH", data, at + 3)
            return width, height
        if marker == 0xFF:
            at -= 1
        elif marker != 0 and marker not in _JPEG_ALONE:
            at += int(struct.unpack_from(">H", data, at)[0])
    return None


def _webp(data: bytes | memoryview) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int(struct.unpack_from("<I", data, 21)[0])
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = _two("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _tiff(data: bytes | memoryview, order: str) -> tuple[int, int] | None:
    directory = int(struct.unpack_from(order + "I", data, 4)[0])
    sides: dict[int, int] = {}
    for number in range(int(struct.unpack_from(order + "H", data, directory)[0])):
        at = directory + 2 + 12 * number
        tag, kind = _two(order + "HH", data, at)
        if tag in (256, 257):
            sides[tag] = int(struct.unpack_from(order + ("H" if kind == 3 else "I"), data, at + 8)[0])
    return (sides[256], sides[257]) if len(sides) == 2 else None
