"""What the documents claim about the catalog: how many of its models ``model pull`` alone makes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from vision_infer.model.pull.available import list_available

ROOT = Path(__file__).resolve().parents[2]


def test_the_documents_count_the_kinds_of_models() -> None:
    models = list_available()
    kinds = Counter("by export" if one.export else "requires manual steps" if one.by_hand else "nothing more" for one in models)
    page = (ROOT / "docs" / "how-to" / "import-a-model.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (nothing more|by export|requires manual steps) \| (\d+)", page, re.MULTILINE))
    assert {kind: int(count) for kind, count in rows.items()} == kinds
    assert len(models) == 40
    assert kinds["nothing more"] == 6
    for path in (ROOT / "README.md", ROOT / "models" / "README.md"):
        text = " ".join(path.read_text(encoding="utf-8").split())
        assert "forty openly licensed models: `" in text
        assert re.search(r"`(vision-infer )?model pull` alone makes (the )?six", text), path


def test_the_models_of_the_quick_start_need_pull_alone() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    by_name = {one.name: one for one in list_available()}
    named = re.findall(r"vision-infer model pull (\S+) +# ([\d.]+) mAP", text)
    assert named
    for name, published in named:
        assert by_name[name].export is None
        assert not by_name[name].by_hand
        assert by_name[name].accuracy[0].value == float(published)
