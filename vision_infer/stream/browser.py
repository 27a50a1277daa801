"""Which video browsers play over WebRTC unmodified, and why other video is encoded for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from vision_infer.core.geometry import Size

EVERY = "every browser"


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """The properties of encoded video that decide whether a player can play it. Unknown properties keep their defaults."""

    codec: str
    """FFmpeg's name of the codec."""
    profile: str = ""
    """FFmpeg's name of the profile; empty if the codec has none, or if it is unknown."""
    level: int = 0
    """The level as the codec writes it: 31 for 3.1 in H.264, 93 for 3.1 in H.265, 5 for 3.1 in AV1; 0 without one."""
    high_tier: bool = False
    """Whether the bit rate may be that of the High tier (H.265, AV1)."""
    bits: int = 8
    """The number of bits of a sample."""
    chroma: str = "4:2:0"
    """The chroma format; ``4:0:0`` for monochrome."""
    size: Size | None = None
    interlaced: bool = False

    def __str__(self) -> str:
        """Return the codec with its profile and level, for example ``H.265 Main level 4.1``."""
        level = _level(self.codec, self.level) if self.level else ""
        return " ".join(filter(None, (_NAMES.get(self.codec, self.codec), self.profile, level)))


@dataclass(frozen=True, slots=True)
class Passthrough:
    """The players that get video unmodified, or the reason why it is encoded for all of them."""

    players: str
    """:data:`EVERY`, or the browsers that play the codec; empty if the video is always encoded."""
    problem: str
    """The reason for encoding; empty if there are ``players``."""


class _Rule(NamedTuple):
    profiles: tuple[str, ...]
    """The profiles that players may offer; empty if the codec has none."""
    bits: int
    chroma: tuple[str, ...]
    reordered: bool
    """Whether frames may be coded in another order than they are shown, which WebRTC cannot carry."""
    everywhere: bool


_SUBSAMPLED = ("4:2:0", "4:0:0")
_PROFILES_264 = ("Constrained Baseline", "Baseline", "Main", "High", "Constrained High")
_VP9 = ("Profile 0", "Profile 1", "Profile 2", "Profile 3")
_RULES = {
    "h264": _Rule(_PROFILES_264, 8, _SUBSAMPLED, True, True),
    "hevc": _Rule(("Main", "Main 10"), 10, _SUBSAMPLED, True, False),
    "vp8": _Rule((), 8, _SUBSAMPLED, False, True),
    "vp9": _Rule(_VP9, 10, (*_SUBSAMPLED, "4:2:2", "4:4:4"), False, False),
    # Chromium and Firefox offer the profile Main, which includes 10 bits, but they play 8 bits only.
    "av1": _Rule(("Main", "High"), 8, (*_SUBSAMPLED, "4:4:4"), False, False),
}
_NAMES = {
    "h264": "H.264",
    "hevc": "H.265",
    "vp8": "VP8",
    "vp9": "VP9",
    "av1": "AV1",
    "mjpeg": "MJPEG",
    "mpeg4": "MPEG-4",
    "rawvideo": "uncompressed (the test pattern)",
}


def passthrough(facts: VideoFacts, b_frames: bool, max_height: int) -> Passthrough:
    """Return which players get video unmodified. The preview, ``doctor`` and the probe all use this function.

    Of the players named, only those receive it whose offer contains the profile, and the level if it states one.

    Args:
        facts: The properties of the video.
        b_frames: Whether the decoding order differs from the presentation order.
        max_height: The maximum height, pixels: ``preview.max_height``.
    """
    rule, name = _RULES.get(facts.codec), _NAMES.get(facts.codec, facts.codec)
    if rule is None:
        return Passthrough("", f"the stream is {name}, which browsers do not play over WebRTC")
    problem = ""
    if b_frames and rule.reordered:
        problem = "the stream has B-frames, which WebRTC cannot carry"
    elif facts.profile and rule.profiles and facts.profile not in rule.profiles:
        problem = f"browsers do not play {name} {facts.profile}"
    elif facts.bits > rule.bits or facts.chroma not in rule.chroma:
        problem = f"browsers do not play {name} with {facts.bits} bits and {facts.chroma} chroma"
    elif facts.interlaced:
        problem = "the stream is interlaced"
    elif facts.size is not None and facts.size.height > max_height:
        problem = f"its height of {facts.size.height} pixels exceeds preview.max_height"
    if problem:
        return Passthrough("", problem)
    some = " ".join(filter(None, ("browsers that play", name, facts.profile)))
    return Passthrough(EVERY if rule.everywhere else f"{some}; others get encoded video", "")


def _level(codec: str, level: int) -> str:
    if codec == "av1":  # 7.3 and higher are not defined; 31 means no limit
        return f"level {2 + (level >> 2)}.{level & 3}"
    return f"level {level / (30 if codec == 'hevc' else 10):.1f}"
