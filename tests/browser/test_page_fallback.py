"""The page without WebRTC: it shows MJPEG or snapshots with the reason and the setting to change, and returns to WebRTC."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.browser.checked_page import CHROMIUM, FIREFOX, NARROW, CheckedPage, checked_page, read_time_codes
from tests.support.cameras import ClockMount, RtspServer
from tests.support.lossy_relay import without_candidates
from tests.support.serve_process import ServeProcess

IN_BOTH = pytest.mark.parametrize("browser", [CHROMIUM, pytest.param(FIREFOX, marks=pytest.mark.slow)], indirect=True)
NO_PACKET = "MJPEG: no WebRTC packet of this browser reached the service. It announced"
OPEN = "in the firewall of the service. If that is not possible, set a TURN server in preview.ice_servers. (ICE: "
SLOW_MS = 3000
"""The time after which images are shown while WebRTC is still connecting."""
LATER_MS = 9000
"""More than the time in which a connection must be made, and the time until the next attempt."""


_HIDE = """(hidden) => {
  Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
  document.dispatchEvent(new Event('visibilitychange'));
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with RtspServer(ClockMount("/front", 320, 180, 15, key_interval=15)) as cameras:
        # One stream for each test: the service notices after a while that the browser of the previous one is gone.
        names = ("closed", "wrong", "tcp", "limit", "tile")
        streams = "".join(f"  {name}: {{url: {cameras.url('/front')}, fps: 10, track: false}}\n" for name in names)
        text = f"service: {{port: 0}}\nmodel: clock\npreview: {{max_viewers_per_stream: 1}}\nstreams:\n{streams}"
        with ServeProcess(tmp_path_factory.mktemp("fallback"), text) as serve:
            yield f"http://127.0.0.1:{serve.port}"


def shows(checked: CheckedPage, mode: str) -> None:
    checked.wait("(mode) => document.querySelector('.stage')?.dataset.mode === mode", mode)


@pytest.mark.parametrize(
    ("stream", "announced", "cause"),
    [
        ("closed", "127.0.0.1", "127.0.0.1, which is the address of this page. Open port 9 (UDP) "),
        pytest.param(
            "wrong",
            "192.0.2.1",
            "192.0.2.1, but this page was loaded from 127.0.0.1. Set an address that this browser can reach, such as "
            "preview.addresses: [127.0.0.1]. Open port 9 (UDP) ",
            marks=pytest.mark.slow,
        ),
    ],
)
@pytest.mark.slow
def test_blocked_udp_and_a_wrong_address_are_named_until_the_video_plays(
    browser: Browser, address: str, stream: str, announced: str, cause: str
) -> None:
    """The answer arrives over HTTP, but no packet reaches the service: port 9 is closed, and 192.0.2.1 belongs to no network."""

    def elsewhere(route: Route) -> None:
        if route.request.method != "POST":
            return route.continue_()
        answer = route.fetch(post_data=without_candidates(route.request.post_data or ""))
        sdp = re.sub(r"a=candidate:.* tcptype .*\r\n", "", answer.text())
        sdp = re.sub(r"(a=candidate:\S+ \d+ udp \d+) \S+ \d+", rf"\1 {announced} 9", sdp)
        return route.fulfill(response=answer, body=sdp)

    with checked_page(browser, address) as checked:
        page = checked.page
        page.clock.install()
        page.route("**/whep", elsewhere)
        page.route("**/whep/*", lambda route: route.fulfill(status=204) if route.request.method == "PATCH" else route.continue_())
        checked.open(f"stream/{stream}")
        page.locator(".stage").wait_for()
        page.clock.fast_forward(SLOW_MS)
        shows(checked, "mjpeg")
        expect(page.locator(".via")).to_have_text("MJPEG: WebRTC is still connecting")
        page.clock.fast_forward(LATER_MS)
        expect(page.locator(".via")).to_contain_text(f"{NO_PACKET} {cause}{OPEN}")
        checked.shot(f"fallback-{announced}")
        page.set_viewport_size({"width": NARROW["width"], "height": NARROW["height"]})
        page.emulate_media(color_scheme="dark")
        assert checked.overflow() <= 0
        checked.shot(f"fallback-{announced}-narrow-dark", full=True)
        page.unroute("**/whep")
        page.unroute("**/whep/*")
        page.clock.fast_forward(LATER_MS)
        shows(checked, "webrtc")
        expect(page.locator(".via")).to_contain_text("WebRTC, H264 passthrough")
        assert page.locator("canvas.image").is_hidden()
        checked.expect_quiet()


def test_the_page_names_video_over_tcp(browser: Browser, address: str) -> None:
    def only_tcp(route: Route) -> None:
        if route.request.method != "POST":
            return route.continue_()
        answer = route.fetch()
        return route.fulfill(response=answer, body=re.sub(r"a=candidate:\S+ 1 udp .*\r\n", "", answer.text()))

    with checked_page(browser, address) as checked:
        checked.page.route("**/whep", only_tcp)
        checked.open("stream/tcp")
        shows(checked, "webrtc")
        expect(checked.page.locator(".via")).to_contain_text("WebRTC over TCP, H264 passthrough: lost packets delay the video")
        checked.expect_quiet()


@pytest.mark.slow
@IN_BOTH
def test_viewers_beyond_the_limit_get_mjpeg_and_then_snapshots(browser: Browser, address: str) -> None:
    limit = "WebRTC request rejected: limit: the limit of 1 viewers is reached. See preview.max_viewers_per_stream."
    with checked_page(browser, address) as third:
        with checked_page(browser, address) as second:
            with checked_page(browser, address) as first:
                first.open("stream/limit")
                shows(first, "webrtc")
                second.page.clock.install()
                second.open("stream/limit")
                right = read_time_codes(second, "mjpeg", 15)
                assert sum(right) >= 0.9 * len(right), f"{sum(right)} of {len(right)} images had their own result"
                expect(second.page.locator(".via")).to_have_text(f"MJPEG: {limit}")
                second.shot("mjpeg")
                third.open("stream/limit")
                right = read_time_codes(third, "snapshots", 3)
                assert sum(right) >= 0.9 * len(right), f"{sum(right)} of {len(right)} images had their own result"
                no_mjpeg = limit.removeprefix("WebRTC request rejected: ").removesuffix(".")
                expect(third.page.locator(".via")).to_have_text(f"Snapshots (no MJPEG: {no_mjpeg}): {limit}")
                with first.page.expect_response(lambda answer: answer.request.method == "DELETE"):
                    first.open("engines")
                first.expect_quiet()
            second.page.clock.fast_forward(LATER_MS)
            shows(second, "webrtc")
            assert second.page.locator("canvas.image").is_hidden()
            second.expect_quiet("503")
        third.expect_quiet("503")


@pytest.mark.slow
def test_mjpeg_leaves_connections_for_the_page(browser: Browser, address: str) -> None:
    """Browsers open six connections to a host over HTTP/1.1."""
    with checked_page(browser, address, viewport={"width": 1440, "height": 1500}) as checked:
        refuse = {"status": 503, "content_type": "application/problem+json", "body": '{"detail": "no WebRTC today"}'}
        checked.page.route("**/whep", lambda route: route.fulfill(**refuse))
        page = checked.open()
        checked.wait("document.querySelectorAll('.stage[data-mode]').length === 5")
        modes = page.evaluate("[...document.querySelectorAll('.stage')].map(({ dataset }) => dataset.mode)")
        assert sorted(modes) == ["mjpeg", "mjpeg", "snapshots", "snapshots", "snapshots"]
        title = page.locator(".transport[data-mode=snapshots]").first
        text = (
            "Snapshots (no MJPEG: without HTTP/2, this page shows at most 2 cameras as MJPEG): WebRTC request rejected: no WebRTC"
        )
        expect(title).to_have_attribute("title", f"{text} today")
        checked.shot("five-without-webrtc")
        checked.open("stream/tile")
        shows(checked, "mjpeg")
        with page.expect_event("requestfailed", lambda request: "video.mjpeg" in request.url):
            page.evaluate(_HIDE, True)
        with page.expect_request("**/video.mjpeg?*"):
            page.evaluate(_HIDE, False)
        checked.expect_quiet("503")


@pytest.mark.slow
def test_tiles_show_how_their_video_arrives(browser: Browser, address: str) -> None:
    tile = ".tile[data-name=tile]"
    with checked_page(browser, address, viewport=NARROW, has_touch=True) as checked:
        checked.open()
        checked.page.locator(tile).scroll_into_view_if_needed()
        expect(checked.page.locator(f"{tile} .transport")).to_have_text("WebRTC")
        # As narrow: of a wall without WebRTC for many tiles, only two show MJPEG.
        with checked_page(browser, address, viewport=NARROW) as other:
            other.open()
            other.page.locator(tile).scroll_into_view_if_needed()
            expect(other.page.locator(f"{tile} .transport")).to_have_text("MJPEG")
            other.page.emulate_media(color_scheme="dark")
            other.shot("tile-mjpeg-dark")
        assert checked.overflow() <= 0
        checked.shot("tile-webrtc-narrow")
        checked.expect_quiet("503")
