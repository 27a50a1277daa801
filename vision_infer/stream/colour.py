"""Which matrix turns a frame's YUV into RGB.

A stream should say it, and many do not; then players go by the size, since standard television has always been BT.601 and high
definition BT.709. FFmpeg's scaler takes BT.601 for all of them, which shifts the colours of every unmarked HD video. Range
(limited or full) and bit depth are left to the scaler, which goes by the frame.

PQ and HLG (HDR) get the right matrix, and no tone mapping: their RGB is what the transfer curve of the stream makes of it, and
looks flat and dim.
"""

from __future__ import annotations

import av
from av.video.reformatter import ColorPrimaries

BT709 = 1
BT601 = 6
BT2020 = 9
BT2020_CONSTANT_LUMINANCE = 10
_KNOWN = frozenset({1, 4, 5, 6, 7, 9})
"""the numbers of ISO/IEC 23001-8 that FFmpeg's scaler has a matrix for; it refuses a frame with another"""
_HD_WIDTH, _HD_HEIGHT = 1280, 576
"""from this width on, or above this height, a picture without a mark is high definition (as mpv has it)"""


def set_matrix(frame: av.VideoFrame) -> None:
    """Mark a YUV frame that says nothing, or nothing that can be, with the matrix that players take for it."""
    colorspace = frame.colorspace
    if colorspace in _KNOWN or frame.format.is_rgb or frame.format.has_palette:
        return
    if colorspace == BT2020_CONSTANT_LUMINANCE or frame.color_primaries == ColorPrimaries.BT2020:
        frame.colorspace = BT2020
    elif frame.width >= _HD_WIDTH or frame.height > _HD_HEIGHT:
        frame.colorspace = BT709
    else:
        frame.colorspace = BT601
