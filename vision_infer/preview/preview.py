"""Live video for viewers: which stream is shown to whom, as it is or encoded, within limits."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from vision_infer.config.serve import PreviewSettings
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.core.packet import VideoFormat
from vision_infer.preview import h264
from vision_infer.preview.feed import Feed, H264Pictures, PassthroughFeed
from vision_infer.preview.offer import Codec, read_offer
from vision_infer.preview.relay import Relay
from vision_infer.preview.session import Session, SessionFacts

LOOK_S = 1.0
_PLAYED_PROFILES = (66, 77, 100)
_CODEC_NAMES = {"h264": "H.264", "hevc": "H.265", "mjpeg": "MJPEG", "rawvideo": "raw pictures"}

_log = logging.getLogger("vision_infer.preview")


class NoPreviewError(VisionInferError):
    """The stream cannot be shown now, and may be later; or there are as many viewers as may be."""


class NoCodecError(VisionInferError):
    """The viewer plays nothing that the stream can be shown in."""


class UnknownSessionError(VisionInferError):
    """There is no such session, or it is somebody else's."""


@dataclass(slots=True)
class PreviewCounts:
    """What has happened since the start."""

    sessions: int = 0
    packets: int = 0
    resent: int = 0
    restarts: int = 0
    drops: dict[str, int] = field(default_factory=lambda: {"slow_viewer": 0, "behind": 0, "refused": 0})


class Preview:
    """All viewers of a service.

    :meth:`relay` is for the streams' threads; everything else belongs to the event loop of the web server.

    Args:
        settings: limits and sizes.
        clock: monotonic and wall time.
    """

    def __init__(self, settings: PreviewSettings, clock: Clock = SYSTEM_CLOCK) -> None:
        self.settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._relays: dict[str, Relay] = {}
        self._sessions: dict[str, Session] = {}
        self._feeds: dict[tuple[str, str], Feed] = {}
        self._gone = PreviewCounts()
        self._looking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    # For the streams' threads

    def relay(self, stream: str) -> Relay:
        """Where the packets and frames of a stream go."""
        with self._lock:
            return self._relays.setdefault(stream, Relay())

    def forget(self, stream: str) -> None:
        """A stream is no more."""
        with self._lock:
            self._relays.pop(stream, None)
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._end_stream, stream)

    # For the routes

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
        relay = self._relays.get(stream)
        video = None if relay is None else relay.video
        if relay is None or video is None:
            raise NoPreviewError(f"{stream}: no video comes now", "see the stream's state")
        facts = _facts(relay, video)
        reason = self._why_encoded(relay, video, facts)
        codec: Codec | None = None
        profile = ""
        if not reason:
            assert facts is not None
            codec = offer.h264(facts.profile_level_id)
            if codec is None:
                reason = f"the player takes no H.264 of profile {facts.profile_level_id}"
            else:
                profile = offer.profile_for(codec, facts.profile_level_id)
        feed = self._passthrough(stream, relay)
        if codec is None:
            raise NoCodecError(f"{stream}: {reason}", "nothing is encoded here")
        session = Session(
            SessionFacts(stream, "encoded" if reason else "passthrough", codec.name, reason, profile),
            principal,
            feed,
            self.settings.ice_servers,
            self._clock,
            self._ended,
        )
        self._sessions[session.id] = session
        try:
            await session.accept(offer, codec, profile)
        except BaseException:
            session.end("its offer could not be answered")
            raise
        self._gone.sessions += 1
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

    def viewers(self) -> Mapping[str, int]:
        """How many watch, by stream."""
        counts: dict[str, int] = {}
        for session in list(self._sessions.values()):
            counts[session.facts.stream] = counts.get(session.facts.stream, 0) + 1
        return counts

    async def close(self) -> None:
        """Send all viewers away."""
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
        ending = [session.end("the service stops") for session in list(self._sessions.values())]
        if ending:
            await asyncio.gather(*ending, return_exceptions=True)

    def stop(self, timeout_s: float = 2.0) -> None:
        """The same, from any thread, waiting for it so long."""
        self._closed = True
        if self._loop is not None and self._loop.is_running():
            with suppress(Exception):
                asyncio.run_coroutine_threadsafe(self.close(), self._loop).result(timeout_s)

    # Inside

    def _begin(self) -> None:
        if self._closed:
            raise NoPreviewError("the service is stopping", "try again when it is back")
        if self._looking is None or self._looking.done():
            self._loop = asyncio.get_running_loop()
            self._looking = self._loop.create_task(self._look())

    async def _look(self) -> None:
        while self._sessions:
            await asyncio.sleep(LOOK_S)
            for session in list(self._sessions.values()):
                why = session.look()
                if why:
                    session.end(why)

    def _check_room(self, stream: str) -> None:
        settings = self.settings
        if not settings.enabled:
            raise NoPreviewError("there is no preview here", "set preview.enabled")
        if len(self._sessions) >= settings.max_viewers:
            self._gone.drops["refused"] += 1
            raise NoPreviewError(f"{settings.max_viewers} viewers watch already", "see preview.max_viewers")
        if self.viewers().get(stream, 0) >= settings.max_viewers_per_stream:
            self._gone.drops["refused"] += 1
            raise NoPreviewError(
                f"{stream}: {settings.max_viewers_per_stream} viewers watch already", "see preview.max_viewers_per_stream"
            )

    def _why_encoded(self, relay: Relay, video: VideoFormat, facts: h264.SpsFacts | None) -> str:
        """Why a stream cannot be passed on as it is; empty where it can."""
        if video.codec != "h264":
            return f"the stream is {_CODEC_NAMES.get(video.codec, video.codec)}"
        if relay.reordered:
            return "the stream has B-frames"
        if facts is None:
            return "the stream has told no parameter set yet"
        if int(facts.profile_level_id[:2], 16) not in _PLAYED_PROFILES or not facts.eight_bits_420:
            return f"browsers play no H.264 of profile {facts.profile_level_id}"
        if facts.interlaced:
            return "the stream is interlaced"
        if facts.size.height > self.settings.max_height:
            return f"{facts.size.height} lines are more than preview.max_height"
        return ""

    def _passthrough(self, stream: str, relay: Relay) -> PassthroughFeed:
        key = (stream, "passthrough")
        feed = self._feeds.get(key)
        if not isinstance(feed, PassthroughFeed) or feed.over:
            feed = self._feeds[key] = PassthroughFeed(relay, "pts", self._why_encoded, self._gave_up, self._clock)
        return feed

    def _gave_up(self, feed: PassthroughFeed, reason: str) -> None:
        for session in list(self._sessions.values()):
            if session.feed is feed:
                session.end(reason)

    def _ended(self, session: Session) -> None:
        self._sessions.pop(session.id, None)
        viewer = session.viewer
        if viewer is not None:
            self._gone.packets += viewer.packets
            self._gone.resent += viewer.resent
            self._gone.restarts += viewer.restarts
            self._gone.drops["slow_viewer"] += viewer.dropped

    def _end_stream(self, stream: str) -> None:
        for session in list(self._sessions.values()):
            if session.facts.stream == stream:
                session.end("the stream is no more")


def _facts(relay: Relay, video: VideoFormat) -> h264.SpsFacts | None:
    if video.codec != "h264":
        return None
    pictures = H264Pictures(video)
    group = relay.group()
    if group:
        pictures.units(group[0])
    return pictures.facts
