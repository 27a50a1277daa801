"""The counts of lines and zones on the page of a camera."""

from __future__ import annotations

from dataclasses import replace

from playwright.sync_api import Browser, expect

from tests.browser.checked_page import NARROW, checked_page
from tests.service.fakes import OPEN, TOKENS, VIEW, FakeBackend
from tests.service.test_http_counts import counted
from vision_infer.config.serve import StreamSettings
from vision_infer.service.http.app import make_app
from vision_infer.service.http.auth import Tokens
from vision_infer.service.http.server import WebServer

ROOM = {"units": "relative", "polygon": [[0.2, 0.2], [0.8, 0.2], [0.8, 0.8]]}
GATE = {"units": "relative", "from": [0.5, 1], "to": [0.5, 0]}


def backend_with_counts() -> FakeBackend:
    backend = FakeBackend(port=0)
    places = {"detect": "rtsp://10.0.0.5/door", "zones": {"room": ROOM}, "lines": {"gate": GATE}}
    backend.kept["door"] = replace(backend.kept["door"], settings=StreamSettings.model_validate(places))
    backend.put("yard", "rtsp://10.0.0.5/yard")
    backend.counted = counted()
    return backend


def serve(backend: FakeBackend, web: WebServer, tokens: Tokens) -> str:
    web.start(make_app(backend, tokens))
    return web.url


def test_counts_over_time_and_their_reset(browser: Browser) -> None:
    backend = backend_with_counts()
    with WebServer(backend.settings.service, backend.hub) as web, checked_page(browser, serve(backend, web, OPEN)) as checked:
        page = checked.open("stream/door")
        card = page.locator(".card", has=page.get_by_role("heading", name="Counts"))
        expect(card).to_contain_text("2 in, 0 out")
        expect(card).to_contain_text("0 inside now")
        expect(card.get_by_role("img", name="gate, last 1 interval: 2 in, 0 out")).to_be_visible()
        card.get_by_label("Interval", exact=True).select_option("per minute")
        expect(card.get_by_role("img", name="room, last 3 intervals: 2 in, 2 out")).to_be_visible()
        card.get_by_text("Table").click()
        rows = card.locator("tbody tr")
        expect(rows).to_have_count(3)
        assert rows.first.locator("td").all_inner_texts() == ["1", "0", "1", "1"]
        checked.shot("counts", full=True)
        card.get_by_role("button", name="Reset counts").click()
        page.get_by_role("dialog").get_by_role("button", name="Reset").click()
        expect(card).to_contain_text("0 in, 0 out")
        expect(rows).to_have_count(3)
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size({"width": NARROW["width"], "height": NARROW["height"]})
        assert checked.overflow() <= 0
        checked.shot("counts-narrow", full=True)
        checked.open("stream/yard")
        expect(page.get_by_role("heading", name="yard")).to_be_visible()
        expect(page.get_by_role("heading", name="Counts")).to_be_hidden()
        checked.expect_quiet("503", "whep", "snapshot", "404")


def test_viewers_cannot_reset_counts(browser: Browser) -> None:
    backend = backend_with_counts()
    with WebServer(backend.settings.service, backend.hub) as web, checked_page(browser, serve(backend, web, TOKENS)) as checked:
        page = checked.open("stream/door")
        page.get_by_label("Token").fill(VIEW)
        page.keyboard.press("Enter")
        expect(page.get_by_text("2 in, 0 out").first).to_be_visible()
        expect(page.get_by_role("button", name="Reset counts")).to_be_hidden()
