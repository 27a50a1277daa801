"""A page in a real browser, and all that must not happen in it: errors, requests to other hosts, things that jump."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright
from playwright.sync_api import TimeoutError as WaitedInVainError

from tests.support.media import ROOT

CHROMIUM = "chromium"
ARTIFACTS = ROOT / "tests" / ".artifacts"
"""screenshots, to be looked at"""
WAIT_MS = 30_000
expect.set_options(timeout=WAIT_MS)
WIDE = {"width": 1440, "height": 900}
NARROW = {"width": 360, "height": 740}

_WATCH = """
window.shifts = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (entry.hadRecentInput) continue;
    window.shifts.push([entry.value, ...entry.sources.map((one) => one.node?.className ?? one.node?.nodeName)]);
  }
}).observe({ type: "layout-shift", buffered: true });
window.peers = [];
const Peer = window.RTCPeerConnection;
window.RTCPeerConnection = class extends Peer {
  constructor(...given) { super(...given); window.peers.push(this); }
};
"""


class Watched:
    """A page, and what was noticed of it."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.errors: list[str] = []
        self.foreign: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._asked)
        page.add_init_script(_WATCH)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def _asked(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc != urlsplit(self.address).netloc:
            self.foreign.append(request.url)

    def open(self, view: str = "") -> Page:
        """Go to a view: what stands behind ``#/``."""
        self.page.goto(f"{self.address}/#/{view}")
        return self.page

    def wait(self, expression: str, argument: Any = None, limit_ms: float = WAIT_MS) -> None:
        """Wait until JavaScript gives something true: an expression, or a function of the argument."""
        # The page forbids to evaluate text, again and again too; a function is no text.
        text = expression.strip()
        function = text if "=>" in text.partition("\n")[0] else f"() => ({text})"
        try:
            self.page.wait_for_function(function, arg=argument, timeout=limit_ms)
        except WaitedInVainError:
            self.shot("waited-in-vain")
            raise

    def shot(self, name: str, full: bool = False) -> None:
        """Keep a picture of it."""
        ARTIFACTS.mkdir(exist_ok=True)
        self.page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=full)

    def shifts(self) -> list[Any]:
        """What has moved by itself, and how far."""
        found: list[Any] = self.page.evaluate("window.shifts")
        return found

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        width: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return width

    def expect_quiet(self, *expected: str) -> None:
        """Nothing of it is an error, but what is expected; and no other host was asked."""
        unexpected = [error for error in self.errors if not any(part in error for part in expected)]
        assert unexpected == []
        assert self.foreign == []


@contextmanager
def opened_browser() -> Iterator[Browser]:
    """Debian's chromium, without a window; skips the test where it is not here."""
    path = shutil.which(CHROMIUM)
    if path is None:
        pytest.skip("chromium is not here: make browser")
    with sync_playwright() as playwright:
        # In a container there is no sandbox for root; the pages are our own.
        opened = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        )
        yield opened
        opened.close()


@contextmanager
def watched(browser: Browser, address: str, **options: Any) -> Iterator[Watched]:
    """A new page, without anything kept from others."""
    context = browser.new_context(**{"viewport": WIDE, "reduced_motion": "reduce", **options})
    try:
        yield Watched(context.new_page(), address)
    finally:
        context.close()
