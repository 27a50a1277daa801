"""The preview of one stream: passed through or encoded, from the URL for inference or from the main URL (``view``)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from vision_infer.config.preview import PreviewSettings
from vision_infer.core.clock import Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.core.packet import VideoFormat
from vision_infer.preview import h264
from vision_infer.preview.encoder import PROFILE, CodecName, EncodedFeed
from vision_infer.preview.feed import Feed, H264Packets, PassthroughFeed
from vision_infer.preview.media import By
from vision_infer.preview.offer import Codec, Offer
from vision_infer.preview.relay import Relay
from vision_infer.preview.view_reader import ViewReader
from vision_infer.stream.source import SourceSpec

FIRST_FRAME_S = 3.0
"""The time in which a stream must deliver its format, in seconds."""
_LOOK_S = 0.03
_PLAYED_PROFILES = (66, 77, 100)
_CODEC_NAMES = {
    "h264": "H.264",
    "hevc": "H.265",
    "mjpeg": "MJPEG",
    "mpeg4": "MPEG-4",
    "rawvideo": "uncompressed (the test pattern)",
}


class NoPreviewError(VisionInferError):
    """The stream cannot be shown now, because it has no video or a limit is reached."""


class NoCodecError(VisionInferError):
    """The player supports no codec in which the stream can be shown."""


@dataclass(frozen=True, slots=True)
class VideoChoice:
    """The feed and codec for one viewer."""

    feed: Feed
    codec: Codec
    profile_level_id: str
    """The H.264 profile for the answer; empty for other codecs."""
    reason: str
    """The reason for encoding; empty for passthrough."""


class StreamPreview:
    """The feeds of one stream. The relay is used by the stream's thread; everything else on the event loop only.

    Args:
        view: Returns the source of the stream's main URL, or None.
        may_encode: Returns whether one more encoder may start.
        gave_up: Called with a feed that can no longer be passed through, and the reason.
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
        """The relay of the URL for inference."""
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
        """The running encoders."""
        return [feed for feed in self._encoded.values() if feed.viewers]

    @property
    def behind(self) -> int:
        """The number of frames for which the event loop was too slow."""
        return sum(feed.behind for feed in (self._passed, *self._encoded.values()) if feed is not None)

    @property
    def superseded(self) -> int:
        """The number of frames for which an encoder was too slow."""
        return sum(feed.superseded for feed in self._encoded.values())

    async def ready(self) -> None:
        """Wait until the format of the video is known. This opens the main URL, if there is one.

        Raises:
            NoPreviewError: There is no video.
        """
        wanted = self._view(self.name)
        if self.outdated():
            self.release()
        if wanted is not None and self._reader is None:
            self._reader = ViewReader(wanted, Relay(), self._clock)
        limit_s = FIRST_FRAME_S + (0 if wanted is None else wanted.live.open_timeout_s)
        deadline = self._clock.monotonic_ns() + round(limit_s * 1e9)
        while True:
            relay, reader = self._source(), self._reader
            video = relay.video
            if video is not None and (video.codec != "h264" or facts_of(relay, video) is not None):
                return
            if video is None and reader is None:
                raise NoPreviewError(f"{self.name}: the stream has no video now", "Check the state of the stream.")
            if reader is not None and reader.problem:
                raise NoPreviewError(f"{self.name}: the main stream cannot be read: {reader.problem}", "Check its `view` URL.")
            if self._clock.monotonic_ns() > deadline:
                raise NoPreviewError(f"{self.name}: no key frame has arrived yet", "Try again in a few seconds.")
            await asyncio.sleep(_LOOK_S)

    def choose(self, offer: Offer) -> VideoChoice:
        """Choose the feed and codec for an offer.

        Raises:
            NoPreviewError: There is no video, or the limit of encoders is reached.
            NoCodecError: The player supports no available codec.
        """
        relay = self._source()
        video = relay.video
        if video is None:
            raise NoPreviewError(f"{self.name}: the stream has no video now", "Check the state of the stream.")
        facts = facts_of(relay, video)
        reason = self.why_encoded(relay, video, facts)
        if not reason and facts is not None:
            codec = offer.h264(facts.profile_level_id)
            if codec is not None:
                return VideoChoice(self._passthrough(), codec, offer.profile_for(codec, facts.profile_level_id), "")
            reason = f"the player does not support H.264 profile {facts.profile_level_id}"
        running = {feed.codec for feed in self.encoders}
        found: dict[CodecName, Codec | None] = {"H264": offer.h264(PROFILE), "VP8": offer.vp8()}
        for name, codec in sorted(found.items(), key=lambda item: item[0] not in running):
            if codec is not None:
                profile = offer.profile_for(codec, PROFILE) if name == "H264" else ""
                return VideoChoice(self.encoded(name), codec, profile, reason)
        raise NoCodecError(
            f"{self.name}: the player offers neither H.264 with packetization-mode=1 nor VP8",
            "Offer one of them: a=fmtp:NUMBER packetization-mode=1;profile-level-id=42e01f",
        )

    def encoded(self, codec: CodecName) -> EncodedFeed:
        """Return the encoder for a codec. It starts with its first viewer.

        Raises:
            NoPreviewError: The limit of encoders is reached.
        """
        feed = self._encoded.get(codec)
        if feed is None or not feed.viewers:
            if not self._may_encode():
                raise NoPreviewError(
                    f"{self.name}: the limit of {self._settings.max_encoders} encoders is reached", "See preview.max_encoders."
                )
            if feed is None:
                feed = EncodedFeed(self.name, self._source(), codec, self._settings, self._by, self._clock)
                self._encoded[codec] = feed
        return feed

    def outdated(self) -> bool:
        """Return whether the main URL that is being read has been changed or removed."""
        return self._reader is not None and self._reader.spec != self._view(self.name)

    def release(self) -> None:
        """Stop reading the main URL, and forget all feeds: there is no viewer."""
        if self._reader is not None:
            self._reader.stop()
            self._reader = None
        self._passed = None
        self._encoded = {}

    def why_encoded(self, relay: Relay, video: VideoFormat, facts: h264.SpsFacts | None) -> str:
        """Return why the video cannot be passed through; empty if it can."""
        if video.codec != "h264":
            return f"the stream is {_CODEC_NAMES.get(video.codec, video.codec)}"
        if relay.reordered:
            return "the stream has B-frames"
        if facts is None:
            return ""  # the parameter sets are not known yet
        if int(facts.profile_level_id[:2], 16) not in _PLAYED_PROFILES or not facts.eight_bits_420:
            return f"browsers do not play H.264 profile {facts.profile_level_id}"
        if facts.interlaced:
            return "the stream is interlaced"
        if facts.size.height > self._settings.max_height:
            return f"its height of {facts.size.height} pixels exceeds preview.max_height"
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
    """Return the facts of a stream's parameter sets; None if there are none yet, or it is not H.264."""
    if video.codec != "h264":
        return None
    packets = H264Packets(video)
    key = relay.key
    if key is not None:
        packets.units(key)
    return packets.facts
