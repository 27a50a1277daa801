"""The interactive documentation of the API, without other hosts."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.checked_page import NARROW, checked_page
from tests.service.fakes import ADMIN, TOKENS, FakeBackend
from vision_infer.service.http.app import make_app
from vision_infer.service.http.server import WebServer


@pytest.mark.slow  # 9 s
def test_a_request_is_sent_from_the_documentation(browser: Browser) -> None:
    backend = FakeBackend(port=0)
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, TOKENS))
        with checked_page(browser, web.url) as checked:
            page = checked.page
            page.goto(f"{web.url}/docs")
            expect(page.get_by_text("send 'Authorization: Bearer TOKEN'")).to_be_visible()
            page.get_by_role("link", name="Log in on the page").click()
            page.get_by_label("Token").fill(ADMIN)
            page.keyboard.press("Enter")
            page.get_by_role("link", name="API", exact=True).click()
            expect(page.get_by_text("The REST API of vision-infer")).to_be_visible()
            version = page.locator(".opblock", has_text="/api/v1/version")
            version.locator(".opblock-summary-control").click()
            version.get_by_role("button", name="Try it out").click()
            version.get_by_role("button", name="Execute").click()
            expect(version.locator(".live-responses-table")).to_contain_text('"name": "vision-infer"')
            checked.shot("docs")
            page.set_viewport_size({"width": NARROW["width"], "height": NARROW["height"]})
            page.emulate_media(color_scheme="dark")
            page.reload()
            expect(page.get_by_text("The REST API of vision-infer")).to_be_visible()
            checked.shot("docs-dark")
            checked.expect_quiet("401 (Unauthorized)", "whep")  # the stream of this backend has no video
