"""The codecs that a real browser plays unmodified, besides H.264."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Browser, Response

from tests.browser.checked_page import CHROMIUM, FIREFOX, CheckedPage, checked_page
from tests.support.media import Clip, clip
from tests.support.serve_process import ServeProcess

# Files with frames that are not shown, which VP9 and AV1 put into the packet of another frame.
VP8 = Clip(
    suffix=".webm",
    codec="libvpx",
    width=320,
    height=180,
    frames=40,
    options=(("deadline", "realtime"), ("cpu-used", "8"), ("g", "20")),
)
VP9 = replace(VP8, codec="libvpx-vp9", options=(("cpu-used", "5"), ("auto-alt-ref", "1"), ("lag-in-frames", "16"), ("g", "20")))
AV1 = replace(VP8, suffix=".mkv", codec="libsvtav1", options=(("preset", "12"), ("g", "20")))
STREAMS = {"vp8": (VP8, ""), "vp9": (VP9, "Profile 0"), "av1": (AV1, "Main")}
"""The clip and the profile of each stream."""
_COUNT = """() => {
  for (const video of document.querySelectorAll(".tile video")) {
    video.shown = 0;
    const count = () => {
      video.shown += 1;
      video.requestVideoFrameCallback(count);
    };
    video.requestVideoFrameCallback(count);
  }
}"""


@pytest.fixture(scope="module")
def playing(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CheckedPage, dict[str, str]]]:
    """A page that plays all streams, and the URLs of its sessions by stream."""
    streams = "".join(f"  {name}: {{url: {str(clip(made))!r}, fps: 1, loop: true}}\n" for name, (made, _) in STREAMS.items())
    text = f"service: {{port: 0}}\nmodel: clock\npreview: {{max_encoders: 0}}\nstreams:\n{streams}"
    sessions: dict[str, str] = {}

    def opened(answer: Response) -> None:
        if answer.status == 201:
            sessions[answer.url.split("/")[-2]] = answer.headers["location"]

    with (
        ServeProcess(tmp_path_factory.mktemp("codecs"), text) as serve,
        checked_page(browser, f"http://127.0.0.1:{serve.port}", viewport={"width": 1440, "height": 1100}) as checked,
    ):
        checked.page.on("response", opened)
        checked.open()
        checked.wait(f"document.querySelectorAll('.tile video').length === {len(STREAMS)}")
        checked.page.evaluate(_COUNT)
        yield checked, sessions


@pytest.mark.parametrize("browser", [CHROMIUM, pytest.param(FIREFOX, marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize("name", STREAMS)
def test_a_browser_plays_the_streams_own_packets(playing: tuple[CheckedPage, dict[str, str]], name: str) -> None:
    checked, sessions = playing
    # More frames than the file has, so that it plays on when the file begins again.
    checked.wait("(name) => document.querySelector(`.tile[data-name=${name}] video`).shown > 45", name)
    facts = checked.page.evaluate("(session) => fetch(session).then((answer) => answer.json())", sessions[name])
    assert (facts["mode"], facts["codec"], facts["profile"], facts["reason"]) == (
        "passthrough",
        name.upper(),
        STREAMS[name][1],
        "",
    )
    checked.expect_quiet()
