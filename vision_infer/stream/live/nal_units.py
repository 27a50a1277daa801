"""Which pictures no other picture needs, told from the coded bytes: network streams do not say it anywhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator

_LOOK_AT = 4096
"""bytes; what stands before the first slice is shorter"""
_START = re.compile(rb"\x00\x00\x01")
_INTRA = frozenset({"mjpeg", "mjpegb", "jpeg2000", "ffv1", "dvvideo", "prores", "rawvideo", "png", "huffyuv", "ffvhuff"})
_H264_SLICES = (1, 2, 5)
_HEVC_LAST_SLICE = 31
_HEVC_LAST_UNREFERENCED = 14


def every_image_alone(codec: str) -> bool:
    """Whether no picture of this codec needs another."""
    return codec in _INTRA


def not_needed(codec: str, data: bytes | memoryview) -> bool:
    """Whether no other picture needs this one; False where the bytes do not tell.

    Args:
        codec: FFmpeg's name.
        data: a packet, with start codes or with lengths of four bytes.
    """
    if every_image_alone(codec):
        return True
    if codec == "h264":
        for unit in _headers(data):
            if unit & 31 in _H264_SLICES:
                return unit >> 5 & 3 == 0
    elif codec == "hevc":
        for unit in _headers(data):
            kind = unit >> 1 & 63
            if kind <= _HEVC_LAST_SLICE:
                return kind <= _HEVC_LAST_UNREFERENCED and not kind & 1
    return False


def _headers(data: bytes | memoryview) -> Iterator[int]:
    """The first byte of each unit."""
    head = bytes(data[:_LOOK_AT])
    if head[:3] == b"\0\0\1" or head[:4] == b"\0\0\0\1":
        for match in _START.finditer(head):
            if match.end() < len(head):
                yield head[match.end()]
        return
    at = 0
    while at + 4 < len(head):
        yield head[at + 4]
        at += 4 + int.from_bytes(head[at : at + 4], "big")
