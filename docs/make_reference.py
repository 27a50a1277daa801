"""Writes the pages of ``docs/reference/`` from the code, or checks that they are up to date (``--check``).

Run it from the root of the repository: ``python -m docs.make_reference``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from docs.generate import api, cli, integrations, metrics, results, settings

FOLDER = Path(__file__).with_name("reference")
PAGES: Mapping[str, Callable[[], str]] = {
    "cli.md": cli.page,
    "settings.md": settings.page,
    "api.md": api.page,
    "metrics.md": metrics.page,
    "results.md": results.page,
    "integrations.md": integrations.page,
}


def main() -> int:
    """Write the pages, or compare them."""
    check = "--check" in sys.argv[1:]
    status = 0
    for name, page in PAGES.items():
        path, text = FOLDER / name, page().rstrip() + "\n"
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"docs/reference/{name} is out of date: run 'make format'", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
