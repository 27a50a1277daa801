"""A page in a real browser that records errors, requests to other hosts, and layout shifts."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request, expect, sync_playwright
from playwright.sync_api import TimeoutError as WaitTimeoutError

from tests.support.media import ROOT
from vision_infer.core.time_code import COLUMNS, HEIGHT_UNITS, MARGIN_UNITS, ROWS, WIDTH_UNITS, cells_of

CHROMIUM = "chromium"
FIREFOX = "firefox-esr"
RELAY = Path(__file__).with_name("firefox_relay.py")
ARTIFACTS = ROOT / "tests" / ".artifacts"
"""The folder for screenshots, for inspection by people."""
WAIT_MS = 30_000
expect.set_options(timeout=WAIT_MS)
SCREENSHOT_STYLE = "sha256-YjaKGiklmzC6wjXA513HAMmzus8VE61XCOT+SmwNZWA="
"""The hash of the style ``body {}``, which Playwright inserts for each screenshot; in Firefox, the page's policy rejects it."""
WIDE = {"width": 1440, "height": 900}
NARROW = {"width": 360, "height": 740}
OUTSIDE = """[...document.querySelectorAll("body *")]
  .filter((element) => element.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map((element) => [element.outerHTML.slice(0, 120), Math.round(element.getBoundingClientRect().right)])"""

_WATCH = """
window.shifts = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (entry.hadRecentInput) continue;
    window.shifts.push([entry.value, ...entry.sources.map(({ node }) => node?.className ?? node?.nodeName)]);
  }
}).observe({ type: "layout-shift", buffered: true });
window.peers = [];
const Peer = window.RTCPeerConnection;
window.RTCPeerConnection = class extends Peer {
  constructor(...args) { super(...args); window.peers.push(this); }
};
"""
_READ = """
([mode, rows, columns, across, down, margin]) => {
  window.read = [];
  const stage = document.querySelector('.stage');
  const canvas = new OffscreenCanvas(across * 16, down * 16);
  const context = canvas.getContext('2d', { willReadFrequently: true });
  stage.addEventListener('drawn', ({ detail }) => {
    if (stage.dataset.mode !== mode || !detail.exact || detail.found.length !== 1) return;
    context.drawImage(stage.querySelector(mode === 'webrtc' ? 'video' : 'canvas.image'), 0, 0, canvas.width, canvas.height);
    const cells = [];
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const { data } = context.getImageData((margin + column) * 16 + 6, (margin + row) * 16 + 6, 4, 4);
        let sum = 0;
        for (let index = 0; index < data.length; index += 4) sum += data[index];
        cells.push(sum / (data.length / 4) > 127 ? 1 : 0);
      }
    }
    const moment = detail.found[0].class_id;
    if (window.read.at(-1)?.[0] !== moment) window.read.push([moment, cells]);
  });
}
"""


class CheckedPage:
    """A page with the errors and foreign requests that were recorded."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.errors: list[str] = []
        self.foreign: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("console", self._on_console)
        page.on("pageerror", self._on_error)
        page.on("request", self._on_request)
        page.add_init_script(_WATCH)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def _on_error(self, error: Error) -> None:
        if SCREENSHOT_STYLE not in str(error):
            self.errors.append(str(error))

    def _on_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc != urlsplit(self.address).netloc:
            self.foreign.append(request.url)

    def open(self, view: str = "") -> Page:
        """Open a view: the part of the URL after ``#/``."""
        self.page.goto(f"{self.address}/#/{view}")
        return self.page

    def wait(self, expression: str, argument: Any = None, limit_ms: float = WAIT_MS) -> None:
        """Wait until a JavaScript expression, or a function of the argument, returns a true value."""
        # The content security policy forbids evaluating text repeatedly; a function is allowed.
        text = expression.strip()
        function = text if "=>" in text.partition("\n")[0] else f"() => ({text})"
        try:
            self.page.wait_for_function(function, arg=argument, timeout=limit_ms)
        except WaitTimeoutError:
            self.shot("wait-timeout")
            raise

    def shot(self, name: str, full: bool = False) -> None:
        """Save a screenshot."""
        ARTIFACTS.mkdir(exist_ok=True)
        self.page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=full)

    def shifts(self) -> list[Any]:
        """Return the layout shifts: the distance and the elements."""
        found: list[Any] = self.page.evaluate("window.shifts")
        return found

    def overflow(self) -> int:
        """Return the number of pixels by which the page is wider than its window. The elements that reach outside are printed."""
        width: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if width > 0:
            print(self.page.url, self.page.evaluate(OUTSIDE))
        return width

    def expect_quiet(self, *expected: str) -> None:
        """Assert that there are no errors except the expected ones, and no requests to other hosts."""
        unexpected = [error for error in self.errors if not any(part in error for part in expected)]
        assert unexpected == []
        assert self.foreign == []


def read_time_codes(checked: CheckedPage, mode: str, count: int) -> list[bool]:
    """Return for each of several displayed frames whether the box that the page draws shows the time code of that frame.

    Args:
        mode: How the frames arrive: ``webrtc``, ``mjpeg`` or ``snapshots``.
        count: The number of frames, which have different times.
    """
    checked.page.locator(".stage").wait_for()
    checked.page.evaluate(_READ, [mode, ROWS, COLUMNS, WIDTH_UNITS, HEIGHT_UNITS, MARGIN_UNITS])
    checked.wait("(count) => window.read.length >= count", count)
    return [tuple(cells) == cells_of(moment) for moment, cells in checked.page.evaluate("window.read")]


@contextmanager
def opened_browser(name: str = CHROMIUM) -> Iterator[Browser]:
    """Start Debian's ``chromium`` or ``firefox-esr`` in headless mode; skip the test if it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed; run: make browser")
    with sync_playwright() as playwright, TemporaryDirectory(prefix="browser-") as folder:
        if name == CHROMIUM:
            # Root has no sandbox in a container. The pages are trusted: they are part of this project.
            options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
            opened = playwright.chromium.launch(executable_path=path, args=options)
        else:
            program = Path(folder) / "firefox"
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{RELAY}" "{path}" "$@"\n', encoding="utf-8")
            program.chmod(0o700)
            # The channel selects WebDriver BiDi. Without it, Playwright expects its own build of Firefox.
            opened = playwright.firefox.launch(executable_path=program, channel="moz-firefox")
        yield opened
        opened.close()


@contextmanager
def checked_page(browser: Browser, address: str, **options: Any) -> Iterator[CheckedPage]:
    """Open a new page with empty storage."""
    context = browser.new_context(**{"viewport": WIDE, "reduced_motion": "reduce", **options})
    try:
        yield CheckedPage(context.new_page(), address)
    finally:
        context.close()
