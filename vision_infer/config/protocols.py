"""The protocols of streams. Adding one takes one entry in this table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Protocol:
    """What the URL checks, the live sources and the help texts need to know about a scheme."""

    kind: str
    """The name of the family: schemes of one kind are opened alike."""
    port: int = 0
    """The default port; 0 if there is none."""
    ffmpeg: str = ""
    """The FFmpeg protocols that the URL, its redirects and its playlists may use. Empty if FFmpeg does not open it."""
    tcp: bool = True
    """Whether the client connects over TCP, so that a probe can test the connection."""
    needs_host: bool = True
    """Whether the URL must name a host; an SRT listener has none."""
    live: bool = True
    """Whether a URL is always a camera, and never a file to download."""
    over_api: bool = True
    """Whether the service accepts it over the API by default."""


_WEB = "http,https,tcp,tls,crypto"

PROTOCOLS: dict[str, Protocol] = {
    "rtsp": Protocol("rtsp", 554, "rtp,udp,tcp"),
    "rtsps": Protocol("rtsp", 322, "rtp,srtp,udp,tcp,tls"),
    "http": Protocol("http", 80, _WEB, live=False),
    "https": Protocol("http", 443, _WEB, live=False),
    "rtmp": Protocol("rtmp", 1935, "rtmp,tcp"),
    "rtmps": Protocol("rtmp", 443, "rtmps,tls,tcp"),
    "srt": Protocol("srt", 9000, "srt,udp", tcp=False, needs_host=False),
    "test": Protocol("test", tcp=False, needs_host=False, live=False),
    "file": Protocol("file", tcp=False, needs_host=False, live=False, over_api=False),
}
"""By URL scheme. A stream can also be ``/dev/videoN`` or the path of a file."""


def schemes_over_api() -> tuple[str, ...]:
    """Return the schemes that the service accepts over the API by default."""
    return tuple(name for name, protocol in PROTOCOLS.items() if protocol.over_api)


def url_help() -> str:
    """Return the forms of a stream's URL, for help texts and errors."""
    return "".join(f"{name}://, " for name in PROTOCOLS if name != "file") + "/dev/video0, or a file"
