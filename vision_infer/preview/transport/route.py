"""The borders between the shared port and the agents of viewers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from vision_infer.preview.transport.stun_message import StunMessage

MAX_WAITING = 1024 * 1024
"""The maximum number of bytes that wait for one viewer on the shared port; further packets are dropped, as a network would."""


class Route(Protocol):
    """The way to one address of a viewer, over UDP, TCP or a TURN server. It is used on the event loop only."""

    @property
    def protocol(self) -> Literal["udp", "tcp"]:
        """The transport protocol between the viewer and the service, or its TURN server."""

    @property
    def key(self) -> object:
        """The identity of the route."""

    @property
    def remote(self) -> tuple[str, int]:
        """The IP address and port of the viewer."""

    @property
    def waiting(self) -> int:
        """The number of bytes that the kernel has not accepted yet."""

    def send(self, burst: Sequence[bytes]) -> None:
        """Send packets. All have the same length, except that the last one may be shorter. Errors are not raised."""

    def close(self) -> None:
        """Release what belongs to this route only. Waiting packets are dropped."""


class Agent(Protocol):
    """The ICE agent of a viewer."""

    local_username: str

    def receive(self, data: bytes) -> None:
        """Take a DTLS or SRTP packet from an address of the viewer."""

    def check(self, request: StunMessage, route: Route) -> bool:
        """Answer a connectivity check; return whether it is valid, so that its route belongs to the viewer."""

    def answered(self, request: StunMessage, key: object) -> None:
        """Take an answer to an own check."""

    def lost(self, route: Route) -> None:
        """Forget a route that no longer exists."""
