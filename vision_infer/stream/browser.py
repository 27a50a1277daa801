"""What a browser plays over WebRTC just as a camera sends it, without anything being decoded or encoded again."""

from __future__ import annotations

_PLAYED = frozenset({"h264", "vp8", "vp9", "av1"})
_EIGHT_BITS_420 = frozenset({"yuv420p", "yuvj420p", "nv12"})
_PROFILES = ("baseline", "main", "high")
_NAMES = {"h264": "H.264", "hevc": "H.265", "vp8": "VP8", "vp9": "VP9", "av1": "AV1", "mjpeg": "JPEG", "mpeg4": "MPEG-4"}


def why_not_untouched(codec: str, profile: str, pixel_format: str, b_frames: bool) -> str:
    """Why it has to be encoded again before a browser plays it; empty: it has not.

    Args:
        codec: FFmpeg's name.
        profile: of the codec, FFmpeg's name; empty where it is not known.
        pixel_format: FFmpeg's name; empty where it is not known yet.
        b_frames: whether pictures come in another order than they are shown.
    """
    name = _NAMES.get(codec, codec)
    if codec == "hevc":
        return "not every browser plays H.265"
    if codec not in _PLAYED:
        return f"browsers do not play {name} over WebRTC"
    if codec == "h264" and profile and not any(known in profile.lower() for known in _PROFILES):
        return f"browsers do not play H.264 of the profile {profile}"
    if b_frames and codec == "h264":
        return "it has B-frames, which WebRTC does not put back in order"
    if pixel_format and pixel_format not in _EIGHT_BITS_420:
        return f"browsers play {name} with 8 bits and 4:2:0 only, and this is {pixel_format}"
    return ""
