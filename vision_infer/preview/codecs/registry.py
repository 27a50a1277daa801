"""The codecs that can be passed through, by FFmpeg's name."""

from __future__ import annotations

from collections.abc import Callable

from vision_infer.core.packet import VideoFormat
from vision_infer.preview.codecs.av1 import Av1Packets
from vision_infer.preview.codecs.h264 import H264Packets
from vision_infer.preview.codecs.h265 import H265Packets
from vision_infer.preview.codecs.payloads import Packets
from vision_infer.preview.codecs.vp8 import Vp8Packets
from vision_infer.preview.codecs.vp9 import Vp9Packets

_PACKETS: dict[str, Callable[[VideoFormat], Packets]] = {
    "h264": H264Packets,
    "hevc": H265Packets,
    "vp8": lambda _: Vp8Packets(),
    "vp9": lambda _: Vp9Packets(),
    "av1": Av1Packets,
}


def packets_of(video: VideoFormat) -> Packets | None:
    """Return what converts the packets of a connection; None if the codec cannot be passed through."""
    convert = _PACKETS.get(video.codec)
    return None if convert is None else convert(video)
