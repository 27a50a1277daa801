"""``docs/reference/integrations.md``: what each integration was tested with; the versions are those of ``constraints.txt``."""

from __future__ import annotations

import re
from pathlib import Path

from docs.generate.markdown import TEXT, template

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def page() -> str:
    """Return the page with the versions that the tests install."""
    versions = dict(line.lower().split("==") for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines() if "==" in line)
    names = re.findall(r"{{(.+?)}}", (TEXT / "integrations.md").read_text(encoding="utf-8"))
    return template("integrations.md", **{name: f"{name} {versions[name]}" for name in set(names)})
