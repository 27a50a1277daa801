"""Sound of real cameras reaches WebRTC players: unmodified if they play it, else as Opus, and never at the cost of the video."""

from __future__ import annotations

import asyncio
import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise

import numpy as np
import pytest

from tests.preview.watching import LIMIT_S, Stream, Watcher, watch
from tests.support.cameras import ClockMount, RtspServer, Sound
from tests.support.tones import tone_hz
from vision_infer.config.preview import PreviewSettings
from vision_infer.core.packet import SoundPacket
from vision_infer.preview.preview import Preview

TONE_HZ = 1000.37
"""A frequency with which no two packets of 20 ms are alike."""
JITTER_NS = 5_000_000
CODECS: tuple[Sound, ...] = ("pcmu", "pcma", "opus", "aac")
MOUNTS = [ClockMount(f"/{codec}", sound=codec, tone_hz=TONE_HZ, width=320, height=180) for codec in CODECS]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not true():
            await asyncio.sleep(0.02)


def ask(watcher: Watcher, on: bool) -> None:
    watcher.channel.send(json.dumps({"sound": on}))


class Tape:
    """Records the sound that a camera sends, next to the preview."""

    def __init__(self, preview: Preview, stream: str) -> None:
        self.packets: list[SoundPacket] = []
        preview.relay(stream).watch_sound(self._take)

    def _take(self, event: object) -> None:
        if isinstance(event, SoundPacket):
            self.packets.append(event)


@pytest.fixture(scope="module")
def cameras() -> Iterator[RtspServer]:
    with RtspServer(*MOUNTS, ClockMount("/silent", width=320, height=180)) as server:
        yield server


SENT = {"pcmu": "PCMU", "pcma": "PCMA", "opus": "opus", "aac": "opus", "silent": None}


def test_players_hear_the_tone_of_each_camera(cameras: RtspServer) -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings())
        tapes = {name: Tape(preview, name) for name in SENT}
        with ExitStack() as streams:
            for name in SENT:
                streams.enter_context(Stream(preview, cameras.url(f"/{name}"), name))
            await until(lambda: all(preview.relay(name).key for name in SENT))
            watchers = {name: await watch(preview, name, data=False, sound=True) for name in SENT}
            deaf = await watch(preview, "pcmu", data=False)
            await until(lambda: all(len(watchers[name].heard) >= 60 for name in SENT if SENT[name]))
            await until(lambda: all(len(watcher.frames) >= 10 for watcher in (*watchers.values(), deaf)))
            for name in ("pcmu", "aac"):
                one_stream(watchers[name])
            await preview.close()
            for watcher in (*watchers.values(), deaf):
                await watcher.peer.close()
        assert {name: watcher.session.facts.audio for name, watcher in watchers.items()} == SENT
        assert deaf.session.facts.audio is None
        assert "m=audio" not in deaf.session.answer
        assert "a=inactive" in watchers["silent"].session.answer
        assert not watchers["silent"].payloads
        for name in CODECS:
            check_sound(watchers[name], tapes[name].packets, name)

    asyncio.run(run())


def check_sound(watcher: Watcher, packets: list[SoundPacket], codec: str) -> None:
    """Check the tone, the RTP times, and that the payloads are the camera's where they need no encoder."""
    assert tone_hz(watcher.heard[20:]) == pytest.approx(TONE_HZ, abs=20)
    # The camera's times jump if it leaves out sound, and with its first sender report on a busy machine.
    between = [later.pts_ns - earlier.pts_ns for earlier, later in pairwise(packets)]
    usual = statistics.median(between)
    jumps = sum(abs(ns - usual) > JITTER_NS for ns in between)
    steps = Counter(np.diff(watcher.sound_times).tolist())
    del steps[160 if codec.startswith("pcm") else 960]
    assert steps.total() <= jumps, f"20 ms each, without gaps of our own: {steps}"
    camera = [bytes(packet.data) for packet in packets]
    if codec == "aac":
        assert not set(watcher.payloads) & set(camera)
    else:
        parts = [camera[begin : begin + len(watcher.payloads)] for begin in range(len(camera))]
        assert watcher.payloads in parts, "unmodified, in order, without loss"


def one_stream(watcher: Watcher) -> None:
    """Check that the answer has video and sound in one media stream under one name."""
    sections = watcher.session.answer.split("m=audio")
    for name in ("a=msid:", "cname:"):
        video, sound = (section.split(name)[1].split()[0] for section in sections)
        assert video == sound


def test_the_sender_reports_put_video_and_sound_in_step(cameras: RtspServer) -> None:
    """Both reports map the presentation times of the camera to the same clock."""

    async def run() -> None:
        preview = Preview(PreviewSettings())
        tape = Tape(preview, "door")
        with Stream(preview, cameras.url("/pcmu")):
            await until(lambda: preview.relay("door").key is not None)
            watcher = await watch(preview, sound=True)
            await until(lambda: watcher.channel is not None and bool(watcher.messages))
            ask(watcher, True)
            await until(lambda: len(watcher.reports) == 2 and len(watcher.payloads) > 60)
            await watcher.peer.close()
            await preview.close()
        camera = [bytes(packet.data) for packet in tape.packets]
        payload, rtp = watcher.payloads[-1], watcher.sound_times[-1]
        anchor = watcher.messages[-1]
        points = {"video": (anchor["rtp"], anchor["pts_ns"]), "audio": (rtp, tape.packets[camera.index(payload)].pts_ns)}
        zeros = []
        for kind, rate in (("video", 90_000), ("audio", 8000)):
            ntp, at = watcher.reports[kind]
            since = (at - points[kind][0] + (1 << 31)) % (1 << 32) - (1 << 31)
            zeros.append((ntp >> 32) + (ntp & 0xFFFFFFFF) / 2**32 - since / rate - points[kind][1] / 1e9)
        assert zeros[0] == pytest.approx(zeros[1], abs=0.06), "video and sound of one moment have one NTP time"
        assert abs(zeros[0] + points["video"][1] / 1e9 - 2_208_988_800 - time.time()) < 5

    asyncio.run(run())


@pytest.mark.slow
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
            assert not relay.wants_sound(), "sound without a listener is not read"
            for nonsense in ("{", "[]", '{"sound": 1}', "[" * 100_000, b"\xff"):
                watcher.channel.send(nonsense)
            ask(watcher, True)
            await until(lambda: len(watcher.payloads) > 10)
            assert watcher.session.sound is not None
            names = [thread.name for thread in threading.enumerate()]
            assert names.count("sound-door") == 1
            for number in range(200):
                ask(watcher, number % 2 == 0)  # the last one stops the sound
            await until(lambda: not relay.wants_sound())
            await until(lambda: "sound-door" not in [thread.name for thread in threading.enumerate()])
            await asyncio.sleep(0.2)  # packets on their way
            heard = len(watcher.payloads)
            await watcher.has(15)
            assert len(watcher.payloads) == heard
            ending = watcher.session.end("done")
            await asyncio.sleep(0)
            watcher.session.sound.request('{"sound": true}')  # on its way while the session ends
            await ending
            assert not relay.wants_sound()
            await watcher.peer.close()
            await preview.close()

    asyncio.run(run())


@pytest.mark.slow
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


@pytest.mark.slow
def test_sound_continues_after_a_reconnection(cameras: RtspServer) -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings())
        with Stream(preview, cameras.url("/pcmu")):
            await until(lambda: preview.relay("door").key is not None)
            watcher = await watch(preview, data=False, sound=True)
            await until(lambda: len(watcher.payloads) > 30)
            await asyncio.to_thread(cameras.restart)
            before = len(watcher.payloads)
            await until(lambda: len(watcher.payloads) > before + 50)
            await watcher.peer.close()
            await preview.close()
        steps = (np.diff(watcher.sound_times) % (1 << 32)).tolist()
        gaps = [step for step in steps if step != 160]
        assert len(gaps) == 1, "only the reconnection is a gap"
        assert 160 < gaps[0] < 8000 * 20

    asyncio.run(run())
