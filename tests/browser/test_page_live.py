"""The page with a real service and simulated cameras, end to end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.checked_page import CHROMIUM, FIREFOX, NARROW, CheckedPage, checked_page, read_time_codes
from tests.support.cameras import ClockMount, RtspServer
from tests.support.serve_process import ServeProcess

IN_BOTH = pytest.mark.parametrize("browser", [CHROMIUM, pytest.param(FIREFOX, marks=pytest.mark.slow)], indirect=True)
SETTINGS = "open_timeout_s: 2, stall_timeout_s: 2, reconnect: {min_s: 0.1, max_s: 0.5, refused_s: 0.5}"


@dataclass
class LiveSite:
    """Cameras and the service that reads them."""

    cameras: RtspServer
    serve: ServeProcess

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.serve.port}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSite]:
    mounts = [ClockMount(f"/{name}", 320, 180, 15, key_interval=15) for name in ("front", "back")]
    with RtspServer(*mounts) as cameras:
        # The model's class is the time, which changes with each frame, so that no track would keep it.
        streams = "".join(
            f"  {name}: {{url: {cameras.url('/' + name)}, fps: 10, track: {track}, {SETTINGS}}}\n"
            for name, track in (("front", "true"), ("back", "false"))
        )
        text = f"service: {{port: 0}}\nmodel: clock\nstreams:\n{streams}"
        with ServeProcess(tmp_path_factory.mktemp("page"), text) as serve:
            yield LiveSite(cameras, serve)


def tile(page: Page, name: str) -> str:
    return f".tile[data-name='{name}']"


def plays(checked: CheckedPage, name: str) -> None:
    """Wait until a tile plays a stream over WebRTC."""
    checked.wait(
        """(chosen) => {
          const stage = document.querySelector(chosen + ' .stage');
          return stage?.dataset.mode === 'webrtc' && stage.querySelector('video').currentTime > 0.3;
        }""",
        tile(checked.page, name),
    )


@IN_BOTH
def test_the_wall_plays_without_layout_shifts(browser: Browser, site: LiveSite) -> None:
    with checked_page(browser, site.address) as checked:
        page = checked.open()
        plays(checked, "front")
        plays(checked, "back")
        front = page.locator(tile(page, "front"))
        expect(front).to_contain_text("live")
        # A busy machine lowers the rate, and the reason takes this place.
        expect(front.locator(".reason")).to_have_text(re.compile("^(320×180 h264|degraded: .*)$"))
        expect(front).to_contain_text("of 10, decoded")
        checked.wait("/p50 \\d/.test(document.querySelector('.tile .figure').textContent)")
        checked.shot("wall")
        assert sum(value for value, *_ in checked.shifts()) < 0.001, checked.shifts()
        page.emulate_media(color_scheme="dark")
        checked.shot("wall-dark")
        checked.expect_quiet()


def test_all_views_fit_on_a_narrow_screen(browser: Browser, site: LiveSite) -> None:
    with checked_page(browser, site.address, viewport=NARROW, has_touch=True) as checked:
        for view in ("", "stream/front", "engines", "cost", "try", "add"):
            page = checked.open(view)
            expect(page.get_by_role("heading").first).to_be_visible()
            assert checked.overflow() <= 0, view
            checked.shot(f"narrow-{view.replace('/', '-') or 'wall'}", full=True)
        checked.expect_quiet()


def test_tiles_outside_the_viewport_do_not_play(browser: Browser, site: LiveSite) -> None:
    with checked_page(browser, site.address, viewport={"width": 360, "height": 220}) as checked:
        page = checked.open()
        plays(checked, "back")
        assert page.locator(f"{tile(page, 'front')} .stage[data-mode]").count() == 0
        page.locator(tile(page, "front")).scroll_into_view_if_needed()
        page.mouse.wheel(0, 2000)
        plays(checked, "front")
        checked.wait("(chosen) => !document.querySelector(chosen + ' .stage').dataset.mode", tile(page, "back"))
        checked.expect_quiet()


@pytest.mark.slow
def test_a_camera_is_tested_added_edited_and_removed(browser: Browser, site: LiveSite) -> None:
    with checked_page(browser, site.address) as checked:
        page = checked.open()
        page.get_by_role("link", name="Add a camera").click()
        page.get_by_label("Name").fill("yard")
        page.get_by_label("URL", exact=True).fill("rtsp://127.0.0.1:1/nobody")
        page.get_by_role("button", name="Test this URL").click()
        expect(page.get_by_text("connection refused")).to_be_visible()
        page.get_by_label("URL", exact=True).fill(site.cameras.url("/front"))
        page.get_by_role("button", name="Test this URL").click()
        expect(page.get_by_text("The camera works.")).to_be_visible()
        expect(page.get_by_text("passthrough for every browser")).to_be_visible()
        expect(page.get_by_text("(Constrained Baseline), 320×180")).to_be_visible()
        page.get_by_label("Infer only during motion").check()
        page.get_by_label("Record a clip of each").check()
        page.get_by_text("Under overload").click()
        page.get_by_label("best effort").check()
        page.get_by_label("Fallback model").select_option("nanodet-416")
        checked.shot("add-stream", full=True)
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.get_by_role("heading", name="yard")).to_be_visible()
        expect(page.locator(".state", has_text="live")).to_be_visible()

        draw_a_zone(page)
        page.get_by_role("button", name="New line").click()
        page.get_by_role("button", name="Insert default shape").click()
        page.keyboard.press("ArrowDown")
        page.get_by_label("Name of the line").fill("gate")
        names = page.locator(".shape-name").evaluate_all("(all) => all.map((name) => name.getBoundingClientRect().height)")
        assert len(names) == 3
        assert max(names) < 30, "names have the same size for any image size"
        checked.shot("edit-zone")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("button", name="Zones and lines")).to_be_visible()
        settings = json.loads(site.serve.ask("GET", "/api/v1/streams/yard")[1])["settings"]
        assert (settings["gate"], settings["clips"]["pre_s"], settings["degrade_model"]) == ("motion", 5, "nanodet-416")
        assert (settings["best_effort"], settings["degrade_detect"]) == (True, None)
        (corners,) = [zone["polygon"] for zone in settings["zones"].values()]
        assert [[round(value, 1) for value in corner] for corner in corners] == [[0.2, 0.2], [0.8, 0.2], [0.5, 0.8]]
        assert settings["lines"]["gate"]["from"] == [0.3, 0.51]

        page.get_by_role("button", name="Pause").click()
        expect(page.locator(".state", has_text="paused")).to_be_visible()
        page.get_by_role("button", name="Resume").click()
        expect(page.locator(".state", has_text="live")).to_be_visible()

        page.get_by_role("button", name="Remove").click()
        checked.shot("remove-stream")
        page.get_by_role("dialog").get_by_role("button", name="Remove").click()
        expect(page.locator(tile(page, "front"))).to_be_visible()
        assert page.locator(tile(page, "yard")).count() == 0
        assert "yard" not in site.serve.streams()
        checked.expect_quiet("/streams/yard/frames")  # a request at the moment of the pause returns 503


def draw_a_zone(page: Page) -> None:
    page.get_by_role("button", name="Zones and lines").click()
    page.get_by_role("button", name="New zone").click()
    box = page.locator("svg.editor").bounding_box()
    assert box is not None
    for x, y in ((0.2, 0.2), (0.8, 0.2), (0.5, 0.7), (0.2, 0.2)):  # a second click on the first corner closes the zone
        page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    expect(page.get_by_label("Name of the zone")).to_have_value("zone-1")
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.7 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.8 * box["height"], steps=4)
    page.mouse.up()


@IN_BOTH
def test_boxes_belong_to_the_frame_that_is_displayed(browser: Browser, site: LiveSite) -> None:
    """The model reads the time code that the camera draws; the test reads the same code from the video element."""
    with checked_page(browser, site.address) as checked:
        checked.open("stream/back")
        right = read_time_codes(checked, "webrtc", 25)
        assert sum(right) >= 0.9 * len(right), f"{sum(right)} of {len(right)} frames had their own result"
        checked.shot("stream")
        checked.expect_quiet()


@IN_BOTH
def test_a_tile_recovers_after_its_camera_was_down(browser: Browser, site: LiveSite) -> None:
    """Must be the last test of the module: it stops the cameras for a while."""
    with checked_page(browser, site.address) as checked:
        page = checked.open()
        plays(checked, "front")
        site.cameras.kill()
        front = page.locator(tile(page, "front"))
        expect(front.locator(".state")).to_have_text("reconnecting")
        expect(front.locator(".reason")).to_contain_text("connection refused")
        checked.shot("camera-away")
        site.cameras.restart()
        expect(front.locator(".state")).to_have_text("live")
        plays(checked, "front")
        checked.shot("camera-back")
        assert sum(value for value, *_ in checked.shifts()) < 0.001, checked.shifts()
        checked.expect_quiet()
