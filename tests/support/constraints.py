"""The versions in ``constraints.txt``, and pip without the packages and constraints of this machine."""

from __future__ import annotations

import os

from packaging.utils import canonicalize_name

from tests.support.media import ROOT


def pinned(package: str) -> str:
    """Return the version of a package, by its canonical name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (version,) = (line.partition("==")[2] for line in lines if canonicalize_name(line.partition("==")[0]) == package)
    return version


def clean_pip() -> dict[str, str]:
    """Return the environment for pip, without local packages and constraints, however it is configured here."""
    local = ("PIP_FIND_LINKS", "PIP_CONSTRAINT", "PIP_NO_INDEX")
    return {name: value for name, value in os.environ.items() if name not in local} | {"PIP_CONFIG_FILE": os.devnull}
