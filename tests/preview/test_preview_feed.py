"""Recorded offers and packets without a camera: which feed each player gets, and changes of the stream."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.preview.encoding import Recipe, encoded
from vision_infer.config.preview import PreviewSettings
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.packet import EncodedPacket, VideoFormat
from vision_infer.preview.codecs.registry import packets_of
from vision_infer.preview.feed import PassthroughFeed
from vision_infer.preview.preview import Preview
from vision_infer.preview.relay import Relay
from vision_infer.preview.session import Session

OFFERS = {name: (Path(__file__).parent / f"{name}_offer.sdp").read_text() for name in ("chrome_h265", "safari_h265", "chromium")}
H265 = Recipe("libx265")
H265_10 = replace(H265, pix_fmt="yuv420p10le")
ENCODERS = ("libx264", "libx265", "libvpx", "libvpx-vp9", "libsvtav1")


async def playing(preview: Preview, recipe: Recipe, *players: str) -> list[Session]:
    """Open a connection with the video of a recipe; return the sessions of players that send recorded offers."""
    video, packets = encoded(recipe)
    relay = preview.relay("door")
    relay.opened(video)
    relay.packet(packets[0])
    return [await preview.offer("door", OFFERS[name], "somebody") for name in players]


async def ended(session: Session) -> None:
    async with asyncio.timeout(10):
        while session.state != "closed":
            await asyncio.sleep(0.01)


def test_offers_of_chrome_and_safari_get_h265_and_other_players_share_an_encoder() -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings())
        chrome, safari, *others = await playing(preview, H265, "chrome_h265", "safari_h265", "chromium", "chromium")
        for session, payload_type in ((chrome, 49), (safari, 104)):
            facts = session.facts
            assert (facts.mode, facts.codec, facts.profile, facts.reason) == ("passthrough", "H265", "Main", "")
            assert f"a=rtpmap:{payload_type} H265/90000\r\na=fmtp:{payload_type} " in session.answer
            assert "sprop-vps=" in session.answer
            assert "VP8" not in session.answer
        assert chrome.feed is safari.feed
        for other in others:
            assert (other.facts.mode, other.facts.codec) == ("encoded", "H264")
            assert other.facts.reason == "the player does not support H.265 Main level 3.0"
            assert other.feed is others[0].feed
        assert preview.counts().encoders == 1
        await preview.close()

    asyncio.run(run())


def test_main_10_is_passed_through_only_to_a_player_that_offers_it() -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings())
        chrome, safari = await playing(preview, H265_10, "chrome_h265", "safari_h265")
        assert (chrome.facts.mode, chrome.facts.profile) == ("passthrough", "Main 10")
        assert "a=rtpmap:51 H265/90000" in chrome.answer
        assert (safari.facts.mode, safari.facts.reason) == ("encoded", "the player does not support H.265 Main 10 level 3.0")
        await preview.close()

    asyncio.run(run())


def test_10_bits_of_av1_are_encoded_although_browsers_offer_the_profile() -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings())
        (viewer,) = await playing(preview, Recipe("libsvtav1", pix_fmt="yuv420p10le"), "chromium")
        assert (viewer.facts.mode, viewer.facts.codec) == ("encoded", "H264")
        assert viewer.facts.reason == "browsers do not play AV1 with 10 bits and 4:2:0 chroma"
        await preview.close()

    asyncio.run(run())


@pytest.mark.parametrize("change", [H265_10, Recipe("libvpx"), Recipe("libx264")])
def test_a_viewer_of_h265_has_to_connect_again_when_the_stream_becomes_another_one(change: Recipe) -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings())
        chrome, other = await playing(preview, H265, "chrome_h265", "chromium")
        (again,) = await playing(preview, change, "chrome_h265")
        await ended(chrome)
        assert (again.facts.mode, other.facts.mode) == ("passthrough", "encoded")
        assert other.state != "closed"
        await preview.close()

    asyncio.run(run())


def test_a_viewer_of_h264_gets_encoded_video_when_the_stream_becomes_another_one() -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings())
        (viewer,) = await playing(preview, Recipe("libx264"), "chromium")
        assert viewer.facts.mode == "passthrough"
        await playing(preview, H265)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (viewer.facts.mode, viewer.facts.reason) == ("encoded", "the stream is now H.265 Main level 3.0")
        await preview.close()

    asyncio.run(run())


def test_video_whose_headers_cannot_be_read_is_encoded() -> None:
    async def run() -> None:
        preview = Preview(PreviewSettings())
        relay = preview.relay("door")
        relay.opened(VideoFormat("hevc"))
        relay.packet(EncodedPacket(memoryview(b"\0\0\1\x42\1damaged"), 0, True, None))
        session = await preview.offer("door", OFFERS["chrome_h265"], "somebody")
        assert (session.facts.mode, session.facts.reason) == ("encoded", "the headers of its key frames cannot be read")
        await preview.close()

    asyncio.run(run())


class Collector:
    """Takes the place of a viewer."""

    def __init__(self) -> None:
        self.frames: list[Any] = []

    def push(self, image: Any) -> None:
        """Take a frame."""
        self.frames.append(image)

    def restart(self, group: list[Any]) -> None:
        """Take a group."""
        self.frames += group


@settings(max_examples=60)
@given(st.sampled_from(ENCODERS), st.lists(st.tuples(st.binary(max_size=100), st.integers(0, 300), st.booleans()), max_size=6))
def test_a_damaged_bitstream_never_raises_out_of_the_feed(encoder: str, damage: list[tuple[bytes, int, bool]]) -> None:
    errors: list[dict[str, Any]] = []
    reasons: list[str] = []
    video, packets = encoded(Recipe(encoder))
    converter = packets_of(video)
    assert converter is not None
    converter.payloads(packets[0])
    agreed = converter.facts
    assert agreed is not None

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        relay = Relay()
        feed = PassthroughFeed("X", agreed, relay, "pts", lambda *_: "", lambda _, reason: reasons.append(reason), SYSTEM_CLOCK)
        relay.opened(VideoFormat(video.codec, video.extradata + damage[0][0] if damage else b""))
        viewer: Any = Collector()
        feed.join(viewer)
        for number, (noise, at, key) in enumerate(damage):
            data = bytes(packets[number % len(packets)].data)[:2000]
            relay.packet(EncodedPacket(memoryview(data[:at] + noise + data[at + 7 :]), number, key, None))
            await asyncio.sleep(0)
        relay.packet(packets[0])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        feed.leave(viewer)

    asyncio.run(run())
    assert errors == []
