"""Check that the version, the newest section of ``CHANGELOG.md`` and the tag of a release agree.

``python -m docs.check_release`` reads the tag, such as ``v1.2.3``, from the environment variable ``TAG``. It prints what does not
agree, and then exits with status 1. Without a tag, the section may be ``unreleased``, and the package may have no URLs, since the
project has no public address before its first release.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Collection
from pathlib import Path

from vision_infer import __version__

ROOT = Path(__file__).resolve().parents[1]
SECTION = re.compile(r"^## (.*)$", re.MULTILINE)
URLS = ("Source", "Issues", "Changelog")
"""The addresses that a released package must name."""


def problem(version: str, changelog: str, tag: str = "", urls: Collection[str] = ()) -> str:
    """Return what does not agree and what to do, or an empty text."""
    newest = SECTION.search(changelog)
    heading = re.fullmatch(r"\[(\S+)\] - (unreleased|\d{4}-\d\d-\d\d)", newest[1]) if newest else None
    if heading is None:
        return "CHANGELOG.md has no section at its top such as '## [1.2.3] - 2030-12-31' or '## [1.2.3] - unreleased'. Add it."
    if heading[1] != version:
        return f"CHANGELOG.md begins with {heading[1]}, but the version is {version}. Change one of the two."
    if tag and tag != f"v{version}":
        return f"the tag is {tag}, but the version is {version}. Tag the release v{version}, or change the version first."
    if tag and heading[2] == "unreleased":
        return f"CHANGELOG.md has no date for {version}. Write '## [{version}] - YYYY-MM-DD', and move the tag to that commit."
    if tag and (missing := [name for name in URLS if name not in urls]):
        names = " and no ".join(missing)
        return f"pyproject.toml has no {names} in [project.urls]. Add the addresses, and move the tag to that commit."
    return ""


def main() -> int:
    """Print the problem, if there is one."""
    changelog, about = ((ROOT / name).read_text(encoding="utf-8") for name in ("CHANGELOG.md", "pyproject.toml"))
    urls = tomllib.loads(about)["project"].get("urls", {})
    found = problem(__version__, changelog, os.environ.get("TAG", ""), urls)
    if found:
        print(found, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
