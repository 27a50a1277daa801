"""The examples of the README and of docs/get-started/python.md work."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.support.media import ROOT, bikes

PAGES = (ROOT / "README.md", ROOT / "docs" / "get-started" / "python.md")
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
SNIPPETS = [(name, text) for name, page in TEXTS.items() for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL)]


@pytest.mark.parametrize("page", TEXTS)
def test_there_are_snippets_of_both_interfaces(page: str) -> None:
    snippets = [text for name, text in SNIPPETS if name == page]
    assert any("Detector(" in snippet for snippet in snippets)
    assert any("Pipeline(" in snippet for snippet in snippets)


@pytest.mark.parametrize(("page", "snippet"), SNIPPETS)
def test_a_snippet_runs(
    page: str, snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    shutil.copy(bikes(), tmp_path / "video.mp4")
    capture = cv2.VideoCapture(str(tmp_path / "video.mp4"))
    capture.set(cv2.CAP_PROP_POS_FRAMES, 120)
    cv2.imwrite(str(tmp_path / "photo.jpg"), capture.read()[1])
    capture.release()
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, f"{page} snippet", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", TEXTS[page.name]):
        assert (page.parent / target).exists(), target
