"""What happens in the dialog with an RTSP server: the output of :class:`~vision_infer.stream.rtsp.client.RtspClient`."""

from __future__ import annotations

from dataclasses import dataclass

from vision_infer.stream.rtsp.description import MediaSection
from vision_infer.stream.rtsp.message import InterleavedPacket


@dataclass(frozen=True, slots=True)
class PlayBegun:
    """The server has answered PLAY. Packets may have arrived before."""


@dataclass(frozen=True, slots=True)
class Redirected:
    """The server sends the client to another URL. The caller decides whether that URL is allowed, and opens a connection."""

    url: str
    """An ``rtsp`` or ``rtsps`` URL without credentials."""


@dataclass(frozen=True, slots=True)
class ServerEnded:
    """The server has ended the session."""


ClientEvent = InterleavedPacket | PlayBegun | Redirected | ServerEnded


@dataclass(slots=True)
class TrackSetup:
    """A stream that is being set up."""

    media: MediaSection
    server_ports: tuple[int, int] | None = None
    """The server's ports for RTP and RTCP over UDP; None over TCP, or if the server names none."""
    channel: int = 0
    """The interleaved channel of RTP, as the server numbers it; RTCP has the next one."""
