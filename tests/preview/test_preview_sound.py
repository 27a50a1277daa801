"""Sound of real cameras reaches WebRTC players: unmodified if they play it, else as Opus, and never at the cost of the video."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.preview.watching import LIMIT_S, Stream, Watcher, watch
from tests.support.cameras import ClockMount, RtspServer, Sound
from vision_infer.config.preview import PreviewSettings
from vision_infer.core.packet import SoundPacket
from vision_infer.preview.preview import Preview

TONE_HZ = 1000
CODECS: tuple[Sound, ...] = ("pcmu", "pcma", "opus", "aac")
MOUNTS = [ClockMount(f"/{codec}", sound=codec, tone_hz=TONE_HZ, width=320, height=180) for codec in CODECS]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not true():
            await asyncio.sleep(0.02)


def frequency(frames: list[Any]) -> float:
    """Return the strongest frequency of decoded sound, Hz."""
    samples = np.concatenate([frame.to_ndarray().reshape(-1, len(frame.layout.channels))[:, 0] for frame in frames])
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum[5:]) + 5) * frames[0].sample_rate / len(samples)


def ask(watcher: Watcher, on: bool) -> None:
    watcher.channel.send(json.dumps({"sound": on}))


class Tape:
    """Records the sound that a camera sends, next to the preview."""

    def __init__(self, preview: Preview, stream: str) -> None:
        self.packets: list[SoundPacket] = []
        preview.relay(stream).watch_sound(lambda event: isinstance(event, SoundPacket) and self.packets.append(event))


@pytest.fixture(scope="module")
def cameras() -> Any:
    with RtspServer(*MOUNTS, ClockMount("/silent", width=320, height=180)) as server:
        yield server


@pytest.mark.parametrize(("codec", "sent"), [("pcmu", "PCMU"), ("pcma", "PCMA"), ("opus", "opus"), ("aac", "opus")])
def test_a_player_hears_the_tone_of_the_camera(cameras: RtspServer, codec: str, sent: str) -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings())
        tape = Tape(preview, "door")
        with Stream(preview, cameras.url(f"/{codec}")):
            await until(lambda: preview.relay("door").key is not None)
            watcher = await watch(preview, data=False, sound=True)
            assert watcher.session.facts.audio == sent
            await until(lambda: len(watcher.heard) >= 60 and len(watcher.frames) >= 15)
            await watcher.peer.close()
            await preview.close()
        assert frequency(watcher.heard[20:]) == pytest.approx(TONE_HZ, abs=20)
        camera = [bytes(packet.data) for packet in tape.packets]
        if codec == "aac":
            assert not set(watcher.payloads) & set(camera)
        else:
            parts = [camera[begin : begin + len(watcher.payloads)] for begin in range(len(camera))]
            assert watcher.payloads in parts, "unmodified, in order, without loss"
        steps = set(np.diff(watcher.sound_times))
        assert steps == {160 if sent.startswith("PCM") else 960}, "20 ms each, without gaps"

    asyncio.run(run())


def test_a_player_with_a_data_channel_hears_sound_when_it_requests_it(cameras: RtspServer) -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings())
        relay = preview.relay("door")
        with Stream(preview, cameras.url("/aac")):
            await until(lambda: relay.video is not None)
            watcher = await watch(preview, sound=True)
            await watcher.has(15)
            await until(lambda: watcher.channel is not None)
            assert not watcher.payloads
            assert not relay.wants_sound(), "the demuxer drops sound that nobody hears"
            for nonsense in ("{", "[]", '{"sound": 1}', "[" * 100_000, b"\xff"):
                watcher.channel.send(nonsense)
            ask(watcher, True)
            await until(lambda: len(watcher.payloads) > 10)
            names = [thread.name for thread in threading.enumerate()]
            assert names.count("sound-door") == 1
            ask(watcher, False)
            await until(lambda: not relay.wants_sound())
            await until(lambda: "sound-door" not in [thread.name for thread in threading.enumerate()])
            await asyncio.sleep(0.2)  # packets on their way
            heard = len(watcher.payloads)
            await watcher.has(15)
            assert len(watcher.payloads) == heard
            await watcher.peer.close()
            await preview.close()

    asyncio.run(run())


def test_one_encoder_serves_all_listeners_and_ends_with_them(cameras: RtspServer) -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings())
        with Stream(preview, cameras.url("/aac")):
            await until(lambda: preview.relay("door").video is not None)
            watchers = [await watch(preview, data=False, sound=True) for _ in range(3)]
            await until(lambda: all(len(watcher.payloads) > 50 for watcher in watchers))
            assert [thread.name for thread in threading.enumerate()].count("sound-door") == 1
            last = [watcher.payloads[-20:] for watcher in watchers]
            assert set(last[0]) & set(last[1]) & set(last[2]), "the same packets"
            for watcher in watchers:
                await watcher.peer.close()
            await preview.close()
            await until(lambda: "sound-door" not in [thread.name for thread in threading.enumerate()])

    asyncio.run(run())


def test_the_reports_of_video_and_sound_follow_one_clock(cameras: RtspServer) -> None:
    """The sender reports of both map RTP times to the same capture times, so that players show both in step."""

    async def run() -> None:
        preview = Preview(PreviewSettings())
        with Stream(preview, cameras.url("/pcmu")):
            await until(lambda: preview.relay("door").video is not None)
            watcher = await watch(preview, data=False, sound=True)
            await until(lambda: len(watcher.payloads) > 50 and len(watcher.frames) > 10)
            video, sound = watcher.session._peer.getSenders()
            sections = watcher.session.answer.split("m=audio")
            streams = [section.split("a=msid:")[1].split()[0] for section in sections]
            names = [section.split("cname:")[1].split()[0] for section in sections]
            assert streams[0] == streams[1]
            assert names[0] == names[1]
            ages = []
            for sender in (video, sound):
                ntp = sender._RTCRtpSender__ntp_timestamp  # type: ignore[attr-defined]
                ages.append(time.time() - ((ntp >> 32) - 2_208_988_800 + (ntp & 0xFFFFFFFF) / 2**32))
            assert all(0 <= age < 1 for age in ages), ages
            assert abs(ages[0] - ages[1]) < 0.15, ages
            await watcher.peer.close()
            await preview.close()

    asyncio.run(run())


@pytest.mark.parametrize(("path", "sound"), [("/silent", True), ("/pcmu", False)])
def test_without_sound_or_without_a_request_only_video_is_sent(cameras: RtspServer, path: str, sound: bool) -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings())
        with Stream(preview, cameras.url(path)):
            await until(lambda: preview.relay("door").video is not None)
            watcher = await watch(preview, data=False, sound=sound)
            assert watcher.session.facts.audio is None
            assert ("m=audio" in watcher.session.answer) == sound
            assert sound == ("a=inactive" in watcher.session.answer)
            await watcher.has(10)
            assert not watcher.payloads
            await watcher.peer.close()
            await preview.close()

    asyncio.run(run())
