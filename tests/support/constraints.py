"""The versions in ``constraints.txt``."""

from __future__ import annotations

from packaging.utils import canonicalize_name

from tests.support.media import ROOT


def pinned(package: str) -> str:
    """Return the version of a package, by its canonical name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (version,) = (line.partition("==")[2] for line in lines if canonicalize_name(line.partition("==")[0]) == package)
    return version
