"""The session description of an RTSP server (SDP: RFC 8866; in RTSP: RFC 2326, appendix C).

Only media sections and attributes are read. Everything else is ignored, since cameras omit or repeat it: origin, name, time.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field

from vision_infer.core.errors import StreamError
from vision_infer.stream.rtsp.control_url import joined

MAX_MEDIA = 64
"""The maximum number of media sections."""
_MAX_LINES = 4096
_START = b"\0\0\0\1"
_STARTS = re.compile(rb"\x00\x00\x01")
_STATIC = {0: ("pcmu", 8000), 3: ("gsm", 8000), 8: ("pcma", 8000), 9: ("g722", 8000), 14: ("mpa", 90_000), 26: ("jpeg", 90_000)}
"""The payload types that need no rtpmap (RFC 3551, section 6)."""
_RATES = {"h264": 90_000, "h265": 90_000, "jpeg": 90_000, "vp8": 90_000, "vp9": 90_000, "opus": 48_000, "g722": 8000}
"""The clock rates that the payload formats prescribe. Cameras that announce another one use this one anyway."""
_NAMES = {"hevc": "h265", "h.264": "h264", "h.265": "h265", "mjpeg": "jpeg"}
_SETS = {"h264": ("sprop-parameter-sets",), "h265": ("sprop-vps", "sprop-sps", "sprop-pps")}
_MAX_SET = 4096
"""The maximum size of the parameter sets of a stream, bytes."""
_NUMBER = re.compile(r"\d{1,6}(?:\.\d{1,6})?", re.ASCII)
_MAX_FRAME_RATE = 1000.0


class DescriptionError(StreamError):
    """A server described its streams in a way that cannot be used."""


@dataclass(frozen=True, slots=True)
class MediaSection:
    """A stream that a server offers."""

    kind: str
    """``video``, ``audio`` or ``application``."""
    payload_type: int
    """The RTP payload type, 0–127."""
    codec: str
    """The encoding name in lower case: ``h264``, ``h265``, ``jpeg``, ``pcma``, ``mpeg4-generic``; empty if it is unknown."""
    clock_rate: int
    """The units of an RTP timestamp per second; at least 1."""
    channels: int
    """The number of sound channels; 1 for video."""
    parameters: dict[str, str]
    """The format parameters; names are in lower case."""
    control: str
    """The URL for ``SETUP``."""
    frame_rate: float | None
    """The frames per second that the server announces; None if it announces none."""
    secure: bool
    """Whether the packets are encrypted (SRTP)."""

    def parameter_sets(self) -> bytes:
        """Return the parameter sets of H.264 or H.265 with start codes; empty if the description has none that can be used.

        The sets of H.265 are used only if all three kinds are present: https://github.com/AlexxIT/go2rtc/pull/1588.
        """
        names = _SETS.get(self.codec, ())
        found = [_decoded_sets(self.parameters.get(name, "")) for name in names]
        sets = b"".join(found)
        return sets if all(found) and len(sets) <= _MAX_SET else b""

    def audio_config(self) -> bytes:
        """Return the AudioSpecificConfig of AAC (RFC 3640, section 4.1); empty if there is none."""
        try:
            return bytes.fromhex(self.parameters.get("config", ""))[:_MAX_SET]
        except ValueError:
            return b""


@dataclass(frozen=True, slots=True)
class SessionDescription:
    """What a server offers at a URL."""

    control: str
    """The URL for ``PLAY`` and ``TEARDOWN``."""
    media: tuple[MediaSection, ...]
    """The streams, in the server's order; at least one."""


@dataclass(slots=True)
class _Section:
    """The lines of a media section."""

    kind: str
    protocol: str
    formats: list[str]
    attributes: list[tuple[str, str]] = field(default_factory=list)

    def first(self, name: str) -> str | None:
        return next((value for key, value in self.attributes if key == name), None)

    def of_format(self, name: str, payload_type: str) -> str:
        """Return what an attribute says about a payload type."""
        for key, value in self.attributes:
            if key == name:
                number, _, text = value.partition(" ")
                if number == payload_type:
                    return text.strip()
        return ""


def parse_description(body: bytes, base: str) -> SessionDescription:
    """Parse the body of a response to ``DESCRIBE``.

    Args:
        body: The SDP, at most :data:`~vision_infer.stream.rtsp.message.MAX_BODY` bytes.
        base: The base of relative URLs, from :func:`~vision_infer.stream.rtsp.control_url.base_url`.

    Raises:
        DescriptionError: It describes no stream over RTP, or exceeds a limit.
    """
    session = _Section("", "", [])
    sections: list[_Section] = []
    lines = re.split("\r\n|\n|\r", body.decode("utf-8", "replace"))
    if len(lines) > _MAX_LINES:
        raise DescriptionError(f"the server's description has more than {_MAX_LINES} lines")
    for line in lines:
        kind, equals, value = line.partition("=")
        if not equals:
            continue
        if kind.strip() == "m":
            words = value.split()
            if len(words) >= 3:
                sections.append(_Section(words[0].lower(), words[2].upper(), words[3:]))
            else:
                sections.append(_Section("", "", []))
        elif kind.strip() == "a":
            name, _, text = value.partition(":")
            (sections[-1] if sections else session).attributes.append((name.strip().lower(), text.strip()))
    if len(sections) > MAX_MEDIA:
        hint = "Use a URL of a single camera."
        raise DescriptionError(f"the server offers {len(sections)} tracks; at most {MAX_MEDIA} are supported", hint)
    media = tuple(found for section in sections if (found := _media(section, sections, base)) is not None)
    if not media:
        raise DescriptionError("the server offers no stream over RTP", "Check that the URL is the URL of a stream.")
    return SessionDescription(joined(base, session.first("control")), media)


def _media(section: _Section, sections: list[_Section], base: str) -> MediaSection | None:
    """Return a media section, or None if it is not RTP or has no valid payload type."""
    if "RTP/" not in section.protocol:
        return None
    numbers = (name for name in section.formats if name.isascii() and name.isdigit() and len(name) <= 3)
    found = list(dict.fromkeys(name for name in numbers if int(name) < 128))
    if not found:
        return None
    # Of several formats, the first that has a name.
    number = next((name for name in found if section.of_format("rtpmap", name)), found[0])
    name, rate, channels = _mapped(section.of_format("rtpmap", number), int(number))
    fmtp = section.of_format("fmtp", number)
    if not fmtp and name in _SETS:
        # A camera that lists the parameters of its video under the sound: https://github.com/AlexxIT/WebRTC/issues/419
        fmtp = next((text for other in sections if (text := other.of_format("fmtp", number))), "")
    return MediaSection(
        kind=section.kind,
        payload_type=int(number),
        codec=name,
        clock_rate=rate,
        channels=channels,
        parameters=_parameters(fmtp),
        control=joined(base, section.first("control")),
        frame_rate=_frame_rate(section),
        secure="SAVP" in section.protocol,
    )


def _mapped(rtpmap: str, payload_type: int) -> tuple[str, int, int]:
    """Return the codec, the clock rate and the number of channels."""
    name, rate = _STATIC.get(payload_type, ("", 0))
    channels = 1
    if rtpmap:
        words = [word.strip() for word in rtpmap.split("/")]
        name = words[0].lower()
        numbers = [int(word) if word.isascii() and word.isdigit() and len(word) < 10 else 0 for word in words[1:3]]
        rate = numbers[0] if numbers else 0
        channels = numbers[1] if len(numbers) > 1 and 0 < numbers[1] <= 64 else 1
    name = _NAMES.get(name, name)
    return name, _RATES.get(name) or rate or 90_000, channels


def _parameters(fmtp: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in fmtp.split(";"):
        name, equals, value = part.partition("=")
        if equals:
            found.setdefault(name.strip().lower(), value.strip())
    return found


def _frame_rate(section: _Section) -> float | None:
    for name, value in section.attributes:
        if name in ("framerate", "x-framerate") and _NUMBER.fullmatch(value) and 0 < float(value) <= _MAX_FRAME_RATE:
            return float(value)
    return None


def _decoded_sets(value: str) -> bytes:
    """Return parameter sets with start codes.

    Some cameras put start codes into a set, or at its end: https://github.com/scottlamb/retina/issues/108.
    """
    sets: list[bytes] = []
    for text in value.split(","):
        try:
            decoded = base64.b64decode(text.strip() + "=" * (-len(text.strip()) % 4), validate=True)
        except (binascii.Error, ValueError):
            continue
        sets += [unit for part in _STARTS.split(decoded) if (unit := part.strip(b"\0"))]
    return b"".join(_START + unit for unit in sets)
