"""A browser for the tests of the page."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytest.register_assert_rewrite("tests.browser.checked_page")

LIMIT_S = 240.0
"""The longest test, with starting the browser, in seconds; less than the time limit of pytest."""


@pytest.fixture(scope="module", params=[pytest.param("chromium", id=pytest.HIDDEN_PARAM)])
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """Return a headless browser: chromium, except in tests that are parametrized with others.

    One per module: Playwright runs an event loop in this thread while the browser is open.
    """
    from tests.browser.checked_page import opened_browser

    with opened_browser(request.param) as opened:
        yield opened


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """End a browser that does not answer, so that only its tests fail.

    The time limit of pytest cannot: its exception ends Playwright's event loop, and the next call waits for that loop forever.
    """
    timer = threading.Timer(LIMIT_S, end_drivers)
    timer.daemon = True
    timer.start()
    try:
        return (yield)
    finally:
        timer.cancel()


def end_drivers() -> None:
    """Kill the processes of Playwright that this process started, and their browsers; then all waiting calls fail."""
    parents: dict[int, int] = {}
    doomed: set[int] = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(folder.name)] = parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"playwright" in (folder / "cmdline").read_bytes():
                doomed.add(int(folder.name))
    while children := {pid for pid, parent in parents.items() if parent in doomed} - doomed:
        doomed |= children
    for pid in doomed:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
