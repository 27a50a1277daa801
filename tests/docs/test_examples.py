"""The configurations that the pages show are valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.support.media import ROOT
from vision_infer.config.serve import ServeFile
from vision_infer.config.serve_file import load_settings

DOCS = ROOT / "docs"
SECRET = re.compile(r"/run/[\w./-]+\w")


def configurations() -> list[tuple[str, str]]:
    """Return every YAML block that is a configuration, with the page it is on."""
    found = []
    for page in sorted(DOCS.rglob("*.md")):
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            read = yaml.safe_load(block)
            if isinstance(read, dict) and "streams" in read and set(read) <= set(ServeFile.model_fields):
                found.append((str(page.relative_to(DOCS)), block))
    return found


@pytest.mark.parametrize(("page", "text"), configurations())
def test_a_configuration_loads(page: str, text: str, tmp_path: Path) -> None:
    for number, name in enumerate(dict.fromkeys(SECRET.findall(text))):
        secret = tmp_path / str(number)
        secret.write_text(f"a-long-enough-secret-{number}", encoding="utf-8")
        text = text.replace(name, str(secret))
    variables = dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), "a secret")
    path = tmp_path / "cameras.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_settings(path, [], variables, {}).model_fields_set, page
