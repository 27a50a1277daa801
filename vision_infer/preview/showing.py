"""One stream and the ways in which it is shown: as it comes, or encoded; from the URL that is inferred, or from its main URL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from vision_infer.config.preview import PreviewSettings
from vision_infer.core.clock import Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.core.packet import VideoFormat
from vision_infer.preview import h264
from vision_infer.preview.encoder import PROFILE, CodecName, EncodedFeed, Wanted
from vision_infer.preview.feed import Feed, H264Pictures, PassthroughFeed
from vision_infer.preview.media import By
from vision_infer.preview.offer import Codec, Offer
from vision_infer.preview.relay import Relay
from vision_infer.preview.view_reader import ViewReader
from vision_infer.stream.source import SourceSpec

FIRST_PICTURE_S = 3.0
"""how long a stream may take until it has told what its pictures are"""
_LOOK_S = 0.03
_PLAYED_PROFILES = (66, 77, 100)
_CODEC_NAMES = {"h264": "H.264", "hevc": "H.265", "mjpeg": "MJPEG", "mpeg4": "MPEG-4", "rawvideo": "a pattern, not coded"}


class NoPreviewError(VisionInferError):
    """The stream cannot be shown now, and may be later; or there are as many viewers as may be."""


class NoCodecError(VisionInferError):
    """The viewer plays nothing that the stream can be shown in."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How a stream is shown to one viewer."""

    feed: Feed
    codec: Codec
    profile_level_id: str
    """for the answer; empty where it is not H.264"""
    reason: str
    """why it is encoded; empty where it is not"""


class Showing:
    """One stream. Its relay is for the stream's thread; everything else belongs to the event loop.

    Args:
        name: of the stream.
        settings: limits and sizes.
        clock: monotonic.
        view: says where the main URL of the stream is; None: it has none.
        may_encode: whether one more may be encoded.
        gave_up: called with a feed that cannot be passed on any more, and why.
    """

    def __init__(
        self,
        name: str,
        settings: PreviewSettings,
        clock: Clock,
        view: Callable[[str], SourceSpec | None],
        may_encode: Callable[[], bool],
        gave_up: Callable[[str, Feed, str], None],
    ) -> None:
        self.name = name
        self.relay = Relay()
        """of the URL that is inferred"""
        self._settings = settings
        self._clock = clock
        self._view = view
        self._may_encode = may_encode
        self._gave_up = gave_up
        self._reader: ViewReader | None = None
        self._passed: PassthroughFeed | None = None
        self._encoded: dict[CodecName, EncodedFeed] = {}

    @property
    def encoders(self) -> list[EncodedFeed]:
        """Those that run now."""
        return [feed for feed in self._encoded.values() if feed.viewers]

    @property
    def behind(self) -> int:
        """Pictures that the event loop was too slow for."""
        return sum(feed.behind for feed in (self._passed, *self._encoded.values()) if feed is not None)

    @property
    def superseded(self) -> int:
        """Frames that an encoder was too slow for."""
        return sum(feed.superseded for feed in self._encoded.values())

    async def ready(self) -> None:
        """Wait until it is known what the stream's pictures are; its main URL is opened for it.

        Raises:
            NoPreviewError: it gives none.
        """
        wanted = self._view(self.name)
        if self.outdated():
            self.release()
        if wanted is not None and self._reader is None:
            self._reader = ViewReader(wanted, Relay(), self._clock)
        limit_s = FIRST_PICTURE_S + (0 if wanted is None else wanted.live.open_timeout_s)
        deadline = self._clock.monotonic_ns() + round(limit_s * 1e9)
        while True:
            relay, reader = self._source(), self._reader
            video = relay.video
            if video is not None and (video.codec != "h264" or facts_of(relay, video) is not None):
                return
            if video is None and reader is None:
                raise NoPreviewError(f"{self.name}: no video comes now", "see the stream's state")
            if reader is not None and reader.problem:
                raise NoPreviewError(f"{self.name}: its main stream gives nothing: {reader.problem}", "check its `view`")
            if self._clock.monotonic_ns() > deadline:
                raise NoPreviewError(f"{self.name}: no key frame has come yet", "try again in a moment")
            await asyncio.sleep(_LOOK_S)

    def choose(self, offer: Offer) -> Choice:
        """How it is shown to whoever makes this offer.

        Raises:
            NoPreviewError: nothing comes, or it would have to be encoded, and enough is encoded already.
            NoCodecError: the viewer plays nothing of what there is.
        """
        relay = self._source()
        video = relay.video
        if video is None:
            raise NoPreviewError(f"{self.name}: no video comes now", "see the stream's state")
        facts = facts_of(relay, video)
        reason = self.why_encoded(relay, video, facts)
        if not reason and facts is not None:
            codec = offer.h264(facts.profile_level_id)
            if codec is not None:
                return Choice(self._passthrough(), codec, offer.profile_for(codec, facts.profile_level_id), "")
            reason = f"the player takes no H.264 of profile {facts.profile_level_id}"
        running = {feed.codec for feed in self.encoders}
        found: dict[CodecName, Codec | None] = {"H264": offer.h264(PROFILE), "VP8": offer.vp8()}
        for name, codec in sorted(found.items(), key=lambda one: one[0] not in running):
            if codec is not None:
                profile = offer.profile_for(codec, PROFILE) if name == "H264" else ""
                return Choice(self.encoded(name), codec, profile, reason)
        raise NoCodecError(f"{self.name}: the player takes neither H.264 nor VP8", "use another")

    def encoded(self, codec: CodecName) -> EncodedFeed:
        """The encode for this codec; it begins with its first viewer.

        Raises:
            NoPreviewError: enough is encoded already.
        """
        feed = self._encoded.get(codec)
        if feed is None or not feed.viewers:
            if not self._may_encode():
                raise NoPreviewError(f"{self.name}: {self._settings.max_encoders} videos are encoded already", "try again later")
            if feed is None:
                settings = self._settings
                wanted = Wanted(codec, settings.encode_height, settings.encode_fps, settings.encode_kbit_s)
                feed = self._encoded[codec] = EncodedFeed(self.name, self._source(), wanted, self._by, self._clock)
        return feed

    def outdated(self) -> bool:
        """Whether its main URL is read, and is another by now, or none."""
        return self._reader is not None and self._reader.spec != self._view(self.name)

    def release(self) -> None:
        """Nobody watches any more."""
        if self._reader is not None:
            self._reader.stop()
            self._reader = None
        self._passed = None
        self._encoded = {}

    def why_encoded(self, relay: Relay, video: VideoFormat, facts: h264.SpsFacts | None) -> str:
        """Why it cannot be passed on as it is; empty where it can."""
        if video.codec != "h264":
            return f"the stream is {_CODEC_NAMES.get(video.codec, video.codec)}"
        if relay.reordered:
            return "the stream has B-frames"
        if facts is None:
            return ""  # nothing has said yet that it cannot
        if int(facts.profile_level_id[:2], 16) not in _PLAYED_PROFILES or not facts.eight_bits_420:
            return f"browsers play no H.264 of profile {facts.profile_level_id}"
        if facts.interlaced:
            return "the stream is interlaced"
        if facts.size.height > self._settings.max_height:
            return f"it has {facts.size.height} lines, more than preview.max_height"
        return ""

    @property
    def _by(self) -> By:
        return "pts" if self._reader is None else "captured"

    def _source(self) -> Relay:
        return self.relay if self._reader is None else self._reader.relay

    def _passthrough(self) -> PassthroughFeed:
        if self._passed is None or self._passed.over:
            self._passed = PassthroughFeed(
                self._source(),
                self._by,
                self.why_encoded,
                lambda feed, reason: self._gave_up(self.name, feed, reason),
                self._clock,
            )
        return self._passed


def facts_of(relay: Relay, video: VideoFormat) -> h264.SpsFacts | None:
    """What a stream's parameter sets tell; None where it has sent none yet, or is not H.264."""
    if video.codec != "h264":
        return None
    pictures = H264Pictures(video)
    key = relay.key
    if key is not None:
        pictures.units(key)
    return pictures.facts
