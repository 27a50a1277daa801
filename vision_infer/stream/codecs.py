"""Which codecs this build of FFmpeg has, and whether they work: a few pictures are encoded and decoded again."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
import av.codec
import numpy as np

DECODERS = {"h264": ("h264",), "hevc": ("hevc",), "av1": ("libdav1d", "libaom-av1"), "vp9": ("vp9",), "mjpeg": ("mjpeg",)}
"""what cameras send and files hold, and what decodes it; FFmpeg's own decoder of AV1 needs a GPU"""
ENCODERS = {"libx264": "h264", "libvpx": "vp8", "mjpeg": "mjpeg"}
"""what previews and drawn video are made with, and what decodes it"""
_SIDE, _PICTURES = 64, 5
_FORMATS = {"mjpeg": "yuvj420p"}


@dataclass(frozen=True, slots=True)
class CodecState:
    """One codec."""

    name: str
    """FFmpeg's"""
    kind: Literal["decoder", "encoder"]
    problem: str
    """why it is no use; empty where it works, or is there and cannot be tried without video"""


def check_codecs() -> list[CodecState]:
    """All of the above."""
    decoders = {name: any(_has(one, "r") for one in names) for name, names in DECODERS.items()}
    found = [CodecState(name, "decoder", "" if here else "is missing") for name, here in decoders.items()]
    return found + [CodecState(name, "encoder", _try_encoder(name, decoder)) for name, decoder in ENCODERS.items()]


def _has(name: str, mode: Literal["r", "w"]) -> bool:
    try:
        av.codec.Codec(name, mode)
    except ValueError:  # PyAV's UnknownCodecError is one
        return False
    return True


def _try_encoder(name: str, decoder: str) -> str:
    """What is wrong with an encoder; empty where what it makes can be decoded."""
    if not _has(name, "w"):
        return "is missing"
    try:
        writer = av.CodecContext.create(name, "w")
        assert isinstance(writer, av.VideoCodecContext)
        writer.width = writer.height = _SIDE
        writer.pix_fmt = _FORMATS.get(name, "yuv420p")
        writer.framerate, writer.time_base = Fraction(25), Fraction(1, 25)
        reader = av.CodecContext.create(decoder, "r")
        assert isinstance(reader, av.VideoCodecContext)
        grey = np.full((_SIDE, _SIDE, 3), 128, np.uint8)
        packets = []
        for number in range(_PICTURES):
            image = av.VideoFrame.from_ndarray(grey, "rgb24").reformat(format=writer.pix_fmt)
            image.pts, image.time_base = number, writer.time_base
            packets += writer.encode(image)
        packets += writer.encode(None)
        decoded = [one for packet in packets for one in reader.decode(packet)] + reader.decode(None)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        return f"fails: {getattr(error, 'strerror', None) or error}"
    return "" if len(decoded) == _PICTURES else f"gives {len(decoded)} of {_PICTURES} pictures"
