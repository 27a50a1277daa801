"""Reads format and size of a still image from its header, so that an image that is too large is rejected before it is decoded."""

from __future__ import annotations

import os
import struct
from typing import Literal

from vision_infer.core.geometry import Size

ImageKind = Literal["jpeg", "png", "webp", "bmp", "tiff"]
"""A format whose size can be read reliably. No other format is decoded."""

_PNG = b"\x89PNG\r\n\x1a\n"
_SHORT, _LONG = 3, 4
"""The types of a TIFF field that hold a size in 32 bits. BigTIFF and LONG8 are not accepted."""
_TIFF_SIDES = (256, 257, 322, 323)
"""The tags of the width and height of the image and of its tiles."""

_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_ALONE = frozenset(range(0xD0, 0xD9)) | {0x01}
"""Markers without a length field."""


def limit_opencv(max_pixels: int) -> None:
    """Limit the images that OpenCV decodes in this process. OpenCV reads the limit once: call it before cv2 is imported.

    Args:
        max_pixels: The maximum number of pixels. A limit that the environment already sets is kept.
    """
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(max_pixels))


def image_kind(data: bytes | memoryview) -> ImageKind | None:
    """Return the format that the first bytes of an image state; None for an unknown one."""
    if data[:8] == _PNG:
        return "png"
    if data[:2] == b"\xff\xd8":
        return "jpeg"
    if data[:2] == b"BM":
        return "bmp"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:4] in (b"II*\x00", b"MM\x00*"):
        return "tiff"
    return None


def image_size(data: bytes | memoryview) -> Size | None:
    """Return the size that the header of a JPEG, PNG, BMP, WebP or TIFF declares; its beginning is sufficient.

    Returns:
        The size in pixels; None for another format or a damaged header.
    """
    try:
        found = _size(data, image_kind(data))
    except (struct.error, IndexError):
        return None
    return Size(*found) if found is not None and min(found) > 0 else None


def is_whole_png(data: bytes | memoryview) -> bool:
    """Return whether the chunks of a PNG fit in its data. OpenCV 5.0 allocates the length that a chunk declares, up to 4 GiB."""
    at = len(_PNG)
    while at + 12 <= len(data):
        length = int(struct.unpack_from(">I", data, at)[0])
        if data[at + 4 : at + 8] == b"IEND":
            return length == 0
        at += 12 + length
    return False


def _size(data: bytes | memoryview, kind: ImageKind | None) -> tuple[int, int] | None:
    if kind == "png":
        return _two(">II", data, 16) if data[12:16] == b"IHDR" else None
    if kind == "jpeg":
        return _jpeg(data)
    if kind == "bmp":
        if struct.unpack_from("<I", data, 14)[0] == 12:  # OS/2
            return _two("<HH", data, 18)
        width, height = _two("<ii", data, 18)
        return width, abs(height)  # negative: the rows are stored from top to bottom
    if kind == "webp":
        return _webp(data)
    return _tiff(data, "<" if data[:1] == b"I" else ">") if kind == "tiff" else None


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
        if tag in _TIFF_SIDES:
            if kind not in (_SHORT, _LONG) or tag in sides:
                return None
            sides[tag] = int(struct.unpack_from(order + ("H" if kind == _SHORT else "I"), data, at + 8)[0])
    # libtiff decodes whole tiles, which may be larger than the image.
    return (max(sides[256], sides.get(322, 0)), max(sides[257], sides.get(323, 0))) if {256, 257} <= sides.keys() else None
