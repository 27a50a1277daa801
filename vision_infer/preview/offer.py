"""SDP offers of WHEP players: the codecs that they accept, and the choice of one for aiortc (RFC 8866, RFC 6184).

aiortc supports two H.264 profiles and applies its own order of codecs. It therefore receives an offer reduced to the chosen
codec, under a profile that it supports, and its answer is changed to the stream's profile.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from aiortc import rtp
from aiortc.sdp import H264Profile, parse_h264_profile_level_id

from vision_infer.core.errors import UsageError
from vision_infer.preview.transport.candidates import MAX_CANDIDATES, usable

# Chromium has more codecs than payload types from 96 on, and also uses those from 35 to 63 (RFC 5761, section 4), for High among
# others. aiortc would answer with another payload type, which means something else in the offer.
rtp.DYNAMIC_PAYLOAD_TYPES = (*range(35, 64), *range(96, 128))  # type: ignore[assignment]

MID_URI = "urn:ietf:params:rtp-hdrext:sdes:mid"
PLAYOUT_DELAY_URI = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"
_SEND_TIME_URI = "/abs-send-time"
"""aiortc would accept this extension, which is never sent here."""
_KNOWN_PROFILE = "42e01f"
"""A profile-level-id that aiortc supports."""
_DEFAULT_PROFILE = "42e01f"
"""The profile-level-id of an offer without one (RFC 6184, section 8.1)."""
_MAX_LINES = 4000
_BASELINE = (H264Profile.PROFILE_CONSTRAINED_BASELINE, H264Profile.PROFILE_BASELINE)
_HIGH = (H264Profile.PROFILE_HIGH, H264Profile.PROFILE_CONSTRAINED_HIGH)
_ANY = H264Profile.PROFILE_PREDICTIVE_HIGH_444
"""The profile under which Chromium offers its software decoder, which plays all profiles."""
_PLAYED_BY = {
    H264Profile.PROFILE_CONSTRAINED_BASELINE: (*_BASELINE, H264Profile.PROFILE_MAIN, *_HIGH, _ANY),
    H264Profile.PROFILE_BASELINE: (_BASELINE[1], H264Profile.PROFILE_MAIN, *_HIGH, _ANY),
    H264Profile.PROFILE_MAIN: (H264Profile.PROFILE_MAIN, *_HIGH, _ANY),
    # A stream without B-frames and fields can be played as Constrained High.
    H264Profile.PROFILE_CONSTRAINED_HIGH: (*reversed(_HIGH), _ANY),
    H264Profile.PROFILE_HIGH: (*_HIGH, _ANY),
}
"""The offered profiles that can play a stream of a profile, best first."""
_EXTMAP = re.compile(r"a=extmap:(\d+)(?:/\w+)? (\S+)")
_RTPMAP = re.compile(r"a=rtpmap:(\d+) ([\w.+-]+)/(\d+)")
_OF_TYPE = re.compile(r"a=(?:rtpmap|fmtp|rtcp-fb):(\d+) ")


@dataclass(frozen=True, slots=True)
class Codec:
    """A codec that the player accepts."""

    payload_type: int
    name: str
    parameters: dict[str, str]


@dataclass(frozen=True, slots=True)
class Offer:
    """The contents of an offer."""

    sections: tuple[tuple[str, ...], ...]
    """The lines of the session, and of each media section."""
    video: int
    """The index of the video section."""
    codecs: tuple[Codec, ...]
    mid: str
    extensions: dict[str, int] = field(default_factory=dict)
    """The identifiers of RTP header extensions by URI."""
    data: bool = False
    """Whether the player accepts data channels."""

    def h264(self, profile_level_id: str) -> Codec | None:
        """Return the codec that plays H.264 of a profile; None if there is none."""
        profile = parse_h264_profile_level_id(plain_profile(profile_level_id))[0]
        for wanted in _PLAYED_BY.get(profile, ()):
            for codec in self.codecs:
                if codec.name == "H264" and codec.parameters.get("packetization-mode", "0") == "1":
                    try:
                        offered = parse_h264_profile_level_id(codec.parameters.get("profile-level-id", _DEFAULT_PROFILE))[0]
                    except ValueError:
                        continue
                    if offered is wanted:
                        return codec
        # GStreamer offers H.264 without parameters, and then plays all profiles and packetization modes.
        return next((codec for codec in self.codecs if codec.name == "H264" and not codec.parameters), None)

    def profile_for(self, codec: Codec, profile_level_id: str) -> str:
        """Return the profile-level-id for the answer: the stream's profile if the player offered it, else the offered one."""
        plain = plain_profile(profile_level_id)
        if not codec.parameters:
            return plain
        offered = codec.parameters.get("profile-level-id", _DEFAULT_PROFILE)
        same = parse_h264_profile_level_id(offered)[0] is parse_h264_profile_level_id(plain)[0]
        return plain if same else offered[:4] + plain[4:]

    def vp8(self) -> Codec | None:
        """Return the codec that plays VP8; None if there is none."""
        return next((codec for codec in self.codecs if codec.name == "VP8"), None)

    def only(self, codec: Codec, local: bool = False) -> str:
        """Return the offer reduced to one codec and to the first usable candidates, with the player as DTLS client.

        Args:
            codec: The chosen codec.
            local: Whether the player is on this machine; see :func:`usable`.
        """
        primary = str(codec.payload_type)
        resent = [other for other in self.codecs if other.name == "RTX" and other.parameters.get("apt") == primary]
        kept = {primary, *(str(other.payload_type) for other in resent[:1])}
        lines: list[str] = []
        candidates = 0
        for number, section in enumerate(self.sections):
            for line in section:
                if number == self.video:
                    if line.startswith("m="):
                        line = " ".join([*line.split()[:3], *sorted(kept, key=lambda number: number != primary)])
                    if line.endswith(_SEND_TIME_URI):
                        continue
                    match = _OF_TYPE.match(line)
                    if match and match[1] not in kept:
                        continue
                    if codec.name == "H264" and match and match[1] == primary:
                        if line.startswith("a=fmtp:"):
                            continue
                        if line.startswith("a=rtpmap:"):
                            lines.append(f"a=fmtp:{primary} {_FMTP % _KNOWN_PROFILE}")
                if line == "a=end-of-candidates":
                    continue
                if line.startswith("a=candidate:"):
                    if candidates >= MAX_CANDIDATES or not usable(line, local):
                        continue
                    candidates += 1
                # aiortc as the DTLS client offers only ciphers for ECDSA certificates; GStreamer's certificate has an RSA key
                # (https://github.com/aiortc/aiortc/issues/1434). As the server it needs no cipher for the player's certificate.
                lines.append("a=setup:active" if line == "a=setup:actpass" else line)
        return "\r\n".join(lines) + "\r\n"


def plain_profile(profile_level_id: str) -> str:
    """Return a stream's profile-level-id in the form that SDP defines, without other flags (RFC 6184, table 5)."""
    number, flags, level = bytes.fromhex(profile_level_id)
    if number == 0x42 or (number == 0x4D and flags & 0x80):
        family = "42e0" if number == 0x4D or flags & 0x40 else "4200"
    elif number == 0x4D:
        family = "4d00"
    else:
        family = "640c" if number == 0x64 and flags & 0x0C == 0x0C else "6400"
    return f"{family}{level if level in _LEVELS else _HIGHEST_LEVEL:02x}"


_LEVELS = frozenset({10, 11, 12, 13, 20, 21, 22, 30, 31, 32, 40, 41, 42, 50, 51, 52})
_HIGHEST_LEVEL = 52
_FMTP = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=%s"


def read_offer(sdp: str) -> Offer:
    """Parse an offer.

    Raises:
        UsageError: The text is not an offer, or the offer does not request video.
    """
    lines = sdp.replace("\r\n", "\n").strip().split("\n")
    if not lines or not lines[0].startswith("v=0") or len(lines) > _MAX_LINES:
        raise UsageError("this is not an SDP offer", "Send the result of RTCPeerConnection.createOffer.")
    sections: list[list[str]] = [[]]
    for line in lines:
        if line.startswith("m="):
            sections.append([])
        sections[-1].append(line)
    number = next((at for at, section in enumerate(sections) if section[0].startswith("m=video ")), None)
    if number is None:
        raise UsageError("the offer does not request video", "Add a recvonly transceiver of kind video before createOffer.")
    video = sections[number]
    if any(line in ("a=sendonly", "a=inactive") for line in video):
        raise UsageError("the offer does not accept video", "The video transceiver must be recvonly.")
    every = [line for section in sections for line in section]
    for needed in ("a=ice-ufrag:", "a=ice-pwd:", "a=fingerprint:"):
        if not any(line.startswith(needed) for line in every):
            raise UsageError(f"the offer has no {needed[2:-1]}", "Send the result of RTCPeerConnection.createOffer.")
    mid = next((line[6:] for line in video if line.startswith("a=mid:")), "")
    extensions = {match[2]: int(match[1]) for line in video if (match := _EXTMAP.match(line))}
    return Offer(
        tuple(map(tuple, sections)),
        number,
        _codecs(video),
        mid,
        extensions,
        any(section[0].startswith("m=application ") and "webrtc-datachannel" in section[0] for section in sections),
    )


def _codecs(video: list[str]) -> tuple[Codec, ...]:
    order = video[0].split()[3:]
    parameters: dict[str, dict[str, str]] = {}
    for line in video:
        if line.startswith("a=fmtp:"):
            number, _, text = line[7:].partition(" ")
            pairs = (part.strip().partition("=") for part in text.split(";"))
            parameters[number] = {name: value for name, _, value in pairs}
    found = {match[1]: match[2] for line in video if (match := _RTPMAP.match(line))}
    return tuple(
        Codec(int(number), found[number].upper(), parameters.get(number, {}))
        for number in order
        if number in found and number.isdigit() and int(number) < 128
    )


def finish_answer(answer: str, profile_level_id: str, mid: str, playout_delay: int | None) -> str:
    """Return the answer for the player: with the stream's profile, and with a request to show frames without delay.

    Args:
        profile_level_id: The profile of the stream; empty if it is not H.264.
        playout_delay: The offer's identifier of the playout-delay header extension; None without one.
    """
    lines: list[str] = []
    for line in answer.split("\r\n"):
        if profile_level_id and line.startswith("a=fmtp:") and "profile-level-id" in line:
            line = line.partition(" ")[0] + " " + _FMTP % profile_level_id
        lines.append(line)
        if playout_delay is not None and line == f"a=mid:{mid}":
            lines.append(f"a=extmap:{playout_delay} {PLAYOUT_DELAY_URI}")
    return "\r\n".join(lines)
