"""Checks which codecs this build of FFmpeg has, and whether they work, by encoding and decoding a few frames."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
import av.codec
import numpy as np

DECODERS = {"h264": ("h264",), "hevc": ("hevc",), "av1": ("libdav1d", "libaom-av1"), "vp9": ("vp9",), "mjpeg": ("mjpeg",)}
"""The codecs of cameras and files, and their decoders. FFmpeg's own AV1 decoder needs a GPU."""
ENCODERS = {"libx264": "h264", "libvpx": "vp8", "mjpeg": "mjpeg"}
"""The encoders for previews and annotated video, and the codec that decodes their output."""
_SIDE, _FRAMES = 64, 5
_FORMATS = {"mjpeg": "yuvj420p"}


@dataclass(frozen=True, slots=True)
class CodecState:
    """The state of one codec."""

    name: str
    """FFmpeg's name of the codec."""
    kind: Literal["decoder", "encoder"]
    problem: str
    """Why it cannot be used; empty if it works, or if it exists and cannot be tested without a video."""


def check_codecs() -> list[CodecState]:
    """Check all decoders and encoders of this module."""
    decoders = {name: any(_has(decoder, "r") for decoder in names) for name, names in DECODERS.items()}
    found = [CodecState(name, "decoder", "" if present else "is missing") for name, present in decoders.items()]
    return found + [CodecState(name, "encoder", _try_encoder(name, decoder)) for name, decoder in ENCODERS.items()]


def _has(name: str, mode: Literal["r", "w"]) -> bool:
    try:
        av.codec.Codec(name, mode)
    except ValueError:  # PyAV's UnknownCodecError is a subclass
        return False
    return True


def _try_encoder(name: str, decoder: str) -> str:
    """Return why an encoder does not work; empty if its output can be decoded."""
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
        gray = np.full((_SIDE, _SIDE, 3), 128, np.uint8)
        packets = []
        for number in range(_FRAMES):
            image = av.VideoFrame.from_ndarray(gray, "rgb24").reformat(format=writer.pix_fmt)
            image.pts, image.time_base = number, writer.time_base
            packets += writer.encode(image)
        packets += writer.encode(None)
        decoded = [frame for packet in packets for frame in reader.decode(packet)] + reader.decode(None)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        return f"fails: {getattr(error, 'strerror', None) or error}"
    return "" if len(decoded) == _FRAMES else f"returned {len(decoded)} of {_FRAMES} frames"
