"""A browser for the tests of the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytest.register_assert_rewrite("tests.browser.checked_page")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return headless chromium. One per module: Playwright runs an event loop in this thread while the browser is open."""
    from tests.browser.checked_page import opened_browser

    with opened_browser() as opened:
        yield opened
