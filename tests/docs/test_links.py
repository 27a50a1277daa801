"""Relative links of the Markdown files outside of docs/ lead to files and headings that exist; MkDocs checks those inside."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generate.markdown import anchor
from tests.support.media import ROOT

PAGES = sorted(page for pattern in ("*.md", "[a-z]*/README.md", "models/*/README.md") for page in ROOT.glob(pattern))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|mailto:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, heading = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if heading and linked.suffix == ".md":
            assert heading in headings(linked), target


def headings(page: Path) -> set[str]:
    """Return the anchors of a page."""
    return {anchor(text) for text in re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)}


def test_pages_that_messages_name_exist() -> None:
    for source in (ROOT / "vision_infer").rglob("*.py"):
        for path in re.findall(r"\bdocs/[\w/-]+\.md", source.read_text(encoding="utf-8")):
            assert (ROOT / path).is_file(), f"{source}: {path}"
