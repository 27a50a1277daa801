"""Sound in a real browser: off at first, on with a button, and only where a camera has sound."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.checked_page import CHROMIUM, FIREFOX, checked_page
from tests.support.cameras import ClockMount, RtspServer
from tests.support.serve_process import ServeProcess

CAMERAS = (ClockMount("/heard", 320, 180, 25, sound="aac"), ClockMount("/silent", 320, 180, 25))
ENERGY = """async () => {
  let [energy, frames, delay] = [0, 0, 0];
  for (const peer of window.peers) {
    for (const report of (await peer.getStats()).values()) {
      if (report.type !== "inbound-rtp") continue;
      if (report.kind === "audio") energy += report.totalAudioEnergy ?? 0;
      else {
        frames += report.framesDecoded ?? 0;
        if (report.jitterBufferEmittedCount) delay = Math.max(delay, report.jitterBufferDelay / report.jitterBufferEmittedCount);
      }
    }
  }
  return { energy, frames, delay: 1000 * delay };
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with RtspServer(*CAMERAS) as cameras:
        streams = "".join(f"  {mount.path[1:]}: {{url: {cameras.url(mount.path)!r}}}\n" for mount in CAMERAS)
        streams += f"  refused: {{url: {cameras.url('/heard')!r}, audio: false}}\n"
        text = f"service: {{port: 0}}\nmodel: clock\nstreams:\n{streams}"
        with ServeProcess(tmp_path_factory.mktemp("sound"), text) as serve:
            yield f"http://127.0.0.1:{serve.port}"


def measured(page: Page, figure: str, least: float) -> dict[str, float]:
    """Wait until a figure exceeds a value; return all figures."""
    for _ in range(300):
        figures: dict[str, float] = page.evaluate(ENERGY)
        if figures[figure] > least:
            return figures
        page.wait_for_timeout(100)
    raise AssertionError(f"{figure} stays at {figures[figure]}")


@pytest.mark.timing
@pytest.mark.slow
@pytest.mark.parametrize("browser", [CHROMIUM, FIREFOX], indirect=True)
def test_sound_is_off_until_the_button_switches_it_on(browser: Browser, site: str) -> None:
    with checked_page(browser, site) as checked:
        page = checked.open()
        checked.wait("() => document.querySelectorAll('.stage[data-mode=webrtc]').length === 3")
        button = page.get_by_role("button", name="Sound of heard")
        expect(button).to_be_visible()
        expect(page.get_by_role("button", name="Sound of silent")).to_be_hidden()
        expect(page.get_by_role("button", name="Sound of refused")).to_be_hidden()
        measured(page, "frames", 60)
        assert page.evaluate(ENERGY)["energy"] == 0
        expect(button).to_have_attribute("aria-pressed", "false")
        button.focus()
        page.keyboard.press("Space")
        expect(button).to_have_attribute("aria-pressed", "true")
        measured(page, "energy", 0.01)
        assert not page.evaluate("document.querySelector('[data-name=heard] video').muted")
        frames = page.evaluate(ENERGY)["frames"]
        assert measured(page, "frames", frames + 30)["delay"] < 50, "the video does not wait for the sound"
        checked.shot("sound-on")
        button.click()
        expect(button).to_have_attribute("aria-pressed", "false")
        assert page.evaluate("document.querySelector('[data-name=heard] video').muted")
        assert sum(value for value, *_ in checked.shifts()) < 0.001, checked.shifts()
        checked.expect_quiet()


@pytest.mark.slow
def test_the_view_of_a_camera_has_the_button_as_well(browser: Browser, site: str) -> None:
    with checked_page(browser, site) as checked:
        page = checked.open("stream/heard")
        button = page.get_by_role("button", name="Sound of heard")
        button.click()
        measured(page, "energy", 0.01)
        checked.shot("sound-view")
        checked.expect_quiet()
