"""Small images that need gigabytes when OpenCV decodes them, or that it would decode although their size is unknown."""

from __future__ import annotations

import struct
from functools import cache

import cv2
import numpy as np


@cache
def _encoded(suffix: str, side: int) -> bytes:
    done, data = cv2.imencode(suffix, np.zeros((side, side, 3), np.uint8))
    assert done
    return data.tobytes()


def _chunk(name: bytes, data: bytes, length: int | None = None) -> bytes:
    return struct.pack(">I", len(data) if length is None else length) + name + data


_PNG = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 10, 10, 8, 2, 0, 0, 0)) + b"\x02PX\xea"


def _tiff(*fields: tuple[int, int, int], big: bool = False) -> bytes:
    """Return a gray TIFF of one strip with the fields (tag, type, value) added or replaced; 4 is LONG, 16 is LONG8."""
    strip = 262_144
    known = {256: (4, 512), 257: (4, 512), 258: (3, 8), 259: (3, 1), 262: (3, 1), 273: (4, 8), 278: (4, 512), 279: (4, strip)}
    known |= {tag: (kind, value) for tag, kind, value in fields}
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(known.items()))
    directory = struct.pack("<H", len(known)) + entries + bytes(4)
    if big:
        return b"II+\x00" + struct.pack("<HHQ", 8, 0, 16) + directory
    # LONG8 values are at an offset: behind the directory.
    return b"II*\x00" + struct.pack("<I", 8 + strip) + bytes(strip) + directory + struct.pack("<QQ", 20_000, 15_000)


NAMES = (
    "chunk.png",
    "late_chunk.png",
    "frame.gif",
    "long8.tif",
    "bigtiff.tif",
    "tiles.tif",
    "radiance.hdr",
    "pnm.ppm",
    "still.avif",
    "still.jp2",
    "renamed.png",
    "huge.png",
)


def make_bombs() -> dict[str, bytes]:
    """Return the images of :data:`NAMES` by file name. To encode the large ones takes two seconds."""
    return {
        "chunk.png": _PNG + _chunk(b"IDAT", b"x" * 8, length=0xFFFFFFF0),
        "late_chunk.png": _encoded(".png", 16)[:-12] + _chunk(b"tEXt", b"x" * 8, length=0x7FFFFFFF),
        "frame.gif": b"GIF89a"
        + struct.pack("<HHBBB", 30_000, 30_000, 0x80, 0, 0)
        + bytes(6)
        + b",\0\0\0\0\x0a\0\x0a\0\0\x02\x02D\x01\0;",
        "long8.tif": _tiff((256, 16, 8 + 262_144 + 102), (257, 16, 8 + 262_144 + 110)),
        "bigtiff.tif": _tiff(big=True),
        "tiles.tif": _tiff((322, 4, 30_000), (323, 4, 30_000)),
        "radiance.hdr": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 20000 +X 20000\n" + b"\x02\x02\x4e\x20" * 1000,
        "pnm.ppm": b"P6 30000 30000 255\n" + bytes(1000),
        "still.avif": _encoded(".avif", 4000),
        "still.jp2": _encoded(".jp2", 4000),
        "renamed.png": _encoded(".jp2", 4000),
        "huge.png": b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
        + _encoded(".png", 16)[29:],
    }
