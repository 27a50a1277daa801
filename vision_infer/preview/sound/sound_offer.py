"""The audio section of an offer, reduced for aiortc (RFC 8866)."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from vision_infer.preview.sound.sound_frame import OPUS, PCMA, PCMU

_STATIC = {"0": PCMU, "8": PCMA}
_CODECS = {f"{codec.name.lower()}/{codec.rate}": codec for codec in (OPUS, PCMU, PCMA)}
_RTPMAP = re.compile(r"a=rtpmap:(\d{1,3}) ([\w.+-]+/\d+)")
_OF_TYPE = re.compile(r"a=(?:rtpmap|fmtp|rtcp-fb):(\d+) ")
_EXTMAP = re.compile(r"a=extmap:(\d{1,3})(?:/\w+)? (\S+)")
_DIRECTIONS = frozenset({"a=sendrecv", "a=sendonly", "a=recvonly", "a=inactive"})


@dataclass(frozen=True, slots=True)
class SoundOffer:
    """What a player accepts."""

    mid: str
    payload_types: dict[str, int]
    """The payload types by the name of the codec."""
    extensions: dict[str, int]
    """The identifiers of RTP header extensions by URI."""


def read_sound(sections: tuple[tuple[str, ...], ...]) -> SoundOffer | None:
    """Return the first audio section of an offer; None if the player accepts no sound."""
    section = next((section for section in sections if section[0].startswith("m=audio ")), None)
    if section is None or "a=sendonly" in section or "a=inactive" in section:
        return None
    if section[0].split()[1:2] == ["0"] and "a=bundle-only" not in section:
        return None  # the section is rejected (RFC 3264, section 6)
    types = {number: codec.name for number, codec in _STATIC.items()}
    for match in filter(None, map(_RTPMAP.match, section)):
        codec = _CODECS.get(match[2].lower())
        types[match[1]] = "" if codec is None else codec.name
    found: dict[str, int] = {}
    for number in section[0].split()[3:]:
        name = types.get(number)
        if name and int(number) < 128:
            found.setdefault(name, int(number))
    mid = next((line[6:] for line in section if line.startswith("a=mid:")), "")
    extensions = {match[2]: int(match[1]) for match in filter(None, map(_EXTMAP.match, section))}
    return SoundOffer(mid, found, extensions)


def with_sound(sdp: str, kept: Collection[int]) -> str:
    """Return an offer whose first audio section has only these payload types. No sound of the player is accepted.

    Args:
        kept: The payload types; empty if no sound is sent, so that aiortc answers that the section is inactive.
    """
    lines: list[str] = []
    inside, numbers = False, {str(number) for number in kept}
    waiting = set(numbers)
    for line in sdp.split("\r\n"):
        if line.startswith("m="):
            inside = line.startswith("m=audio ")
            if inside:
                numbers, waiting = waiting, set()
                words = line.split()
                chosen = [number for number in words[3:] if not numbers or number in numbers]
                lines += [" ".join(words[:3] + chosen), "a=recvonly"]
                continue
        if inside:
            match = _OF_TYPE.match(line)
            unused = match is not None and numbers and match[1] not in numbers
            if unused or line in _DIRECTIONS or (line.startswith("a=extmap:") and "sdes:mid" not in line):
                continue
        lines.append(line)
    return "\r\n".join(lines)
