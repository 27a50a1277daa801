"""SDP offers of WHEP players: the codecs that they accept, and the answer for one of them (RFC 8866).

aiortc knows two video codecs and applies its own order. It therefore receives an offer reduced to the chosen codec under the name
of one that has no parameters, VP8, and its answer is changed back. aiortc neither encodes nor packs anything here, so that the
name has no other effect.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from vision_infer.core.errors import UsageError
from vision_infer.preview.codecs.matching import Codec
from vision_infer.preview.transport.candidates import MAX_CANDIDATES, usable

MID_URI = "urn:ietf:params:rtp-hdrext:sdes:mid"
PLAYOUT_DELAY_URI = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"
_SEND_TIME_URI = "/abs-send-time"
"""aiortc would accept this extension, which is never sent here."""
_KNOWN = "VP8"
"""The name under which aiortc sees the chosen codec."""
_MAX_LINES = 4000
_EXTMAP = re.compile(r"a=extmap:(\d{1,3})(?:/\w+)? (\S+)")
_RTPMAP = re.compile(r"a=rtpmap:(\d{1,3}) ([\w.+-]+)/(\d+)")
_OF_TYPE = re.compile(r"a=(?:rtpmap|fmtp|rtcp-fb):(\d+) ")


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
                    if line.startswith(f"a=fmtp:{primary} "):
                        continue
                    if line.startswith(f"a=rtpmap:{primary} "):
                        line = f"a=rtpmap:{primary} {_KNOWN}/90000"
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


def finish_answer(answer: str, codec: Codec, parameters: str, mid: str, playout_delay: int | None) -> str:
    """Return the answer for the player: with the chosen codec, and with a request to show frames without delay.

    Args:
        answer: The answer of aiortc.
        codec: The chosen codec.
        parameters: Its format parameters; empty for none.
        mid: The identifier of the video section.
        playout_delay: The offer's identifier of the playout-delay header extension; None without one.
    """
    lines: list[str] = []
    for line in answer.split("\r\n"):
        if line == f"a=rtpmap:{codec.payload_type} {_KNOWN}/90000":
            lines.append(f"a=rtpmap:{codec.payload_type} {codec.name}/90000")
            if parameters:
                lines.append(f"a=fmtp:{codec.payload_type} {parameters}")
            continue
        lines.append(line)
        if playout_delay is not None and line == f"a=mid:{mid}":
            lines.append(f"a=extmap:{playout_delay} {PLAYOUT_DELAY_URI}")
    return "\r\n".join(lines)
