"""The choice of a codec in an offer for a stream: codec, profile and level (RFC 6184, RFC 7798, RFC 9628, AOM's AV1 format)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from aiortc.sdp import H264Profile, parse_h264_profile_level_id

from vision_infer.stream.browser import VideoFacts

_DEFAULT_H264 = "42e01f"
"""The profile-level-id of an offer without one (RFC 6184, section 8.1)."""
_H264_PREFIXES = {
    "Constrained Baseline": "42e0",
    "Baseline": "4200",
    "Main": "4d00",
    "Constrained High": "640c",
    "High": "6400",
}
_H264_LEVELS = frozenset({10, 11, 12, 13, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52})
_HIGHEST_H264_LEVEL = 52
_BASELINE = (H264Profile.PROFILE_CONSTRAINED_BASELINE, H264Profile.PROFILE_BASELINE)
_HIGH = (H264Profile.PROFILE_HIGH, H264Profile.PROFILE_CONSTRAINED_HIGH)
_ANY = H264Profile.PROFILE_PREDICTIVE_HIGH_444
"""The profile under which Chromium offers its software decoder, which plays all profiles."""
_PLAYED_BY = {
    "Constrained Baseline": (*_BASELINE, H264Profile.PROFILE_MAIN, *_HIGH, _ANY),
    "Baseline": (_BASELINE[1], H264Profile.PROFILE_MAIN, *_HIGH, _ANY),
    "Main": (H264Profile.PROFILE_MAIN, *_HIGH, _ANY),
    # A stream without B-frames and fields can be played as Constrained High.
    "Constrained High": (*reversed(_HIGH), _ANY),
    "High": (*_HIGH, _ANY),
}
"""The offered H.264 profiles that can play a stream of a profile, best first."""
_H265_PROFILES = {"Main": (1, 2), "Main 10": (2,)}
_AV1_PROFILES = {"Main": (0, 1, 2), "High": (1, 2), "Professional": (2,)}
"""The numbers of the profiles that can play a stream of a profile, best first."""
_DEFAULT_H265_LEVEL, _DEFAULT_AV1_LEVEL = 93, 5
"""Level 3.1, the default of both formats. Browsers leave the parameter at it although they play larger video: Safari offers
H.265 without parameters, and Chromium offers AV1 with ``level-idx=5`` for its decoder of all levels. An offer with this level
therefore is not compared."""


@dataclass(frozen=True, slots=True)
class Codec:
    """A codec that the player accepts."""

    payload_type: int
    name: str
    """The name in capital letters."""
    parameters: dict[str, str]


def matching(codecs: Sequence[Codec], facts: VideoFacts) -> Codec | None:
    """Return the codec of an offer that plays a stream; None if there is none."""
    if facts.codec not in _SEARCHES:
        return None
    name, search = _SEARCHES[facts.codec]
    return next(search([codec for codec in codecs if codec.name == name], facts), None)


def answer_parameters(codec: Codec, facts: VideoFacts, sprop: str) -> str:
    """Return the format parameters for the answer: the offered ones, with those that describe the stream itself.

    Args:
        codec: The codec of :func:`matching`.
        facts: The facts of the stream.
        sprop: The parameters that describe the stream; empty for none.
    """
    if facts.codec == "h264":
        return f"level-asymmetry-allowed=1;packetization-mode=1;profile-level-id={_h264_answer(codec, facts)}"
    offered = (f"{name}={value}" for name, value in codec.parameters.items() if not name.startswith("sprop-"))
    return ";".join(filter(None, (*offered, sprop)))


def profile_level_id(facts: VideoFacts) -> str:
    """Return the profile-level-id of an H.264 stream in the form that SDP defines (RFC 6184, table 5)."""
    level = facts.level if facts.level in _H264_LEVELS else _HIGHEST_H264_LEVEL
    return f"{_H264_PREFIXES.get(facts.profile, '6400')}{level:02x}"


def _h264_answer(codec: Codec, facts: VideoFacts) -> str:
    """Return the stream's profile-level-id if the player offered its profile, else the offered profile."""
    plain = profile_level_id(facts)
    if not codec.parameters:
        return plain
    offered = codec.parameters.get("profile-level-id", _DEFAULT_H264)
    same = parse_h264_profile_level_id(offered)[0] is parse_h264_profile_level_id(plain)[0]
    return plain if same else offered[:4] + plain[4:]


def _h264(codecs: Sequence[Codec], facts: VideoFacts) -> Iterator[Codec]:
    for wanted in _PLAYED_BY.get(facts.profile, ()):
        for codec in codecs:
            if codec.parameters.get("packetization-mode", "0") == "1":
                try:
                    offered = parse_h264_profile_level_id(codec.parameters.get("profile-level-id", _DEFAULT_H264))[0]
                except ValueError:
                    continue
                if offered is wanted:
                    yield codec
    # GStreamer offers H.264 without parameters, and then plays all profiles and packetization modes.
    yield from (codec for codec in codecs if not codec.parameters)


def _h265(codecs: Sequence[Codec], facts: VideoFacts) -> Iterator[Codec]:
    """Yield the codecs that play H.265 (RFC 7798, section 7.1), in one RTP stream."""
    for wanted in _H265_PROFILES.get(facts.profile, ()):
        for codec in codecs:
            level = max(_number(codec, name, _DEFAULT_H265_LEVEL) for name in ("level-id", "max-recv-level-id"))
            fits = level == _DEFAULT_H265_LEVEL or (level >= facts.level and _number(codec, "tier-flag", 0) >= facts.high_tier)
            if fits and _number(codec, "profile-id", 1) == wanted and codec.parameters.get("tx-mode", "SRST") == "SRST":
                yield codec


def _vp9(codecs: Sequence[Codec], facts: VideoFacts) -> Iterator[Codec]:
    """Yield the codecs that play VP9 (RFC 9628, section 6)."""
    return (codec for codec in codecs if f"Profile {_number(codec, 'profile-id', 0)}" == facts.profile)


def _av1(codecs: Sequence[Codec], facts: VideoFacts) -> Iterator[Codec]:
    """Yield the codecs that play AV1 (RTP Payload Format For AV1, section 7)."""
    for wanted in _AV1_PROFILES.get(facts.profile, ()):
        for codec in codecs:
            level = _number(codec, "level-idx", _DEFAULT_AV1_LEVEL)
            fits = level == _DEFAULT_AV1_LEVEL or (level >= facts.level and _number(codec, "tier", 0) >= facts.high_tier)
            if fits and _number(codec, "profile", 0) == wanted:
                yield codec


def _number(codec: Codec, name: str, default: int) -> int:
    """Return a parameter; -1 if it is not a number."""
    value = codec.parameters.get(name, str(default))
    return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else -1


_SEARCHES: dict[str, tuple[str, Callable[[Sequence[Codec], VideoFacts], Iterator[Codec]]]] = {
    "h264": ("H264", _h264),
    "hevc": ("H265", _h265),
    "vp8": ("VP8", lambda codecs, _: iter(codecs)),
    "vp9": ("VP9", _vp9),
    "av1": ("AV1", _av1),
}
"""The name of each codec in SDP, and what finds the offers that play it, best first."""
