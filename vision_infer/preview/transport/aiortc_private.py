"""All uses of aiortc and aioice beyond their documented interface, and the check that this version has what is used.

Both libraries have no interface for another ICE agent or for video that is already encoded. Other modules of the preview use
these functions and classes instead of private attributes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

import aioice
from aioice import stun, turn
from aiortc import (
    RTCConfiguration,
    RTCDtlsTransport,
    RTCIceGatherer,
    RTCIceTransport,
    RTCPeerConnection,
    RTCRtpSender,
    rtcicetransport,
    rtp,
)

from vision_infer.core.clock import Clock
from vision_infer.core.errors import UsageError
from vision_infer.preview.transport.agent import LiteAgent
from vision_infer.preview.transport.candidates import CheckRate, too_many_peers
from vision_infer.preview.transport.datagrams import Datagrams

VERSIONS = {"aiortc": "1.16", "aioice": "0.13"}
"""The versions with which the uses below were tested; the same as in pyproject.toml."""
_PEER, _SENDER = "_RTCPeerConnection__", "_RTCRtpSender__"
USED: dict[Any, tuple[str, ...]] = {
    RTCPeerConnection: (f"{_PEER}createDtlsTransport",),
    RTCIceGatherer: ("_connection", "getLocalCandidates"),
    RTCIceTransport: ("_connection", "_recv", "_send"),
    rtcicetransport: ("connection_kwargs",),
    rtp: ("DYNAMIC_PAYLOAD_TYPES",),
    RTCDtlsTransport: ("_tx_srtp", "_send_rtp"),
    RTCRtpSender: (
        *("_handle_rtcp_packet", "_retransmit", "_run_rtp", "_ssrc", "_rtx_ssrc", "_stream_id"),
        *(f"{_SENDER}{name}" for name in ("rtp_started", "rtp_exited", "rtx_payload_type", "ntp_timestamp", "rtp_timestamp")),
        *(f"{_SENDER}{name}" for name in ("packet_count", "octet_count")),
    ),
    aioice.Connection: ("_nominated", "check_start_task", "request_received", "check_incoming", "get_event", "remote_candidates"),
    aioice.ice: ("get_host_addresses", "relayed_candidate"),
    stun.Message: ("add_message_integrity", "check_message_integrity"),
    stun: ("parse_message",),
    turn.TurnTransport: ("_TurnTransport__inner_protocol",),
}
"""The used attributes by class or module. Attributes that constructors set are found in their code."""

# Chromium has more codecs than payload types from 96 on, and also uses those from 35 to 63 (RFC 5761, section 4), for High among
# others. aiortc would answer with another payload type, which means something else in the offer.
rtp.DYNAMIC_PAYLOAD_TYPES = (*range(35, 64), *range(96, 128))  # type: ignore[assignment]


def check_libraries() -> None:
    """Check that the installed aiortc and aioice have all attributes in :data:`USED`.

    Raises:
        UsageError: One is missing.
    """
    for owner, names in USED.items():
        constructor = getattr(getattr(owner, "__init__", None), "__code__", None)
        known = set(dir(owner)) | set(() if constructor is None else constructor.co_names)
        for name in names:
            if name not in known:
                installed = " and ".join(f"{library} {version(library)}" for library in VERSIONS)
                needed = " ".join(f'"{library}=={number}.*"' for library, number in VERSIONS.items())
                raise UsageError(
                    f"the preview cannot use {installed}: {owner.__name__} has no {name}",
                    f"Run: pip install {needed}, or set preview.enabled to false.",
                )


class RandomPortAgent(aioice.Connection):
    """aioice's agent with a random UDP port per viewer, within limits: a viewer chooses the addresses that it checks.

    Args:
        checks: The limit of checks of all viewers.
        clock: The source of time.
        given: The arguments of ``aioice.Connection``.
    """

    def __init__(self, checks: CheckRate, clock: Clock, **given: Any) -> None:
        super().__init__(ice_controlling=False, **given)
        self.checks = 0
        """The number of valid connectivity checks from the viewer."""
        self.heard_ns = 0
        """The time of the last valid check, monotonic; 0 before the first."""
        self._rate = checks
        self._now = clock.monotonic_ns
        self._route: Datagrams | None = None

    @property
    def route(self) -> Datagrams | None:
        """The route to the viewer; None if there is none."""
        pair, route = self._nominated.get(1), self._route
        if pair is None:
            return None
        transport = pair.protocol.transport
        if route is None or route.transport is not transport or route.remote != pair.remote_addr:
            if route is not None:
                route.close()
            route = self._route = Datagrams(transport, pair.remote_addr)
        return route

    def request_received(self, message: Any, addr: tuple[str, int], protocol: Any) -> None:
        """Take a check, unless the viewer has too many addresses."""
        if not too_many_peers(self, addr):
            super().request_received(message, addr, protocol)

    def check_incoming(self, message: Any, addr: tuple[str, int], protocol: Any) -> None:
        """Count a valid check."""
        self.checks += 1
        self.heard_ns = self._now()
        super().check_incoming(message, addr, protocol)

    def check_start_task(self, pair: Any) -> None:
        """Start a check if the limit allows it; else it stays in the state ``WAITING``, and aioice tries again after 20 ms."""
        if pair.task is None and self._rate.take():
            super().check_start_task(pair)

    async def close(self) -> None:
        """Close the connection."""
        if self._route is not None:
            self._route.close()
        await super().close()


class PeerConnection(RTCPeerConnection):
    """aiortc's peer connection with another ICE agent.

    Args:
        configuration: The configuration of aiortc.
        make_agent: Creates the agent of a transport; called with the arguments of ``aioice.Connection`` for STUN and TURN.
    """

    def __init__(self, configuration: RTCConfiguration, make_agent: Callable[..., LiteAgent | RandomPortAgent]) -> None:
        self._make_agent = make_agent
        self._servers = rtcicetransport.connection_kwargs(configuration.iceServers or [])
        super().__init__(configuration)

    def _RTCPeerConnection__createDtlsTransport(self) -> RTCDtlsTransport:  # noqa: N802 - it replaces aiortc's
        made: RTCDtlsTransport = getattr(super(), f"{_PEER}createDtlsTransport")()
        ice: Any = made.transport
        agent = self._make_agent(**self._servers)
        # aiortc takes the coroutines when it creates the transport.
        ice.iceGatherer._connection = ice._connection = agent
        ice._recv, ice._send = agent.recv, agent.send
        return made


class Outgoing:
    """One of aiortc's RTP senders, whose loop and answers to losses are replaced.

    Args:
        sender: The ``RTCRtpSender``, not started yet.
        run: Replaces the loop that sends; called with the payload type, canceled at the end. A ``ConnectionError`` ends it.
        retransmit: Sends a packet again; called with its sequence number.
        heard: Called with each RTCP packet of the viewer; returns False if aiortc must process it.
    """

    def __init__(
        self,
        sender: Any,
        run: Callable[[int], Awaitable[None]],
        retransmit: Callable[[int], Awaitable[None]],
        heard: Callable[[object], bool],
    ) -> None:
        self._sender = sender
        handle = self._sender._handle_rtcp_packet

        async def handle_rtcp(packet: object) -> None:
            if not heard(packet):
                await handle(packet)

        async def run_rtp(codec: Any) -> None:  # like aiortc's loop, it sets the events for its start and end
            self._sender._RTCRtpSender__rtp_started.set()
            try:
                await run(codec.payloadType)
            except (asyncio.CancelledError, ConnectionError):
                pass
            finally:
                self._sender._RTCRtpSender__rtp_exited.set()

        self._sender._handle_rtcp_packet = handle_rtcp
        self._sender._retransmit = retransmit
        self._sender._run_rtp = run_rtp

    @property
    def ssrc(self) -> int:
        """The source of its packets."""
        return int(self._sender._ssrc)

    @property
    def again_ssrc(self) -> int:
        """The source of retransmissions."""
        return int(self._sender._rtx_ssrc)

    @property
    def again_type(self) -> int | None:
        """The payload type of retransmissions; None if the viewer does not support any."""
        kind: int | None = self._sender._RTCRtpSender__rtx_payload_type
        return kind

    @property
    def dtls(self) -> RTCDtlsTransport:
        """The DTLS transport."""
        found: RTCDtlsTransport = self._sender.transport
        return found

    @property
    def agent(self) -> LiteAgent | RandomPortAgent:
        """The ICE agent."""
        found: LiteAgent | RandomPortAgent = self._sender.transport.transport._connection
        return found

    @property
    def protect(self) -> Callable[[bytes], bytes]:
        """The function that encrypts an RTP packet.

        Raises:
            ConnectionError: The viewer is not connected.
        """
        if self.dtls.state != "connected":
            raise ConnectionError("the viewer is not connected")
        function: Callable[[bytes], bytes] = self.dtls._tx_srtp.protect
        return function

    def count(self, packets: int, octets: int) -> None:
        """Count sent packets and the bytes of their payloads for the sender reports."""
        self._sender._RTCRtpSender__packet_count += packets
        self._sender._RTCRtpSender__octet_count += octets

    def report(self, ntp: int, time: int) -> None:
        """Set a wall-clock time, as a 64-bit NTP timestamp, and the RTP time at that moment for the sender reports."""
        self._sender._RTCRtpSender__ntp_timestamp = ntp
        self._sender._RTCRtpSender__rtp_timestamp = time

    async def send_again(self, packet: bytes) -> None:
        """Encrypt and send one packet."""
        await self.dtls._send_rtp(packet)


def join_stream(sender: Any, other: Any) -> None:
    """Announce the track of a sender in the same stream as that of another one, so that the player shows both in step."""
    sender._stream_id = other._stream_id
