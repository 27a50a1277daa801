"""What becomes of the picture in a real browser: whatever codec comes, and when packets are lost on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import pytest
from playwright.sync_api import Browser, Route

from tests.browser.watched import watched
from tests.support.cameras import ClockMount, RtspServer
from tests.support.lossy_relay import LossyRelay, Outage, without_candidates
from tests.support.media import Clip, bikes, clip
from tests.support.serve_process import ServeProcess

CAMERAS = (
    ClockMount("/plain", 320, 180, 25, key_interval=250),
    ClockMount("/h265", 320, 180, 15, codec="h265"),
    ClockMount("/b-frames", 320, 180, 15, b_frames=2),
    ClockMount("/sizes", 320, 180, 25, next_size=(480, 270), frames_per_size=30),
)
ENCODED = {"h265": "the stream is H.265", "b-frames": "", "mjpeg": "the stream is MJPEG", "file": ""}
"""streams that browsers do not play as they are, and what is told of it"""
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
class Place:
    """A service with a stream of each kind."""

    serve: ServeProcess

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.serve.port}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    mjpeg = clip(Clip(suffix=".avi", codec="mjpeg", pix_fmt="yuvj420p", frames=50, options=()))
    with RtspServer(*CAMERAS) as cameras:
        urls = {mount.path[1:]: cameras.url(mount.path) for mount in CAMERAS} | {"mjpeg": str(mjpeg), "file": str(bikes())}
        streams = "".join(f"  {name}: {{url: {url!r}, fps: 2{LOOP.get(name, '')}}}\n" for name, url in urls.items())
        text = f"service: {{port: 0}}\nmodel: clock\npreview: {{encode_height: 180, encode_fps: 12}}\nstreams:\n{streams}"
        with ServeProcess(tmp_path_factory.mktemp("video"), text) as serve:
            yield Place(serve)


LOOP = dict.fromkeys(("mjpeg", "file"), ", loop: true")


def test_every_kind_of_video_keeps_playing(browser: Browser, place: Place) -> None:
    with watched(browser, place.address, viewport={"width": 1440, "height": 1100}) as one:
        page = one.open()
        one.wait(
            """(count) => {
              const stages = [...document.querySelectorAll('.stage')];
              return stages.length === count && stages.every((stage) => stage.dataset.mode === 'webrtc');
            }""",
            len(CAMERAS) + 2,
        )
        page.evaluate(_COUNT)
        one.wait("() => Object.values(window.shown).every(({ frames }) => frames >= 30)")
        one.wait("window.shown.sizes.sizes.length >= 3")
        sizes = page.evaluate("window.shown")["sizes"]["sizes"]
        assert set(sizes) == {"320x180", "480x270"}
        one.shot("every-kind")
        assert sum(value for value, *_ in one.shifts()) < 0.001, one.shifts()
        for name, reason in ENCODED.items():
            one.open(f"stream/{name}")
            one.wait("(words) => document.querySelector('.via').textContent.includes(words)", f"encoded here: {reason}")
        one.expect_quiet()


def test_lost_packets_are_sent_again_and_a_lost_picture_comes_back(browser: Browser, place: Place) -> None:
    random, outage = Random(1), Outage()
    with LossyRelay(lambda: outage() or random.random() < 0.05) as relay, watched(browser, place.address) as one:
        sessions: list[str] = []
        one.page.route("**/whep", partial(through, relay, sessions))
        page = one.open("stream/plain")
        one.wait("document.querySelector('.stage')?.dataset.mode === 'webrtc'")
        one.wait("document.querySelector('video').getVideoPlaybackQuality().totalVideoFrames > 50")
        outage.begin(0.4)
        at = page.evaluate("document.querySelector('video').getVideoPlaybackQuality().totalVideoFrames")
        one.wait("(at) => document.querySelector('video').getVideoPlaybackQuality().totalVideoFrames > at + 50", at)
        assert relay.lost >= 0.02 * relay.carried > 0
        told: dict[str, Any] = page.evaluate("(session) => fetch(session).then((answer) => answer.json())", sessions[0])
        assert told["resent"] > 0
        assert page.evaluate("document.querySelector('.stage').dataset.mode") == "webrtc"
        one.expect_quiet()


def through(relay: LossyRelay, sessions: list[str], route: Route) -> None:
    """Send an offer on, and the player through the relay."""
    answer = route.fetch(post_data=without_candidates(route.request.post_data or ""))
    sessions.append(answer.headers["location"])
    route.fulfill(response=answer, body=relay.answer(answer.text()))
