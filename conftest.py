"""Profiles of Hypothesis, and a check of the skipped tests.

`make test` runs the same examples each time (the profile ``quick``), `make test-all` runs new ones, and more. In CI
(``CI=true``) the run fails if a test is skipped for a reason that ``tests/allowed_skips.txt`` does not list.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("other", deadline=None)  # the duration of an example is not checked
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.register_profile("quick", hypothesis.settings.get_profile("repeatable"), max_examples=40)
hypothesis.settings.load_profile("other")

ALLOWED = Path(__file__).parent / "tests" / "allowed_skips.txt"
_unlisted: list[str] = []


def _patterns() -> list[re.Pattern[str]]:
    lines = ALLOWED.read_text(encoding="utf-8").splitlines()
    return [re.compile(line.strip()) for line in lines if line.strip() and not line.startswith("#")]


@pytest.hookimpl
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record a skipped test whose reason is not listed."""
    _note(report.skipped, report.nodeid, report.longrepr)


@pytest.hookimpl
def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Record a skipped module whose reason is not listed (``pytest.importorskip``)."""
    _note(report.skipped, report.nodeid, report.longrepr)


def _note(skipped: bool, where: str, longrepr: object) -> None:
    if skipped and isinstance(longrepr, tuple):
        reason = str(longrepr[2]).removeprefix("Skipped: ")
        if not any(pattern.fullmatch(reason) for pattern in _patterns()):
            _unlisted.append(f"{where}: {reason}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run in CI if a skip is not listed."""
    if _unlisted and os.environ.get("CI") == "true":
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the skips that are not listed."""
    if _unlisted:
        terminalreporter.section("skips that tests/allowed_skips.txt does not list")
        for line in _unlisted:
            terminalreporter.line(line)
