"""The shadow model on the page: its figures, and the buttons of an admin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.checked_page import NARROW, checked_page
from tests.service.fakes import ADMIN, TOKENS, VIEW, FakeBackend
from vision_infer.config.service.shadow import ShadowSettings
from vision_infer.service.http.app import make_app
from vision_infer.service.http.server import WebServer
from vision_infer.service.shadow.agreement import Sums
from vision_infer.service.shadow.trial import ShadowStatus

SUMS = Sums(40, 80, 76, 72, 66.24, -2.88, (320e6, 160e6, 480e6, 480e6))


class FakeShadow:
    """A candidate that is compared, until a test promotes or ends it."""

    def __init__(self) -> None:
        settings = ShadowSettings(model="my-model", every=10)
        self.now: ShadowStatus | None = ShadowStatus(settings, "tiny", "comparing", "", "echo", {"busy": 3}, SUMS, Sums())

    def status(self) -> ShadowStatus | None:
        return self.now

    def promote(self) -> ShadowStatus:
        assert self.now is not None
        before = self.now.settings
        self.now = replace(self.now, settings=before.model_copy(update={"model": "tiny"}), current=before.model)
        return self.now

    def delete(self) -> None:
        self.now = None


@pytest.fixture
def address() -> Iterator[str]:
    backend = FakeBackend(port=0)
    backend.shadow = FakeShadow()
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, TOKENS))
        yield web.url


def test_an_admin_promotes_and_ends_the_shadow_model(browser: Browser, address: str) -> None:
    with checked_page(browser, address) as checked:
        page = checked.open("engines")
        page.get_by_label("Token").fill(ADMIN)
        page.keyboard.press("Enter")
        panel = page.get_by_role("region", name="Shadow model")
        expect(panel.get_by_role("heading")).to_have_text("Shadow model: my-model, compared with tiny")
        for name, value in (
            ("Compared frames", "40"),
            ("Detections found again", "90.0 %"),
            ("Mean IoU of these", "0.920"),
            ("Change of their scores", "\u22120.040"),
            ("Additional detections per frame", "\u22120.100"),
            ("Engine time per frame, current → candidate", "4.0 → 12 ms"),
        ):
            expect(panel.get_by_role("row", name=name).get_by_role("cell").first).to_have_text(value)
        expect(panel).to_contain_text("The candidate gets 1 of 10 frames. Not compared: busy 3.")
        checked.shot("shadow", full=True)
        panel.get_by_role("button", name="Promote").click()
        expect(page.get_by_text("Run all streams of tiny with my-model?")).to_be_visible()
        page.get_by_role("dialog").get_by_role("button", name="Promote").click()
        expect(panel.get_by_role("heading")).to_have_text("Shadow model: tiny, compared with my-model")
        panel.get_by_role("button", name="End").click()
        page.get_by_role("dialog").get_by_role("button", name="End").click()
        expect(panel).to_be_hidden()
        checked.expect_quiet("401 (Unauthorized)")


def test_a_viewer_sees_the_figures_without_buttons(browser: Browser, address: str) -> None:
    with checked_page(browser, address, viewport=NARROW, color_scheme="dark") as checked:
        page = checked.open("engines")
        page.get_by_label("Token").fill(VIEW)
        page.keyboard.press("Enter")
        panel = page.get_by_role("region", name="Shadow model")
        expect(panel).to_contain_text("90.0 %")
        expect(panel.get_by_role("button")).to_have_count(0)
        assert checked.overflow() <= 0
        checked.expect_quiet("401 (Unauthorized)")


def test_a_role_with_some_cameras_sees_engines_without_the_shadow_model(browser: Browser, address: str) -> None:
    with checked_page(browser, address) as checked:
        checked.page.route("**/api/v1/shadow", lambda route: route.fulfill(status=403, json={"detail": "the whole service"}))
        page = checked.open("engines")
        page.get_by_label("Token").fill(VIEW)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="main")).to_be_visible()
        expect(page.get_by_role("region", name="Shadow model")).to_be_hidden()
        expect(page.get_by_role("alert")).to_have_count(0)  # no error is shown
        checked.expect_quiet("401 (Unauthorized)", "403 (Forbidden)")
