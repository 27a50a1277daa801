"""Streams, viewers and threads that change something while something else is in progress."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from tests.preview.encoding import Recipe, encoded
from tests.preview.test_preview_feed import OFFERS
from tests.support.free_port import free_port
from vision_infer.config.preview import PreviewSettings
from vision_infer.core.packet import SoundFormat, SoundPacket, VideoFormat
from vision_infer.preview.preview import NoPreviewError, Preview
from vision_infer.preview.relay import Relay
from vision_infer.preview.session import Session
from vision_infer.preview.sound.sound_feed import SoundFeed
from vision_infer.preview.sound.sound_frame import OPUS, SoundFrame
from vision_infer.preview.transport.sockets import bind

VIDEO, PACKETS = VideoFormat("vp8", sound=SoundFormat("opus", 48_000, 2)), encoded(Recipe("libvpx"))[1]


class Names:
    """A name server that can be slow."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()
        self.answer.set()

    async def getaddrinfo(self, *_: object, **__: object) -> list[Any]:
        self.asked.set()
        await self.answer.wait()
        return [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", ("127.0.0.1", 0))]


@asynccontextmanager
async def playing(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Preview, Names]]:
    """Open a preview whose address has a name, and a connection with VP8 and sound."""
    names = Names()
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names.getaddrinfo)
    monkeypatch.setattr("vision_infer.preview.transport.addresses.RESOLVE_AGAIN_NS", 0)
    preview = Preview(settings := PreviewSettings(port=free_port(), addresses=("camera.example",)))
    with bind(settings, "127.0.0.1") as sockets:
        assert sockets is not None
        await preview.open(sockets)
        preview.relay("door").opened(VIDEO)
        preview.relay("door").packet(PACKETS[0])
        try:
            yield preview, names
        finally:
            await preview.close()


async def offered(preview: Preview, names: Names) -> asyncio.Task[Session]:
    """Begin a session, which waits for the name server."""
    names.asked.clear()
    names.answer.clear()
    task = asyncio.create_task(preview.offer("door", OFFERS["chromium"], "somebody"))
    await names.asked.wait()
    return task


def test_a_viewer_that_logs_out_while_the_answer_is_made_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with playing(monkeypatch) as (preview, names):
            task = await offered(preview, names)
            preview.leave("somebody")
            await asyncio.sleep(0.05)
            names.answer.set()
            with pytest.raises(NoPreviewError, match="door: the session has ended"):
                await task
            assert not any(preview.counts().viewers.values())
            assert not preview.relay("door")._packet_watchers

    asyncio.run(run())


def test_a_viewer_that_logs_out_while_the_stream_has_no_video_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with playing(monkeypatch) as (preview, _):
            preview.relay("late").opened(VIDEO)
            offers = [asyncio.create_task(preview.offer("late", OFFERS["chromium"], one)) for one in ("gone", "here")]
            await asyncio.sleep(0.05)
            preview.leave("gone")
            preview.relay("late").packet(PACKETS[0])
            with pytest.raises(NoPreviewError, match="late: the login has ended"):
                await offers[0]
            assert await offers[1]
            assert not preview._offers
            assert preview.counts().viewers["late"] == 1

    asyncio.run(run())


def test_a_stream_that_changes_while_the_answer_is_made_sends_each_frame_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with playing(monkeypatch) as (preview, names):
            await preview.offer("door", OFFERS["chromium"], "somebody")
            task = await offered(preview, names)
            preview.relay("door").opened(VideoFormat("mjpeg"))
            await asyncio.sleep(0.05)
            names.answer.set()
            session = await task
            assert session.facts.mode == "encoded"
            assert session.facts.profile == ""
            assert len(session.feed.viewers) == len(set(session.feed.viewers)) == 2

    asyncio.run(run())


def test_a_request_for_sound_after_the_end_of_a_session_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with playing(monkeypatch) as (preview, _):
            session = await preview.offer("door", OFFERS["chromium"], "somebody")
            sound = session.sound
            assert sound is not None
            sound.request('{"sound": true}')
            assert preview.relay("door").wants_sound()
            ending = session.end("the viewer has left")
            await asyncio.sleep(0)
            sound.request('{"sound": true}')  # it was on its way
            await ending
            assert not preview.relay("door").wants_sound()

    asyncio.run(run())


class Emptied(deque[Any]):
    """A queue that the event loop empties after each look at its length."""

    def __len__(self) -> int:
        length = super().__len__()
        self.clear()
        return length


def test_an_event_loop_that_catches_up_raises_nothing_on_the_thread_of_the_camera() -> None:
    async def run() -> None:
        relay = Relay()
        feed = SoundFeed("door", relay, always_opus=False)
        feed.join(cast(Any, object()))
        relay.opened(VIDEO)
        packet = SoundPacket(memoryview(b"\xfc" + bytes(50)), 0)
        frames = feed._frames
        feed._frames = Emptied((), frames.maxlen)
        for _ in range(40):
            deque.extend(feed._frames, [None] * 32)
            relay.sound(packet)
        feed._frames = frames
        for _ in range(40):
            relay.sound(packet)
        assert len(feed._frames) == 32
        feed.listeners.clear()

    asyncio.run(run())


def test_sound_far_from_the_video_does_not_end_the_sender_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiortc sends the time in 64 bits: a larger one would end its task, and the end of the session would wait for it."""

    async def run() -> None:
        async with playing(monkeypatch) as (preview, _):
            session = await preview.offer("door", OFFERS["chromium"], "somebody")
            assert session.viewer is not None
            for years in (-130, 20):
                session.viewer.report(1_800_000_000_000_000_000 + years * 365 * 86_400_000_000_000, 0)
                assert 0 <= session.viewer.outgoing._sender._RTCRtpSender__ntp_timestamp < 1 << 64

    asyncio.run(run())


@pytest.mark.parametrize(("ahead_s", "shown_s"), [(-0.3, -0.3), (0.3, 0.3), (-4, 0), (4, 0), (10**9, 0)])
def test_a_wrong_clock_of_the_sound_does_not_delay_the_video(
    monkeypatch: pytest.MonkeyPatch, ahead_s: float, shown_s: float
) -> None:
    """A player shows both in step, up to 10 s late in Chromium."""

    async def run() -> None:
        async with playing(monkeypatch) as (preview, _):
            session = await preview.offer("door", OFFERS["chromium"], "somebody")
            assert session.viewer is not None
            assert session.sound is not None
            reported: list[int] = []
            monkeypatch.setattr(session.sound, "send", lambda *_, **__: None)
            monkeypatch.setattr(session.sound, "report", lambda wall_ns, _: reported.append(wall_ns))
            session.viewer.synced = (10**18, 7 * 10**9)
            frame = SoundFrame(OPUS, b"\xfc", round((7 + ahead_s) * 1e9), 960)
            session.sound.push(frame)
            assert reported == [10**18 + round(shown_s * 1e9)]

    asyncio.run(run())
