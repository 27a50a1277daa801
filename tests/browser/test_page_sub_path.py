"""The page under a path of another server, behind a real proxy."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.checked_page import checked_page
from tests.support.nginx import nginx
from tests.support.serve_process import ServeProcess

TOKEN = "a token of the tests"


@pytest.mark.parametrize("root_path", ["/vision", ""])
def test_the_page_works_under_a_path(browser: Browser, tmp_path: Path, root_path: str) -> None:
    """The page also works if the service does not know the path; only the cookie is then sent to the whole host."""
    text = f"""service: {{port: 0, token: {TOKEN}, root_path: "{root_path}"}}
model: clock
streams: {{cam: {{url: "test://?fps=10", fps: 5, track: true}}}}
"""
    (tmp_path / "nginx").mkdir()
    service = ServeProcess(tmp_path, text)
    service.token = TOKEN
    with (
        service as serve,
        nginx(tmp_path / "nginx", serve.port, "/vision/") as address,
        checked_page(browser, address) as checked,
    ):
        page = checked.open()
        answers: list[tuple[int, str]] = []
        page.on("response", lambda answer: answers.append((answer.status, answer.url)))
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("link", name="Open cam").click()
        checked.wait("document.querySelector('.stage')?.dataset.mode === 'webrtc'")
        expect(page.locator(".via")).to_contain_text("WebRTC, ")  # read from the session
        checked.wait("document.querySelector('.plot .u-legend .u-value')?.textContent !== '--'")  # over the WebSocket
        (cookie,) = page.context.cookies()
        assert cookie["path"] == f"{root_path}/"
        for view in ("engines", "cost", "try", "add"):
            checked.open(view)
            expect(page.get_by_role("heading").first).to_be_visible()
        checked.shot("sub-path")
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        assert page.context.cookies() == []
        assert [url for _, url in answers if "/vision/" not in url] == []
        assert [answer for answer in answers if answer[0] >= 400 and answer[0] != 401] == []
        checked.expect_quiet("401 (Unauthorized)")
