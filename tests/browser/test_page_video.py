"""Video in a real browser: different codecs, lost packets, blocked UDP, and a TURN server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from playwright.sync_api import Browser, Route

from tests.browser.checked_page import checked_page
from tests.support.cameras import ClockMount, RtspServer
from tests.support.lossy_relay import LossyRelay, Outage, without_candidates
from tests.support.media import Clip, bikes, clip
from tests.support.serve_process import ServeProcess
from tests.support.turn_server import TURN_SECRET, turn_server

CAMERAS = (
    ClockMount("/plain", 320, 180, 25, key_interval=250, mtu=1200),
    ClockMount("/h265", 320, 180, 15, codec="h265"),
    ClockMount("/b-frames", 320, 180, 15, b_frames=2),
    ClockMount("/sizes", 320, 180, 25, next_size=(480, 270), frames_per_size=30),
)
ENCODED = {"h265": ": the player does not support H.265 Main", "b-frames": "", "mjpeg": ": the stream is MJPEG", "file": ""}
"""Streams that browsers cannot play directly, and the reason that the page shows."""
_COUNT = """
() => {
  window.shown = {};
  for (const tile of document.querySelectorAll('.tile')) {
    const shown = (window.shown[tile.dataset.name] = { frames: 0, sizes: [] });
    const video = tile.querySelector('video');
    const frame = (_, { width, height }) => {
      shown.frames += 1;
      if (shown.sizes.at(-1) !== `${width}x${height}`) shown.sizes.push(`${width}x${height}`);
      video.requestVideoFrameCallback(frame);
    };
    video.requestVideoFrameCallback(frame);
  }
}
"""


@dataclass
class VideoSite:
    """A service with one stream of each kind."""

    serve: ServeProcess

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.serve.port}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VideoSite]:
    mjpeg = clip(Clip(suffix=".avi", codec="mjpeg", pix_fmt="yuvj420p", frames=50, options=()))
    with RtspServer(*CAMERAS) as cameras:
        urls = {mount.path[1:]: cameras.url(mount.path) for mount in CAMERAS} | {"mjpeg": str(mjpeg), "file": str(bikes())}
        streams = "".join(f"  {name}: {{url: {url!r}, fps: 2{LOOP.get(name, '')}}}\n" for name, url in urls.items())
        text = f"service: {{port: 0}}\nmodel: clock\npreview: {{encode_height: 180, encode_fps: 12}}\nstreams:\n{streams}"
        with ServeProcess(tmp_path_factory.mktemp("video"), text) as serve:
            yield VideoSite(serve)


LOOP = dict.fromkeys(("mjpeg", "file"), ", loop: true")


@pytest.mark.slow  # 8 s
def test_every_kind_of_video_keeps_playing(browser: Browser, site: VideoSite) -> None:
    with checked_page(browser, site.address, viewport={"width": 1440, "height": 1100}) as checked:
        page = checked.open()
        checked.wait(
            """(count) => {
              const stages = [...document.querySelectorAll('.stage')];
              return stages.length === count && stages.every((stage) => stage.dataset.mode === 'webrtc');
            }""",
            len(CAMERAS) + 2,
        )
        page.evaluate(_COUNT)
        checked.wait("() => Object.values(window.shown).every(({ frames }) => frames >= 30)")
        checked.wait("window.shown.sizes.sizes.length >= 3")
        sizes = page.evaluate("window.shown")["sizes"]["sizes"]
        assert set(sizes) == {"320x180", "480x270"}
        checked.shot("every-kind")
        assert sum(value for value, *_ in checked.shifts()) < 0.001, checked.shifts()
        for name, reason in ENCODED.items():
            checked.open(f"stream/{name}")
            checked.wait(
                "(words) => document.querySelector('.via').textContent.includes(words)",
                f"transcoded{reason}",
            )
        checked.expect_quiet()


@pytest.mark.slow  # 8 s
def test_lost_packets_are_resent_and_the_video_recovers_from_an_outage(browser: Browser, site: VideoSite) -> None:
    random, outage = Random(1), Outage()
    with LossyRelay(lambda: outage() or random.random() < 0.05) as relay, checked_page(browser, site.address) as checked:
        sessions: list[str] = []
        checked.page.route("**/whep", partial(through, relay, sessions))
        page = checked.open("stream/plain")
        checked.wait("document.querySelector('.stage')?.dataset.mode === 'webrtc'")
        checked.wait("document.querySelector('video').getVideoPlaybackQuality().totalVideoFrames > 50")
        outage.begin(0.4)
        at = page.evaluate("document.querySelector('video').getVideoPlaybackQuality().totalVideoFrames")
        checked.wait("(at) => document.querySelector('video').getVideoPlaybackQuality().totalVideoFrames > at + 50", at)
        assert relay.lost >= 0.02 * relay.carried > 0
        counts: dict[str, Any] = page.evaluate("(session) => fetch(session).then((answer) => answer.json())", sessions[0])
        assert counts["resent"] > 0
        assert page.evaluate("document.querySelector('.stage').dataset.mode") == "webrtc"
        checked.expect_quiet()


def through(relay: LossyRelay, sessions: list[str], route: Route) -> None:
    """Forward an offer, and route the player through the relay."""
    if route.request.method == "OPTIONS":
        route.continue_()
        return
    answer = route.fetch(post_data=without_candidates(route.request.post_data or ""))
    sessions.append(answer.headers["location"])
    route.fulfill(response=answer, body=relay.answer(answer.text()))


@pytest.mark.slow  # 5 s
def test_a_turn_server_carries_the_video(browser: Browser, tmp_path: Path) -> None:
    """The browser may use relayed addresses only, so that the video plays only if the page knows the TURN server."""
    with turn_server(tmp_path) as url:
        preview = f"{{ice_servers: [{{url: '{url}', secret: '{TURN_SECRET}'}}]}}"
        text = f"service: {{port: 0}}\nmodel: clock\npreview: {preview}\nstreams: {{cam: {{url: 'test://?fps=10', fps: 2}}}}\n"
        with ServeProcess(tmp_path, text) as serve, checked_page(browser, f"http://127.0.0.1:{serve.port}") as checked:
            checked.page.add_init_script(
                """const Direct = window.RTCPeerConnection;
                window.RTCPeerConnection = class extends Direct {
                  constructor(options) { super({ ...options, iceTransportPolicy: "relay" }); }
                };"""
            )
            page = checked.open("stream/cam")
            checked.wait("document.querySelector('.stage')?.dataset.mode === 'webrtc'")
            checked.wait("document.querySelector('video').currentTime > 0.3")
            assert page.locator(".via").inner_text().startswith("WebRTC")
            checked.expect_quiet()
