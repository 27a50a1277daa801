"""What the README shows, works."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.support.media import ROOT, bikes

README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_are_snippets_of_both_interfaces() -> None:
    assert any("Detector(" in snippet for snippet in SNIPPETS)
    assert any("Pipeline(" in snippet for snippet in SNIPPETS)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import cv2

    shutil.copy(bikes(), tmp_path / "video.mp4")
    capture = cv2.VideoCapture(str(tmp_path / "video.mp4"))
    capture.set(cv2.CAP_PROP_POS_FRAMES, 120)
    cv2.imwrite(str(tmp_path / "photo.jpg"), capture.read()[1])
    capture.release()
    monkeypatch.chdir(tmp_path)
    exec(compile(SNIPPETS[number], f"README snippet {number}", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()


def test_links_to_files_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", README):
        assert (ROOT / target).exists(), target
