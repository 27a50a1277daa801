"""Chooses the matrix that converts a frame from YUV to RGB.

A stream should declare it, but many do not. Players then infer it from the size: standard-definition television has always been
BT.601, and high definition BT.709. FFmpeg's scaler assumes BT.601 for all of them, which shifts the colors of unmarked HD video
(https://trac.ffmpeg.org/wiki/colorspace). The scaler takes range (limited or full) and bit depth from the frame.

PQ and HLG (HDR) get the correct matrix but no tone mapping, so their RGB looks flat and dim.
"""

from __future__ import annotations

import av
from av.video.reformatter import ColorPrimaries

BT709 = 1
BT601 = 6
BT2020 = 9
BT2020_CONSTANT_LUMINANCE = 10
_KNOWN = frozenset({1, 4, 5, 6, 7, 9})
"""The matrix coefficients (ISO/IEC 23091-2) that FFmpeg's scaler supports; it rejects frames with others."""
_HD_WIDTH, _HD_HEIGHT = 1280, 576
"""The width from which, and the height above which, an unmarked frame counts as high definition, as in mpv."""


def set_matrix(frame: av.VideoFrame) -> None:
    """Set the matrix of a YUV frame that declares none, or an unsupported one, as players do."""
    colorspace = frame.colorspace
    if colorspace in _KNOWN or frame.format.is_rgb or frame.format.has_palette:
        return
    if colorspace == BT2020_CONSTANT_LUMINANCE or frame.color_primaries == ColorPrimaries.BT2020:
        frame.colorspace = BT2020
    elif frame.width >= _HD_WIDTH or frame.height > _HD_HEIGHT:
        frame.colorspace = BT709
    else:
        frame.colorspace = BT601
