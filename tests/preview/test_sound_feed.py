"""The queues of sound are bounded: the oldest packets are dropped and counted."""

from __future__ import annotations

import asyncio
from typing import Any

from vision_infer.core.packet import SoundFormat, SoundPacket, VideoFormat
from vision_infer.preview.relay import Relay
from vision_infer.preview.sound.sound_feed import SoundFeed, StreamSound
from vision_infer.preview.sound.sound_frame import SoundFrame

PCMU = VideoFormat("h264", sound=SoundFormat("pcm_mulaw", 8000, 1))


class Listener:
    """Keeps what a feed sends."""

    def __init__(self) -> None:
        self.frames: list[SoundFrame] = []

    def push(self, frame: SoundFrame) -> None:
        self.frames.append(frame)


def packet(number: int) -> SoundPacket:
    return SoundPacket(memoryview(bytes([number] * 160)), number * 20_000_000)


def test_old_sound_is_dropped_when_the_event_loop_is_slow() -> None:
    async def run() -> None:
        relay, listener = Relay(), Listener()
        relay.opened(PCMU)
        feed = SoundFeed("door", relay, always_opus=False)
        feed.join(listener)  # type: ignore[arg-type]
        for number in range(100):  # the event loop does not run meanwhile
            relay.sound(packet(number))
        await asyncio.sleep(0.01)
        assert [frame.payload[0] for frame in listener.frames] == list(range(68, 100))
        assert feed.dropped == 68
        feed.leave(listener)  # type: ignore[arg-type]
        assert not relay.wants_sound()

    asyncio.run(run())


def test_the_sound_of_a_reconnected_camera_may_have_another_codec() -> None:
    async def run() -> None:
        relay, listener = Relay(), Listener()
        relay.opened(PCMU)
        feed = SoundFeed("door", relay, always_opus=False)
        feed.join(listener)  # type: ignore[arg-type]
        relay.sound(packet(1))
        relay.opened(VideoFormat("h264", sound=SoundFormat("pcm_alaw", 8000, 1)))
        relay.sound(packet(2))
        relay.opened(VideoFormat("h264"))
        relay.sound(packet(3))
        await asyncio.sleep(0.01)
        assert [frame.codec.name for frame in listener.frames] == ["PCMU", "PCMA"]

    asyncio.run(run())


def test_sound_that_cannot_be_decoded_is_reported_once(caplog: Any) -> None:
    async def run() -> None:
        relay, listener = Relay(), Listener()
        relay.opened(VideoFormat("h264", sound=SoundFormat("no-such-codec", 8000, 1)))
        feed = SoundFeed("door", relay, always_opus=False)
        feed.join(listener)  # type: ignore[arg-type]
        for number in range(5):
            relay.sound(packet(number))
            await asyncio.sleep(0.02)
        assert not listener.frames
        feed.leave(listener)  # type: ignore[arg-type]

    asyncio.run(run())
    assert [record.getMessage() for record in caplog.records if "cannot be encoded" in record.getMessage()] == [
        "door: its sound (no-such-codec) cannot be encoded for viewers: no-such-codec"
    ]


def test_each_player_gets_a_codec_that_it_accepts() -> None:
    async def run() -> None:
        relay, sound = Relay(), StreamSound("door")
        assert sound.choose(relay, {"opus"}) is None, "the stream is not open"
        relay.opened(PCMU)
        own, own_name = sound.choose(relay, {"opus", "PCMU"}) or (None, "")
        opus, opus_name = sound.choose(relay, {"opus"}) or (None, "")
        assert (own_name, opus_name) == ("PCMU", "opus")
        assert own is not opus, "the other viewers keep the camera's packets"
        assert sound.choose(relay, {"opus", "PCMU"}) == (own, "PCMU"), "all viewers share a feed"
        assert sound.choose(relay, {"G722"}) is None
        relay.opened(VideoFormat("h264", sound=SoundFormat("adpcm_g726le", 8000, 1)))
        assert sound.choose(relay, {"opus", "PCMU"}) is None, "it cannot be decoded, so that no button is shown for it"

    asyncio.run(run())
