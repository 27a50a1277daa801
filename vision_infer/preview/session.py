"""One viewer's connection: SDP, ICE, and the data channel that maps RTP times to presentation times."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiortc import RTCConfiguration, RTCIceServer, RTCSessionDescription
from aiortc.exceptions import InvalidStateError, OperationError
from aiortc.sdp import candidate_from_sdp

from vision_infer.config.preview import IceServer
from vision_infer.core.clock import Clock
from vision_infer.core.errors import UsageError
from vision_infer.preview.codecs.matching import Codec
from vision_infer.preview.encoder import EncodedFeed
from vision_infer.preview.feed import Feed
from vision_infer.preview.media import CLOCK_RATE
from vision_infer.preview.offer import MID_URI, PLAYOUT_DELAY_URI, Offer, finish_answer
from vision_infer.preview.rtp_out import NoTrack
from vision_infer.preview.sender import Anchor, Viewer
from vision_infer.preview.sound.sound_feed import SoundFeed
from vision_infer.preview.sound.sound_offer import SoundOffer, read_sound, with_sound
from vision_infer.preview.sound.sound_sender import SoundSender
from vision_infer.preview.transport.agent import LiteAgent
from vision_infer.preview.transport.aiortc_private import PeerConnection, RandomPortAgent, join_stream
from vision_infer.preview.transport.candidates import MAX_CANDIDATES, CheckRate, usable
from vision_infer.preview.transport.ice import with_credentials
from vision_infer.preview.transport.port import SharedPort
from vision_infer.preview.transport.route import Route

CONNECT_NS = 20_000_000_000
"""The maximum time from a viewer's offer to its connection."""
SILENT_NS = 15_000_000_000
"""A viewer without any packet for this time is considered gone."""
_CLOSE_S = 5.0
_MAX_CHANNEL_BYTES = 4096
"""The amount of unsent data in the channel above which anchors are skipped."""
_DAMAGED = (ValueError, AssertionError, LookupError, AttributeError, TypeError, RuntimeError, InvalidStateError, OperationError)
"""The exceptions that aiortc raises for offers that it cannot process; ``RuntimeError`` if a coroutine raised StopIteration."""
_AT_ONCE = b"\0\0\0"
"""The value of the playout-delay extension: minimum 0, maximum 0."""

_log = logging.getLogger("vision_infer.preview")


@dataclass(slots=True)
class SessionFacts:
    """The public facts of a session."""

    stream: str
    mode: str
    """``passthrough`` or ``encoded``"""
    codec: str
    reason: str
    """The reason for encoding; empty for passthrough."""
    profile: str = ""
    audio: str | None = None
    """The codec of the sound: ``opus``, ``PCMU`` or ``PCMA``; None without sound."""


class Session:
    """The connection of one viewer. It is used on the event loop only.

    Args:
        principal: The owner, who may change or end the session.
        checks: The limit of connectivity checks of all sessions.
        local: Whether the viewer is on this machine, so that it may use loopback addresses.
        port: The port that all viewers share; None: the viewer gets a random UDP port.
        on_end: Called once when the session has ended for any reason.
    """

    def __init__(
        self,
        facts: SessionFacts,
        principal: str,
        feed: Feed,
        ice: tuple[IceServer, ...],
        clock: Clock,
        checks: CheckRate,
        local: bool,
        port: SharedPort | None,
        on_end: Any,
    ) -> None:
        self.id = secrets.token_urlsafe(24)
        self.etag = f'"{secrets.token_hex(8)}"'
        self.facts = facts
        self.principal = principal
        self.feed = feed
        self.viewer: Viewer | None = None
        self.sound: SoundSender | None = None
        self.answer = ""
        self._clock = clock
        self._local = local
        self._lite = port is not None
        self._on_end = on_end
        self._began_ns = clock.monotonic_ns()
        self._candidates = 0
        self._ufrag = ""
        self._ending: asyncio.Task[None] | None = None
        self._channel: Any = None
        self._anchor: Anchor | None = None
        servers = [_rtc_server(with_credentials(server, clock.wall_ns())) for server in ice]

        def make_agent(**servers: Any) -> LiteAgent | RandomPortAgent:
            return RandomPortAgent(checks, clock, **servers) if port is None else LiteAgent(port, clock, checks, **servers)

        self._peer = PeerConnection(RTCConfiguration(iceServers=servers), make_agent)

    async def accept(self, offer: Offer, codec: Codec, parameters: str, sound: SoundFeed | None = None) -> None:
        """Create the answer with a codec and its format parameters, and start sending.

        Args:
            sound: The sound that the player may listen to; None if the stream has none that it plays.

        Raises:
            UsageError: aiortc cannot process the offer, or the player sends no connectivity checks.
        """
        peer = self._peer
        if self._lite and "a=ice-lite" in offer.sections[0]:
            raise UsageError("the offer has a=ice-lite", "One of both sides must send connectivity checks: see preview.port.")
        transceiver = peer.addTransceiver(NoTrack("video"), direction="sendonly")
        extensions = [(offer.extensions[MID_URI], offer.mid.encode()[:16])] if _short(offer.extensions.get(MID_URI)) else []
        delay = offer.extensions.get(PLAYOUT_DELAY_URI)
        delay = delay if _short(delay) else None
        if delay is not None:
            extensions.append((delay, _AT_ONCE))
        if not offer.mid:
            extensions = extensions[-1:] if delay is not None else []
        self.viewer = Viewer(transceiver.sender, extensions, lambda: self.feed.group, self._anchored, self._clock)
        heard = None if sound is None else read_sound(offer.sections)
        if sound is not None and heard is not None:
            self.sound = self._sound_sender(sound, heard, self.viewer)
        try:
            reduced = with_sound(offer.only(codec, self._local), () if heard is None else heard.payload_types.values())
            self._candidates = reduced.count("\na=candidate:")
            await peer.setRemoteDescription(RTCSessionDescription(reduced, "offer"))
            if offer.data:
                self._channel = peer.createDataChannel("anchor")
                self._channel.on("open", self._send_anchor)
                if self.sound is not None:
                    self._channel.on("message", self.sound.request)
            await peer.setLocalDescription(await peer.createAnswer())
        except _DAMAGED as error:
            raise UsageError("the offer cannot be answered", f"The offer is damaged: {type(error).__name__}.") from error
        self._watch()
        media = offer.sections[offer.video]
        session = offer.sections[0]
        self._ufrag = next((line[12:] for line in (*media, *session) if line.startswith("a=ice-ufrag:")), "")
        answer = peer.localDescription.sdp
        if self._lite:
            answer = answer.replace("\r\nm=", "\r\na=ice-lite\r\nm=", 1)
        self.answer = finish_answer(answer, codec, parameters, offer.mid, delay)
        if self._ending is None and self.viewer not in self.feed.viewers:  # it may have ended or moved meanwhile
            self.feed.join(self.viewer)
        if self.sound is not None and self._channel is None:
            self.sound.listen(True)  # a player without a data channel cannot request sound

    def _sound_sender(self, sound: SoundFeed, offer: SoundOffer, viewer: Viewer) -> SoundSender:
        sender = self._peer.addTransceiver(NoTrack("audio"), direction="sendonly").sender
        join_stream(sender, self._peer.getSenders()[0])
        mid = offer.extensions.get(MID_URI)
        extensions = [(mid, offer.mid.encode()[:16])] if mid is not None and _short(mid) and offer.mid else []
        return SoundSender(sender, extensions, offer.payload_types, sound, lambda: viewer.synced, self._clock)

    async def trickle(self, fragment: str) -> bool:
        """Add candidates of the viewer (RFC 8840); return False if it requests an ICE restart, which is not supported."""
        lines = fragment.replace("\r\n", "\n").split("\n")
        ufrag = next((line[12:] for line in lines if line.startswith("a=ice-ufrag:")), "")
        if ufrag and ufrag != self._ufrag:
            return False
        for line in lines:
            if not line.startswith("a=candidate:") or not usable(line, self._local):
                continue
            self._candidates += 1
            if self._candidates > MAX_CANDIDATES:
                break
            with suppress(ValueError, AssertionError, IndexError):
                await self._viewer.outgoing.dtls.transport.addRemoteCandidate(candidate_from_sdp(line[12:]))
        return True

    def move(self, feed: EncodedFeed, reason: str) -> None:
        """Continue with encoded video of the same codec."""
        if self.viewer is not None:
            self.feed.leave(self.viewer)
            self.feed = feed
            self.facts.mode, self.facts.profile, self.facts.reason = "encoded", feed.profile, reason
            feed.join(self.viewer)

    @property
    def state(self) -> str:
        """The state of the connection: ``new``, ``connecting``, ``connected``, ``failed`` or ``closed``."""
        return str(self._peer.connectionState)

    @property
    def ice_state(self) -> str:
        """The state of ICE: ``new``, ``checking``, ``completed``, ``failed`` or ``closed``."""
        return str(self._peer.iceConnectionState)

    @property
    def dtls_state(self) -> str:
        """The state of DTLS: ``new``, ``connecting``, ``connected``, ``failed`` or ``closed``."""
        return "new" if self.viewer is None else str(self.viewer.outgoing.dtls.state)

    @property
    def route(self) -> Route | None:
        """The route to the viewer; None if there is none yet."""
        return None if self.viewer is None else self.viewer.outgoing.agent.route

    @property
    def checks(self) -> int:
        """The number of connectivity checks from the viewer."""
        return 0 if self.viewer is None else self.viewer.outgoing.agent.checks

    def look(self) -> str:
        """Return why the session must end; empty if it may continue."""
        now = self._clock.monotonic_ns()
        state = self.state
        if state in ("failed", "closed"):
            return f"the connection has {'failed' if state == 'failed' else 'ended'}"
        if state != "connected":
            return "it did not connect" if now - self._began_ns > CONNECT_NS else ""
        heard = max(self._viewer.heard_ns, self._viewer.outgoing.agent.heard_ns)
        return "the viewer no longer responds" if now - heard > SILENT_NS else ""

    def end(self, why: str) -> asyncio.Task[None]:
        """End the session. Further calls have no effect."""
        if self._ending is None:
            _log.debug("%s: a viewer's session ends: %s", self.facts.stream, why)
            self._ending = asyncio.get_running_loop().create_task(self._end())
        return self._ending

    async def _end(self) -> None:
        if self.viewer is not None:
            self.feed.leave(self.viewer)
            self.viewer.close()
        if self.sound is not None:
            self.sound.close()
        self._on_end(self)
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._peer.close()
        except Exception as error:  # noqa: BLE001 - aiortc may raise anything for a broken connection, which is closed in any case
            _log.debug("%s: closing a viewer's connection: %s", self.facts.stream, type(error).__name__)

    def _watch(self) -> None:
        def changed() -> None:
            if self._peer.connectionState in ("failed", "closed"):
                if self._ending is None and self.dtls_state == "failed":
                    _log.warning("%s: the DTLS handshake with a viewer failed, so that it gets no video", self.facts.stream)
                self.end("the connection has ended")

        self._peer.on("connectionstatechange", changed)

    @property
    def _viewer(self) -> Viewer:
        assert self.viewer is not None
        return self.viewer

    def _anchored(self, anchor: Anchor) -> None:
        self._anchor = anchor
        self._send_anchor()

    def _send_anchor(self) -> None:
        channel, anchor = self._channel, self._anchor
        if channel is None or anchor is None or channel.readyState != "open":
            return
        if channel.bufferedAmount > _MAX_CHANNEL_BYTES:
            return
        captured = anchor.captured_ns
        if captured is not None:
            captured += self._clock.wall_ns() - self._clock.monotonic_ns()
        message = {
            "rtp": anchor.rtp,
            "pts_ns": anchor.pts_ns,
            "captured_ns_utc": captured,
            "clock_rate": CLOCK_RATE,
            "by": anchor.by,
        }
        with suppress(InvalidStateError, ConnectionError):
            channel.send(json.dumps(message))


def _short(number: int | None) -> bool:
    """Return whether an identifier fits a one-byte header extension."""
    return number is not None and 0 < number < 15


def _rtc_server(server: IceServer) -> RTCIceServer:
    credential = None if server.credential is None else server.credential.get_secret_value()
    return RTCIceServer(server.url, server.username, credential)
