"""The sound of one stream on its way to its listeners: passed through, or encoded once for all of them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Collection
from functools import lru_cache

import av
from av.audio.codeccontext import AudioCodecContext

from vision_infer.core.packet import SoundFormat, SoundPacket
from vision_infer.preview.relay import ConnectionOpened, Relay
from vision_infer.preview.sound.sound_frame import OPUS, SoundFrame, frames_of, own_codec
from vision_infer.preview.sound.sound_sender import SoundSender
from vision_infer.sink.sound import Recoder
from vision_infer.stream.ffmpeg_log import SourceLog

_MAX_WAITING = 32
"""The maximum number of packets that wait for the encoder, and for the event loop; the oldest are dropped."""
_BIT_RATE = 48_000

_log = logging.getLogger("vision_infer.preview")


class SoundFeed:
    """The sound of a stream for some of its viewers. It is used on the event loop, apart from the methods for threads.

    Args:
        name: The name of the stream.
        always_opus: Whether sound is also encoded that other browsers play unmodified.
    """

    def __init__(self, name: str, relay: Relay, always_opus: bool) -> None:
        self.listeners: list[SoundSender] = []
        self.dropped = 0
        """The number of packets that were dropped because the encoder, the event loop or a viewer was too slow."""
        self._name = name
        self._relay = relay
        self._always_opus = always_opus
        self._loop = asyncio.get_running_loop()
        self._sound: SoundFormat | None = None
        self._frames: deque[SoundFrame] = deque(maxlen=_MAX_WAITING)
        self._awaited = False
        self._packets: deque[tuple[SoundFormat, SoundPacket]] = deque()
        # Guards _packets and _encoding: the stream's thread adds packets, the encoder's thread takes them.
        self._came = threading.Condition()
        self._encoding: threading.Event | None = None
        """Ends the encoder's thread; None while there is none."""

    def join(self, listener: SoundSender) -> None:
        """Add a listener. The first one starts the feed."""
        if listener not in self.listeners:
            self.listeners.append(listener)
            if len(self.listeners) == 1:
                video = self._relay.watch_sound(self._from_stream)
                self._sound = None if video is None else video.sound

    def leave(self, listener: SoundSender) -> None:
        """Remove a listener. The last one stops the feed."""
        if listener in self.listeners:
            self.listeners.remove(listener)
            if not self.listeners:
                self._relay.forget(self._from_stream)
                self._frames.clear()
                with self._came:
                    self._packets.clear()
                    if self._encoding is not None:
                        self._encoding.set()
                        self._encoding = None
                    self._came.notify_all()

    # For threads

    def _from_stream(self, event: ConnectionOpened | SoundPacket) -> None:
        """Take a packet, on the stream's thread."""
        if isinstance(event, ConnectionOpened):
            self._sound = event.video.sound
            return
        sound = self._sound
        if sound is None:
            return
        own = own_codec(sound)
        if own is not None and (own is OPUS or not self._always_opus):
            for frame in frames_of(own, event):
                self._pass_on(frame)
            return
        with self._came:
            if len(self._packets) >= _MAX_WAITING:
                self._packets.popleft()
                self.dropped += 1
            self._packets.append((sound, event))
            if self._encoding is None and self.listeners:
                self._encoding = threading.Event()
                threading.Thread(target=self._encode, args=(self._encoding,), name=f"sound-{self._name}", daemon=True).start()
            self._came.notify()

    def _encode(self, ending: threading.Event) -> None:
        """Encode packets until the end, on the encoder's thread."""
        log = SourceLog(self._name)
        log.use_thread()
        known: SoundFormat | None = None
        recoder: Recoder | None = None
        while True:
            with self._came:
                while not self._packets and not ending.is_set():
                    self._came.wait()
                if ending.is_set():
                    log.close()
                    return
                sound, packet = self._packets.popleft()
            if sound != known:
                known, recoder = sound, Recoder(sound, _opus_encoder()) if _can_encode(self._name, sound) else None
            if recoder is not None:
                for coded in recoder.recode(packet):
                    for frame in frames_of(OPUS, coded):
                        self._pass_on(frame)

    def _pass_on(self, frame: SoundFrame) -> None:
        """Pass a payload to the event loop."""
        self.dropped += len(self._frames) == _MAX_WAITING
        self._frames.append(frame)  # this drops the oldest of too many; the event loop may empty the queue at any time
        if not self._awaited:
            self._awaited = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:  # the loop has ended
                self._relay.forget(self._from_stream)

    def _drain(self) -> None:
        self._awaited = False
        while self._frames:
            frame = self._frames.popleft()
            for listener in self.listeners:
                listener.push(frame)


class StreamSound:
    """The feeds of one stream: one for players that accept its own codec, and one for others."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._feeds: dict[bool, SoundFeed] = {}

    @property
    def dropped(self) -> int:
        """The number of packets that were dropped."""
        return sum(feed.dropped for feed in self._feeds.values())

    def choose(self, relay: Relay, offered: Collection[str]) -> tuple[SoundFeed, str] | None:
        """Choose the feed for a player, and the name of the codec; None if the stream has no sound that it plays.

        Args:
            offered: The names of the codecs that the player accepts.
        """
        sound = None if relay.video is None else relay.video.sound
        if sound is None:
            return None
        own = own_codec(sound)
        if own is not None and own.name in offered:
            return self._feed(relay, False), own.name
        if OPUS.name not in offered or not _can_encode(self._name, sound):
            return None
        return self._feed(relay, own is not None), OPUS.name

    def _feed(self, relay: Relay, always_opus: bool) -> SoundFeed:
        if always_opus not in self._feeds:
            self._feeds[always_opus] = SoundFeed(self._name, relay, always_opus)
        return self._feeds[always_opus]


@lru_cache(maxsize=256)
def _can_encode(name: str, sound: SoundFormat) -> bool:
    """Return whether sound can be encoded; the reason why it cannot is logged once per stream."""
    try:
        Recoder(sound, _opus_encoder())
    except (av.error.FFmpegError, ValueError, OSError) as error:
        _log.warning("%s: its sound (%s) cannot be encoded for viewers: %s", name, sound.codec, error)
        return False
    return True


def _opus_encoder() -> AudioCodecContext:
    encoder = av.CodecContext.create("libopus", "w")
    assert isinstance(encoder, AudioCodecContext)
    encoder.sample_rate, encoder.format, encoder.bit_rate = OPUS.rate, "s16", _BIT_RATE
    encoder.options = {"frame_duration": "20", "compression_level": "5"}
    return encoder
