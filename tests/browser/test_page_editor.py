"""The editor of zones and lines: the keyboard, and no drawing is lost without a question."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.checked_page import CheckedPage, checked_page
from tests.service.fakes import OPEN, FakeBackend
from vision_infer.service.http.app import make_app
from vision_infer.service.http.server import WebServer

CORNERS = ((0.2, 0.2), (0.7, 0.2), (0.7, 0.7), (0.2, 0.7))


@dataclass
class Editor:
    """The open editor of the stream ``yard``."""

    checked: CheckedPage
    backend: FakeBackend

    @property
    def page(self) -> Page:
        return self.checked.page

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def click(self, *places: tuple[float, float]) -> None:
        box = self.page.locator("svg.editor").bounding_box()
        assert box is not None
        for x, y in places:
            self.page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])

    def saved(self) -> tuple[list[str], list[str]]:
        """Save, and return the names of the zones and lines."""
        self.button("Save").click()
        expect(self.button("Zones and lines")).to_be_visible()
        settings = self.backend.kept["yard"].settings
        return list(settings.zones), list(settings.lines)


@pytest.fixture
def editor(browser: Browser) -> Iterator[Editor]:
    backend = FakeBackend(port=0)
    backend.put("yard", "rtsp://10.0.0.5/yard", origin="api")
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, OPEN))
        with checked_page(browser, web.url) as checked:
            checked.open("stream/yard").get_by_role("button", name="Zones and lines").click()
            yield Editor(checked, backend)
            checked.expect_quiet("503", "whep", "snapshot", "404")


def test_enter_closes_a_zone(editor: Editor) -> None:
    editor.button("New zone").click()
    editor.click(*CORNERS)
    editor.page.keyboard.press("Enter")
    expect(editor.page.get_by_label("Name of the zone")).to_have_value("zone-1")
    assert editor.saved() == (["zone-1"], [])


def test_escape_discards_the_drawing_only(editor: Editor) -> None:
    editor.button("New zone").click()
    editor.click(*CORNERS)
    editor.page.keyboard.press("Enter")
    editor.button("New line").click()
    editor.click(CORNERS[0])
    editor.page.keyboard.press("Escape")
    expect(editor.page.get_by_text("Drag corners or whole shapes")).to_be_visible()
    assert editor.saved() == (["zone-1"], [])


def test_another_tool_finishes_the_drawing_or_asks(editor: Editor) -> None:
    editor.button("New zone").click()
    editor.click(*CORNERS)
    editor.button("New line").click()
    expect(editor.page.get_by_label("Name of the zone")).to_have_value("zone-1")
    editor.click(CORNERS[0])
    editor.button("New zone").click()
    expect(editor.page.get_by_text("Discard the unfinished line?")).to_be_visible()
    editor.page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    editor.click(CORNERS[2])
    assert editor.saved() == (["zone-1"], ["line-1"])


def test_save_finishes_the_drawing_or_says_what_it_needs(editor: Editor) -> None:
    editor.button("New zone").click()
    editor.click(*CORNERS[:2])
    editor.button("Save").click()
    expect(editor.page.get_by_text("Finish the new shape (a zone needs three corners)")).to_be_visible()
    editor.checked.shot("editor-unfinished")
    editor.click(CORNERS[2])
    assert editor.saved() == (["zone-1"], [])


def test_cancel_asks_before_it_discards_changes(editor: Editor) -> None:
    editor.button("New zone").click()
    editor.click(*CORNERS[:1])
    editor.button("Cancel").click()
    editor.page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(editor.button("Save")).to_be_visible()
    editor.button("Cancel").click()
    editor.page.get_by_role("dialog").get_by_role("button", name="Discard").click()
    expect(editor.button("Zones and lines")).to_be_visible()
    editor.button("Zones and lines").click()
    editor.button("Cancel").click()  # nothing has changed
    expect(editor.button("Zones and lines")).to_be_visible()
