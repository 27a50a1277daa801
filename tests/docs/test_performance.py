"""The pages with measured figures: each table has its own machine, date, commit and command."""

from __future__ import annotations

import re

import pytest

from benchmarks.machine import describe_machine, source_line
from tests.support.media import ROOT

PAGES = ("docs/explanation/performance.md", "docs/explanation/performance-live.md")
SOURCE = re.compile(r".+, \d+ cores, \d{4}-\d\d-\d\d, commit [0-9a-f]{7,}\+?, `[^`]+`\..*")


def tables(text: str) -> list[tuple[str, str]]:
    """Return the line before each table, and its first row."""
    lines = [line for line in text.splitlines() if line.strip()]
    return [
        (before, line)
        for before, line in zip(["", *lines], lines, strict=False)
        if line.startswith("|") and not before.startswith("|")
    ]


@pytest.mark.parametrize("page", PAGES)
def test_each_table_names_its_machine_date_commit_and_command(page: str) -> None:
    found = tables((ROOT / page).read_text(encoding="utf-8"))
    assert found
    assert not [row for before, row in found if not SOURCE.fullmatch(before)]


@pytest.mark.parametrize("page", PAGES)
def test_figures_on_random_weights_say_so(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for before, row in tables(text):
        if "YOLO11n" in row:
            assert "Random weights" in before


def test_benchmarks_print_such_a_line() -> None:
    assert SOURCE.fullmatch(source_line(describe_machine()))
