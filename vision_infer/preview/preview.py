"""Live video for viewers, within limits: who watches what, and what has become of it."""

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
from vision_infer.preview.showing import NoCodecError, NoPreviewError, Showing
from vision_infer.stream.source import SourceSpec

__all__ = ["NoCodecError", "NoPreviewError", "Preview", "PreviewCounts", "UnknownSessionError"]

LOOK_S = 1.0


class UnknownSessionError(VisionInferError):
    """There is no such session, or it is somebody else's."""


@dataclass(frozen=True, slots=True)
class PreviewCounts:
    """What is watched now, and what has happened since the start."""

    viewers: Mapping[str, int]
    """now, by stream"""
    encoders: int
    """now"""
    sessions: int
    packets: int
    """RTP packets, without those that were sent again"""
    resent: int
    restarts: int
    """groups of pictures that were sent again, for a viewer that had lost the picture"""
    drops: Mapping[str, int]
    """pictures, and offers that were refused, by reason"""


class Preview:
    """All viewers of a service.

    :meth:`relay`, :meth:`changed`, :meth:`forget`, :meth:`counts` and :meth:`stop` may be called from any thread; everything else
    belongs to the event loop of the web server.

    Args:
        settings: limits and sizes.
        view: says where the main URL of a stream is; None: it has none.
        clock: monotonic and wall time.
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
        self._lock = threading.Lock()
        self._showings: dict[str, Showing] = {}
        self._sessions: dict[str, Session] = {}
        self._arriving: dict[str, int] = {}
        """offers that are being answered, by stream"""
        self._opened = 0
        self._packets = self._resent = self._restarts = 0
        self._drops = {"slow_viewer": 0, "slow_loop": 0, "slow_encoder": 0, "refused": 0}
        self._looking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    # From any thread

    def relay(self, stream: str) -> Relay:
        """Where the packets and frames of a stream go."""
        return self._showing(stream).relay

    def changed(self, stream: str) -> None:
        """A stream has other settings: who watches its main URL ends, where that is another now."""
        self._soon(self._check, stream)

    def forget(self, stream: str) -> None:
        """A stream is no more."""
        with self._lock:
            showing = self._showings.pop(stream, None)
        if showing is not None:
            self._soon(self._end_stream, stream, showing)

    def counts(self) -> PreviewCounts:
        """How it is now."""
        sessions, showings = list(self._sessions.values()), list(self._showings.values())
        viewers: dict[str, int] = {showing.name: 0 for showing in showings}
        for session in sessions:
            viewers[session.facts.stream] = viewers.get(session.facts.stream, 0) + 1
        now = [session.viewer for session in sessions if session.viewer is not None]
        drops = dict(self._drops)
        drops["slow_viewer"] += sum(viewer.dropped for viewer in now)
        drops["slow_loop"] += sum(showing.behind for showing in showings)
        drops["slow_encoder"] += sum(showing.superseded for showing in showings)
        return PreviewCounts(
            viewers,
            sum(len(showing.encoders) for showing in showings),
            self._opened,
            self._packets + sum(viewer.packets for viewer in now),
            self._resent + sum(viewer.resent for viewer in now),
            self._restarts + sum(viewer.restarts for viewer in now),
            drops,
        )

    def stop(self, timeout_s: float = 2.0) -> None:
        """Send all viewers away, waiting for it so long."""
        self._closed = True
        loop = self._loop
        if loop is not None and loop.is_running():
            with suppress(Exception):
                asyncio.run_coroutine_threadsafe(self.close(), loop).result(timeout_s)

    # On the event loop

    async def offer(self, stream: str, sdp: str, principal: str) -> Session:
        """Let somebody watch.

        Raises:
            UsageError: the offer is damaged, or asks for no video.
            NoPreviewError: the stream gives nothing now, or there are too many viewers.
            NoCodecError: the viewer plays nothing of what there is.
        """
        offer = read_offer(sdp)
        self._check_room(stream)
        self._begin()
        showing = self._showing(stream)
        self._arriving[stream] = self._arriving.get(stream, 0) + 1
        try:
            await showing.ready()
            choice = showing.choose(offer)
            mode = "encoded" if choice.reason else "passthrough"
            facts = SessionFacts(stream, mode, choice.codec.name, choice.reason, choice.profile_level_id)
            session = Session(facts, principal, choice.feed, self.settings.ice_servers, self._clock, self._ended)
            self._sessions[session.id] = session
            try:
                await session.accept(offer, choice.codec, choice.profile_level_id)
            except BaseException:
                session.end("its offer could not be answered")
                raise
        finally:
            self._arriving[stream] -= 1
            if not self._arriving[stream]:
                del self._arriving[stream]
            self._release(stream)
        self._opened += 1
        return session

    def session(self, stream: str, name: str, principal: str) -> Session:
        """A session.

        Raises:
            UnknownSessionError: there is none of this name, for this stream and principal.
        """
        session = self._sessions.get(name)
        if session is None or session.facts.stream != stream or session.principal != principal:
            raise UnknownSessionError(f"{stream}: there is no such session", "it has ended, or was never there")
        return session

    def leave(self, principal: str) -> None:
        """Somebody is not logged in any more: what was watched in that name ends."""
        for session in list(self._sessions.values()):
            if session.principal == principal:
                session.end("its login has ended")

    async def close(self) -> None:
        """Send all viewers away."""
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
        ending = [session.end("the service stops") for session in list(self._sessions.values())]
        if ending:
            await asyncio.gather(*ending, return_exceptions=True)

    # Inside

    def _showing(self, stream: str) -> Showing:
        with self._lock:
            showing = self._showings.get(stream)
            if showing is None:
                showing = self._showings[stream] = Showing(
                    stream, self.settings, self._clock, self._view, self._may_encode, self._gave_up
                )
            return showing

    def _may_encode(self) -> bool:
        return sum(len(showing.encoders) for showing in list(self._showings.values())) < self.settings.max_encoders

    def _soon(self, what: Callable[..., None], *arguments: object) -> None:
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(what, *arguments)

    def _begin(self) -> None:
        if self._closed:
            raise NoPreviewError("the service is stopping", "try again when it is back")
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
            raise NoPreviewError("there is no preview here", "set preview.enabled")
        here = sum(session.facts.stream == stream for session in self._sessions.values()) + self._arriving.get(stream, 0)
        if len(self._sessions) + sum(self._arriving.values()) >= settings.max_viewers:
            self._drops["refused"] += 1
            raise NoPreviewError(f"{settings.max_viewers} viewers watch already", "see preview.max_viewers")
        if here >= settings.max_viewers_per_stream:
            self._drops["refused"] += 1
            most = settings.max_viewers_per_stream
            raise NoPreviewError(f"{stream}: {most} viewers watch already", "see preview.max_viewers_per_stream")

    def _gave_up(self, stream: str, feed: Feed, reason: str) -> None:
        """A stream cannot be passed on any more: who watches it goes on with an encode of it."""
        showing = self._showings.get(stream)
        for session in list(self._sessions.values()):
            if session.feed is feed:
                try:
                    if showing is None:
                        raise NoPreviewError(f"{stream}: is no more")
                    session.move(showing.encoded("H264"), "encoded", reason)
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
            showing = self._showings.get(stream)
        if showing is not None:
            self._drops["slow_loop"] += showing.behind
            self._drops["slow_encoder"] += showing.superseded
            showing.release()

    def _check(self, stream: str) -> None:
        showing = self._showings.get(stream)
        if showing is not None and showing.outdated():
            self._end_stream(stream, showing)

    def _end_stream(self, stream: str, showing: Showing) -> None:
        for session in list(self._sessions.values()):
            if session.facts.stream == stream:
                session.end("the stream is another now, or no more")
        showing.release()
