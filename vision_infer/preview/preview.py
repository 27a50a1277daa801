"""Live video for viewers, within limits: all sessions and streams of the preview, and their counters."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from vision_infer.config.preview import PreviewSettings
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.preview.feed import Feed
from vision_infer.preview.offer import read_offer
from vision_infer.preview.relay import Relay
from vision_infer.preview.session import Session, SessionFacts
from vision_infer.preview.stream_preview import NoCodecError, NoPreviewError, StreamPreview
from vision_infer.preview.transport.addresses import Addresses
from vision_infer.preview.transport.candidates import CheckRate
from vision_infer.preview.transport.port import NoAddressError, SharedPort
from vision_infer.preview.transport.port_front import PortLink
from vision_infer.preview.transport.sockets import Sockets
from vision_infer.stream.source import SourceSpec

__all__ = ["NoCodecError", "NoPreviewError", "Preview", "PreviewCounts", "UnknownSessionError"]

LOOK_S = 1.0


class UnknownSessionError(VisionInferError):
    """The session does not exist, or belongs to another principal."""


@dataclass(frozen=True, slots=True)
class PreviewCounts:
    """The current viewers and encoders, and totals since the start."""

    viewers: Mapping[str, int]
    """The current number of viewers by stream."""
    encoders: int
    sessions: int
    packets: int
    """The number of RTP packets, without retransmissions."""
    resent: int
    restarts: int
    """The number of groups of pictures that were sent again after a viewer had lost one."""
    drops: Mapping[str, int]
    """The number of skipped frames, dropped packets of sound and refused offers by reason."""
    strays: int = 0
    """The number of packets to the shared port that belonged to no viewer."""


class Preview:
    """All viewers of a service.

    :meth:`relay`, :meth:`changed`, :meth:`forget`, :meth:`counts` and :meth:`stop` may be called from any thread; everything else
    must be called on the event loop of the web server.

    Args:
        view: Returns the source of a stream's main URL (``view``), or None if the stream has none.
    """

    def __init__(
        self,
        settings: PreviewSettings,
        view: Callable[[str], SourceSpec | None] = lambda _: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.settings = settings
        self._view = view
        self._clock = clock
        self._lock = threading.Lock()  # guards _streams, which the streams' threads and the event loop change
        self._streams: dict[str, StreamPreview] = {}
        self._sessions: dict[str, Session] = {}
        self._arriving: dict[str, int] = {}
        """The number of offers that are being answered, by stream."""
        self._offers: dict[object, str] = {}
        """The principals of offers that wait for video; :meth:`leave` removes them."""
        self._checks = CheckRate(clock)
        self._port: SharedPort | None = None
        self._opened = 0
        self._packets = self._resent = self._restarts = 0
        self._drops = {"slow_viewer": 0, "slow_loop": 0, "slow_encoder": 0, "sound": 0, "refused": 0}
        self._looking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    # Called from any thread

    def relay(self, stream: str) -> Relay:
        """Return the relay that takes the packets and frames of a stream."""
        return self._preview(stream).relay

    def changed(self, stream: str) -> None:
        """Take note of changed settings: sessions end if the main URL of the stream is another one now."""
        self._soon(self._check, stream)

    def forget(self, stream: str) -> None:
        """Remove a stream, and end its sessions."""
        with self._lock:
            preview = self._streams.pop(stream, None)
        if preview is not None:
            self._soon(self._end_stream, stream, preview)

    def counts(self) -> PreviewCounts:
        """Return the current counters."""
        sessions, previews = list(self._sessions.values()), list(self._streams.values())
        viewers: dict[str, int] = {preview.name: 0 for preview in previews}
        for session in sessions:
            viewers[session.facts.stream] = viewers.get(session.facts.stream, 0) + 1
        now = [session.viewer for session in sessions if session.viewer is not None]
        drops = dict(self._drops)
        drops["slow_viewer"] += sum(viewer.dropped for viewer in now)
        drops["slow_loop"] += sum(preview.behind for preview in previews)
        drops["slow_encoder"] += sum(preview.superseded for preview in previews)
        drops["sound"] += sum(preview.dropped_sound for preview in previews)
        return PreviewCounts(
            viewers,
            sum(len(preview.encoders) for preview in previews),
            self._opened,
            self._packets + sum(viewer.packets for viewer in now),
            self._resent + sum(viewer.resent for viewer in now),
            self._restarts + sum(viewer.restarts for viewer in now),
            drops,
            0 if self._port is None else self._port.strays,
        )

    def stop(self, timeout_s: float = 2.0) -> None:
        """End all sessions, and wait for it up to ``timeout_s`` seconds."""
        self._closed = True
        loop = self._loop
        if loop is not None and loop.is_running():
            with suppress(Exception):
                asyncio.run_coroutine_threadsafe(self.close(), loop).result(timeout_s)

    # Called on the event loop

    async def open(self, sockets: Sockets, link: PortLink | None = None) -> None:
        """Let all viewers use one port. The sockets are closed with the preview.

        Args:
            sockets: The sockets of the port.
            link: The process in front, which receives for this one; None: this process receives.
        """
        addresses = Addresses(self.settings.addresses, sockets.host, self._clock)
        self._port = SharedPort(sockets, addresses, self._clock, link)
        self._loop = asyncio.get_running_loop()
        await self._port.open()

    async def offer(self, stream: str, sdp: str, principal: str, local: bool = False) -> Session:
        """Answer an offer, and open a session.

        Args:
            sdp: The offer.
            principal: The owner of the session.
            local: Whether the viewer is on this machine, so that it may use loopback addresses.

        Raises:
            UsageError: The offer is damaged, or does not request video.
            NoPreviewError: The stream has no video now, or a limit of viewers is reached.
            NoCodecError: The player supports no available codec.
        """
        offer = read_offer(sdp)
        self._check_room(stream)
        self._begin()
        preview = self._preview(stream)
        self._arriving[stream] = self._arriving.get(stream, 0) + 1
        waiting = object()
        self._offers[waiting] = principal
        try:
            await preview.ready()
            if waiting not in self._offers:
                raise NoPreviewError(f"{stream}: the login has ended", "Log in again.")
            choice = preview.choose(offer)
            mode = "encoded" if choice.reason else "passthrough"
            sound, audio = preview.choose_sound(offer) or (None, None)
            facts = SessionFacts(stream, mode, choice.codec.name, choice.reason, choice.profile, audio)
            servers = self.settings.ice_servers
            session = Session(facts, principal, choice.feed, servers, self._clock, self._checks, local, self._port, self._ended)
            self._sessions[session.id] = session
            try:
                await session.accept(offer, choice.codec, choice.parameters, sound)
            except NoAddressError as error:
                session.end("there is no address for it")
                raise NoPreviewError(error.message, error.hint) from None
            except BaseException:
                session.end("the offer could not be answered")
                raise
            if session.id not in self._sessions:
                raise NoPreviewError(f"{stream}: the session has ended", "Send a new offer.")
        finally:
            self._offers.pop(waiting, None)
            self._arriving[stream] -= 1
            if not self._arriving[stream]:
                del self._arriving[stream]
            self._release(stream)
        self._opened += 1
        return session

    def session(self, stream: str, name: str, principal: str) -> Session:
        """Return a session.

        Raises:
            UnknownSessionError: This stream and principal have no session of this name.
        """
        session = self._sessions.get(name)
        if session is None or session.facts.stream != stream or session.principal != principal:
            raise UnknownSessionError(f"{stream}: unknown session", "It has ended, or never existed. Send a new offer.")
        return session

    def leave(self, principal: str) -> None:
        """End all sessions and offers of a principal that has logged out."""
        self._offers = {offer: owner for offer, owner in self._offers.items() if owner != principal}
        for session in list(self._sessions.values()):
            if session.principal == principal:
                session.end("the login has ended")

    async def close(self) -> None:
        """End all sessions."""
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
        ending = [session.end("the service is stopping") for session in list(self._sessions.values())]
        if ending:
            await asyncio.gather(*ending, return_exceptions=True)
        if self._port is not None:
            self._port.close()

    # Private

    def _preview(self, stream: str) -> StreamPreview:
        with self._lock:
            preview = self._streams.get(stream)
            if preview is None:
                preview = self._streams[stream] = StreamPreview(
                    stream, self.settings, self._clock, self._view, self._may_encode, self._gave_up
                )
            return preview

    def _may_encode(self) -> bool:
        return sum(len(preview.encoders) for preview in list(self._streams.values())) < self.settings.max_encoders

    def _soon(self, what: Callable[..., None], *arguments: object) -> None:
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(what, *arguments)

    def _begin(self) -> None:
        if self._closed:
            raise NoPreviewError("the service is stopping", "Try again after the restart.")
        if self._looking is None or self._looking.done():
            self._loop = asyncio.get_running_loop()
            self._looking = self._loop.create_task(self._look())

    async def _look(self) -> None:
        while self._sessions or self._arriving:
            await asyncio.sleep(LOOK_S)
            for session in list(self._sessions.values()):
                why = session.look()
                if why:
                    session.end(why)

    def _check_room(self, stream: str) -> None:
        settings = self.settings
        if not settings.enabled:
            raise NoPreviewError("the preview is disabled", "Set preview.enabled.")
        here = sum(session.facts.stream == stream for session in self._sessions.values()) + self._arriving.get(stream, 0)
        if len(self._sessions) + sum(self._arriving.values()) >= settings.max_viewers:
            self._drops["refused"] += 1
            raise NoPreviewError(f"the limit of {settings.max_viewers} viewers is reached", "See preview.max_viewers.")
        if here >= settings.max_viewers_per_stream:
            self._drops["refused"] += 1
            limit = settings.max_viewers_per_stream
            raise NoPreviewError(f"{stream}: the limit of {limit} viewers is reached", "See preview.max_viewers_per_stream.")

    def _gave_up(self, stream: str, feed: Feed, reason: str) -> None:
        """Move the viewers of a stream that can no longer be passed through to an encoder."""
        preview = self._streams.get(stream)
        for session in list(self._sessions.values()):
            if session.feed is feed:
                try:
                    if preview is None:
                        raise NoPreviewError(f"{stream}: the stream was removed")
                    session.move(preview.instead_of(feed, reason), reason)
                except NoPreviewError as error:
                    session.end(str(error))

    def _ended(self, session: Session) -> None:
        if self._sessions.pop(session.id, None) is None:
            return
        viewer = session.viewer
        if viewer is not None:
            self._packets += viewer.packets
            self._resent += viewer.resent
            self._restarts += viewer.restarts
            self._drops["slow_viewer"] += viewer.dropped
        self._release(session.facts.stream)

    def _release(self, stream: str) -> None:
        if stream in self._arriving or any(session.facts.stream == stream for session in self._sessions.values()):
            return
        with self._lock:
            preview = self._streams.get(stream)
        if preview is not None:
            self._drops["slow_loop"] += preview.behind
            self._drops["slow_encoder"] += preview.superseded
            self._drops["sound"] += preview.dropped_sound
            preview.release()

    def _check(self, stream: str) -> None:
        preview = self._streams.get(stream)
        if preview is not None and preview.outdated():
            self._end_stream(stream, preview)

    def _end_stream(self, stream: str, preview: StreamPreview) -> None:
        for session in list(self._sessions.values()):
            if session.facts.stream == stream:
                session.end("the stream was changed or removed")
        preview.release()
