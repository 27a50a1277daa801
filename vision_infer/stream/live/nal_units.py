"""Finds key frames, and frames that no other frame references, where only the coded bytes of a network stream show them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from vision_infer.stream.rtsp.depacketize_h264 import recovery_frames

_LOOK_AT = 4096
"""The number of bytes that are searched; whatever precedes the first slice is shorter."""
_START = re.compile(rb"\x00\x00\x01")
_INTRA = frozenset({"mjpeg", "mjpegb", "jpeg2000", "ffv1", "dvvideo", "prores", "rawvideo", "png", "huffyuv", "ffvhuff"})
_H264_SLICES = (1, 2, 5)
_H264_IDR = 5
_H264_SEI = 6
_HEVC_LAST_SLICE = 31
_HEVC_LAST_UNREFERENCED = 14


def is_intra_only(codec: str) -> bool:
    """Return whether no frame of this codec references another."""
    return codec in _INTRA


def is_disposable(codec: str, data: bytes | memoryview) -> bool:
    """Return whether no other frame references this one; False if the bytes do not show it.

    H.264: nal_ref_idc is 0 (ITU-T H.264, 7.4.1). H.265: a sub-layer non-reference picture (ITU-T H.265, table 7-1).

    Args:
        codec: FFmpeg's name of the codec.
        data: A packet with start codes or with four-byte lengths.
    """
    if is_intra_only(codec):
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


def is_idr(data: bytes | memoryview) -> bool:
    """Return whether a packet of H.264 has an IDR picture: no later one refers to anything before it (H.264, 7.4.1.2.4).

    Args:
        data: A packet with start codes or with four-byte lengths.
    """
    return next((unit & 31 for unit in _headers(data) if unit & 31 in _H264_SLICES), 0) == _H264_IDR


def frames_to_recovery(data: bytes | memoryview) -> int:
    """Return after how many frames all are exact if decoding begins with a key frame of H.264; 0 for an IDR picture.

    With intra refresh there are recovery points in place of IDR pictures (recovery_frame_cnt, ITU-T H.264, D.2.8).

    Args:
        data: A packet with start codes.
    """
    head, frames = bytes(data[:_LOOK_AT]), 0
    units = [(match.start(), match.end()) for match in _START.finditer(head)]
    for (_, at), (end, _) in pairwise([*units, (len(head), 0)]):
        kind = head[at] & 31 if at < end else 0
        if kind == _H264_IDR:
            return 0
        if kind == _H264_SEI:
            frames = recovery_frames(head, at + 1, end) or frames
    return frames


def is_vp9_key(data: bytes | memoryview) -> bool:
    """Return whether a VP9 frame is a key frame (section 6.2 of the VP9 specification: uncompressed_header)."""
    first = data[0] if len(data) else 0
    begin = 1 if first >> 4 == 0b1011 else 2  # profile 3 has a reserved bit before the two fields
    shows_existing_or_inter = first >> begin & 3
    return first >> 6 == 2 and not shows_existing_or_inter


def _headers(data: bytes | memoryview) -> Iterator[int]:
    """Yield the first byte of each NAL unit."""
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
