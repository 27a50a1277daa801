"""Encoded video of each codec, and its packets as a source delivers them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from random import Random
from typing import Any

import av

from tests.support.media import ordinary_priority
from vision_infer.core.packet import EncodedPacket, VideoFormat

NAMES = {"libx264": "h264", "libx265": "hevc", "libvpx": "vp8", "libvpx-vp9": "vp9", "libsvtav1": "av1"}
OPTIONS = {
    "libx264": {"preset": "ultrafast", "tune": "zerolatency"},
    "libx265": {"preset": "ultrafast", "tune": "zerolatency", "x265-params": "log-level=none:keyint=4"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"},
    "libsvtav1": {"preset": "12", "svtav1-params": "log-level=0"},
}


@dataclass(frozen=True)
class Recipe:
    """A recipe for a few frames of noise, which need several RTP packets each."""

    encoder: str
    width: int = 320
    height: int = 180
    pix_fmt: str = "yuv420p"
    frames: int = 6
    extra: tuple[tuple[str, str], ...] = ()
    global_header: bool = False


@cache
def encoded(recipe: Recipe) -> tuple[VideoFormat, tuple[EncodedPacket, ...]]:
    """Return the format and the packets of a recipe."""
    context = av.CodecContext.create(recipe.encoder, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt = recipe.width, recipe.height, recipe.pix_fmt
    context.framerate, context.time_base, context.gop_size = Fraction(25), Fraction(1, 25), 4
    context.bit_rate, context.thread_count = 4_000_000, 1
    context.options = {**OPTIONS[recipe.encoder], **dict(recipe.extra)}
    if recipe.global_header:
        context.flags |= av.codec.context.Flags.global_header
    random = Random(1)
    packets: list[EncodedPacket] = []
    with ordinary_priority():
        for number in range(recipe.frames):
            frame = av.VideoFrame(recipe.width, recipe.height, recipe.pix_fmt)
            deep = frame.format.components[0].bits > 8
            for plane in frame.planes:
                noise = bytearray(random.randbytes(plane.buffer_size))
                if deep:
                    noise[1::2] = bytes(octet & 3 for octet in noise[1::2])
                plane.update(bytes(noise))
            frame.pts = number
            packets += map(_packet, context.encode(frame))
        packets += map(_packet, context.encode(None))
    return VideoFormat(NAMES[recipe.encoder], bytes(context.extradata or b"")), tuple(packets)


def _packet(packet: av.Packet[Any]) -> EncodedPacket:
    return EncodedPacket(memoryview(bytes(packet)), (packet.pts or 0) * 40_000_000, packet.is_keyframe, None)
