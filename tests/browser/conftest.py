"""One browser for all tests of the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytest.register_assert_rewrite("tests.browser.watched")


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Debian's chromium, without a window."""
    from tests.browser.watched import opened_browser

    with opened_browser() as opened:
        yield opened
