"""Which video browsers can play over WebRTC unmodified, without transcoding."""

from __future__ import annotations

_PLAYED = frozenset({"h264", "vp8", "vp9", "av1"})
_EIGHT_BITS_420 = frozenset({"yuv420p", "yuvj420p", "nv12"})
_PROFILES = ("baseline", "main", "high")
_NAMES = {"h264": "H.264", "hevc": "H.265", "vp8": "VP8", "vp9": "VP9", "av1": "AV1", "mjpeg": "JPEG", "mpeg4": "MPEG-4"}


def passthrough_problem(codec: str, profile: str, pixel_format: str, b_frames: bool) -> str:
    """Return why video must be transcoded for browsers; empty if it can be played unmodified.

    Args:
        codec: FFmpeg's name of the codec.
        profile: FFmpeg's name of the codec's profile; empty if unknown.
        pixel_format: FFmpeg's name of the pixel format; empty if not known yet.
        b_frames: Whether the decoding order differs from the presentation order.
    """
    name = _NAMES.get(codec, codec)
    if codec == "hevc":
        return "not every browser plays H.265"
    if codec not in _PLAYED:
        return f"browsers do not play {name} over WebRTC"
    if codec == "h264" and profile and not any(known in profile.lower() for known in _PROFILES):
        return f"browsers do not play the H.264 profile {profile}"
    if b_frames and codec == "h264":
        return "it has B-frames, which WebRTC does not reorder"
    if pixel_format and pixel_format not in _EIGHT_BITS_420:
        return f"browsers play {name} only with 8 bits and 4:2:0 chroma, not {pixel_format}"
    return ""
