"""The wall uses the screen, and its labels can be switched off."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.checked_page import NARROW, checked_page
from tests.browser.square_model import write_square_model
from tests.support.serve_process import ServeProcess

CAMERAS = ("one", "two", "three")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    folder = tmp_path_factory.mktemp("wall")
    write_square_model(folder / "square.onnx")
    streams = "".join(f"  {name}: {{url: 'test://?size=640x360&fps=10'}}\n" for name in CAMERAS)
    text = f"processes: 2\nservice: {{port: 0}}\nmodel: {folder / 'square.onnx'}\nstreams:\n{streams}"
    with ServeProcess(folder, text) as serve:
        yield serve


def widths(page: Page) -> list[int]:
    """Return the widths of all tiles in pixels."""
    found: list[int] = page.locator(".tile").evaluate_all("(all) => all.map((tile) => Math.round(tile.offsetWidth))")
    return found


@pytest.mark.slow  # 8 s
def test_the_tiles_fill_the_screen(browser: Browser, site: ServeProcess) -> None:
    with checked_page(browser, f"http://127.0.0.1:{site.port}", viewport={"width": 1280, "height": 800}) as checked:
        page = checked.open()
        expect(page.locator(".tile")).to_have_count(3)
        checked.wait("document.querySelectorAll('.stage[data-mode=webrtc]').length === 3")
        auto = widths(page)
        assert auto == [auto[0]] * 3
        assert auto[0] > 400, "three tiles in the default columns are 304 px wide"
        bottom = page.locator(".tile").evaluate_all("(all) => Math.max(...all.map((one) => one.getBoundingClientRect().bottom))")
        assert bottom <= 800
        checked.shot("wall-fitted")
        page.get_by_label("Tile size").select_option("small")
        assert widths(page)[0] < 320
        page.get_by_label("Tile size").select_option("large")
        assert widths(page)[0] > 560
        page.reload()
        expect(page.get_by_label("Tile size")).to_have_value("large")
        page.get_by_label("Tile size").select_option("auto")
        page.get_by_role("button", name="Full screen").click()
        checked.wait("document.fullscreenElement !== null")
        page.get_by_role("button", name="Leave full screen").click()
        checked.wait("document.fullscreenElement === null")
        page.set_viewport_size({"width": NARROW["width"], "height": NARROW["height"]})
        checked.wait("document.querySelector('.tile').offsetWidth < 360")
        assert checked.overflow() <= 0
        checked.shot("wall-narrow")
        checked.expect_quiet()


_TEXTS = """() => {
  window.texts = [];
  const draw = CanvasRenderingContext2D.prototype.fillText;
  CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
    window.texts.push([text, parseFloat(this.font.match(/([\\d.]+)px/)[1])]);
    return draw.call(this, text, ...rest);
  };
}"""


@pytest.mark.slow
def test_labels_scale_with_the_tile_and_can_be_switched_off(browser: Browser, site: ServeProcess) -> None:
    with checked_page(browser, f"http://127.0.0.1:{site.port}", viewport={"width": 1280, "height": 800}) as checked:
        page = checked.open()
        page.get_by_label("Tile size").select_option("small")
        page.evaluate(_TEXTS)
        checked.wait("() => window.texts.some(([text]) => text.startsWith('square'))")
        small = page.evaluate("window.texts.findLast(([text]) => text.startsWith('square'))[1]")
        page.get_by_label("Tile size").select_option("large")
        checked.wait("(small) => window.texts.at(-1)[1] > small", small)
        page.get_by_label("Labels").uncheck()
        page.evaluate("window.texts.length = 0")
        page.wait_for_timeout(1000)
        assert page.evaluate("window.texts") == []
        checked.expect_quiet()
