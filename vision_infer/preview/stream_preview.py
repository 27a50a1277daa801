"""The preview of one stream: passed through or encoded, from the URL for inference or from the main URL (``view``)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from vision_infer.config.preview import PreviewSettings
from vision_infer.core.clock import Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.core.packet import VideoFormat
from vision_infer.preview.codecs.matching import Codec, answer_parameters, matching
from vision_infer.preview.codecs.payloads import Packets
from vision_infer.preview.codecs.registry import packets_of
from vision_infer.preview.encoder import ENCODED, CodecName, EncodedFeed
from vision_infer.preview.feed import Feed, PassthroughFeed
from vision_infer.preview.media import By
from vision_infer.preview.offer import Offer
from vision_infer.preview.relay import Relay
from vision_infer.preview.sound.sound_feed import SoundFeed, StreamSound
from vision_infer.preview.sound.sound_offer import read_sound
from vision_infer.preview.view_reader import ViewReader
from vision_infer.stream.browser import VideoFacts, passthrough
from vision_infer.stream.source import SourceSpec

FIRST_FRAME_S = 3.0
"""The time in which a stream must deliver its format, in seconds."""
_LOOK_S = 0.03


class NoPreviewError(VisionInferError):
    """The stream cannot be shown now, because it has no video or a limit is reached."""


class NoCodecError(VisionInferError):
    """The player supports no codec in which the stream can be shown."""


@dataclass(frozen=True, slots=True)
class VideoChoice:
    """The feed and codec for one viewer."""

    feed: Feed
    codec: Codec
    profile: str
    """The name of the profile, for example ``Main 10``; empty if the codec has none."""
    parameters: str
    """The format parameters for the answer."""
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
        self._sound = StreamSound(name)

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

    @property
    def dropped_sound(self) -> int:
        """The number of packets of sound for which the event loop or an encoder was too slow."""
        return self._sound.dropped

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
            if video is not None:
                packets = read_key(relay, video)
                if packets is None or packets.facts is not None or relay.key is not None:
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
        packets = read_key(relay, video)
        facts = None if packets is None else packets.facts
        reason = self.why_encoded(relay, video, facts)
        if not reason and facts is None:
            reason = "the headers of its key frames cannot be read"
        if not reason and packets is not None and facts is not None:
            codec = matching(offer.codecs, facts)
            if codec is not None:
                return _choice(self._passthrough(codec.name, facts), codec, facts, packets.sprop(), "")
            reason = f"the player does not support {facts}"
        running = {feed.codec for feed in self.encoders}
        for name, facts in sorted(ENCODED.items(), key=lambda item: item[0] not in running):
            codec = matching(offer.codecs, facts)
            if codec is not None:
                return _choice(self.encoded(name), codec, facts, "", reason)
        raise NoCodecError(
            f"{self.name}: the player offers neither H.264 with packetization-mode=1 nor VP8",
            "Offer one of them: a=fmtp:NUMBER packetization-mode=1;profile-level-id=42e01f",
        )

    def choose_sound(self, offer: Offer) -> tuple[SoundFeed, str] | None:
        """Choose the sound for an offer, and the name of its codec; None if the stream has no sound that the player plays."""
        wanted = read_sound(offer.sections)
        return None if wanted is None else self._sound.choose(self._source(), wanted.payload_types)

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
        self._sound = StreamSound(self.name)

    def instead_of(self, feed: Feed, reason: str) -> EncodedFeed:
        """Return the encoder for viewers of a feed that can no longer be passed through.

        Raises:
            NoPreviewError: The limit of encoders is reached, or the viewers have negotiated a codec without an encoder.
        """
        for name in ENCODED:
            if name == feed.codec:
                return self.encoded(name)
        raise NoPreviewError(f"{self.name}: {reason}", "A new offer gets encoded video.")

    def why_encoded(self, relay: Relay, video: VideoFormat, facts: VideoFacts | None) -> str:
        """Return why the video cannot be passed through; empty if it can. ``facts`` is None if they are not known yet."""
        return passthrough(facts or VideoFacts(video.codec), relay.reordered, self._settings.max_height).problem

    @property
    def _by(self) -> By:
        return "pts" if self._reader is None else "captured"

    def _source(self) -> Relay:
        return self.relay if self._reader is None else self._reader.relay

    def _passthrough(self, codec: str, facts: VideoFacts) -> PassthroughFeed:
        if self._passed is None or self._passed.over or self._passed.agreed != (facts.codec, facts.profile):
            self._passed = PassthroughFeed(
                codec,
                facts,
                self._source(),
                self._by,
                self.why_encoded,
                lambda feed, reason: self._gave_up(self.name, feed, reason),
                self._clock,
            )
        return self._passed


def read_key(relay: Relay, video: VideoFormat) -> Packets | None:
    """Return what converts a stream's packets after it has read the newest key frame; None if they cannot be passed through."""
    packets, key = packets_of(video), relay.key
    if packets is not None and key is not None:
        packets.payloads(key)
    return packets


def _choice(feed: Feed, codec: Codec, facts: VideoFacts, sprop: str, reason: str) -> VideoChoice:
    return VideoChoice(feed, codec, facts.profile, answer_parameters(codec, facts, sprop), reason)
