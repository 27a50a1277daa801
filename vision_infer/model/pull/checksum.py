"""Checksums of downloaded files: published ones, and those recorded at the first download."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vision_infer.core.errors import ModelError

_STATED = re.compile(r"(?P<kind>sha256):(?P<sha>[0-9a-f]{8,64})|md5:(?P<md5>[0-9a-f]{32})")


@dataclass(frozen=True, slots=True)
class Checksum:
    """A published checksum."""

    kind: Literal["sha256", "md5"]
    digits: str
    """The hexadecimal digits, or the first of them: torchvision publishes eight digits of a SHA-256."""

    def __str__(self) -> str:
        whole = {"sha256": 64, "md5": 32}[self.kind]
        return f"{self.kind} {self.digits}" + ("…" if len(self.digits) < whole else "")

    def matches(self, path: Path) -> bool:
        """Return whether a file has this checksum."""
        return hash_file(path, self.kind).startswith(self.digits)


def parse_checksum(text: str) -> Checksum | None:
    """Parse ``sha256:`` and 8–64 digits, or ``md5:`` and 32; return None for an empty text.

    Raises:
        ValueError: The text is neither.
    """
    if not text:
        return None
    match = _STATED.fullmatch(text)
    if match is None:
        raise ValueError("must be sha256: and 8 to 64 hexadecimal digits, or md5: and 32")
    return Checksum("sha256", match["sha"]) if match["sha"] else Checksum("md5", match["md5"])


def hash_file(path: Path, kind: Literal["sha256", "md5"] = "sha256") -> str:
    """Return the checksum of a file, hexadecimal."""
    with path.open("rb") as stream:
        # MD5 detects damaged files, and some sources publish nothing else.
        return hashlib.file_digest(stream, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


@dataclass(frozen=True, slots=True)
class FirstSeen:
    """The state of a file at its first download, stored next to it as ``NAME.seen.json``."""

    url: str
    sha256: str
    nbytes: int


def read_first_seen(target: Path) -> FirstSeen | None:
    """Return the record of a file's first download; None if there is none, or it cannot be read."""
    try:
        data = json.loads(note_of(target).read_text(encoding="utf-8"))
        return FirstSeen(str(data["url"]), str(data["sha256"]), int(data["nbytes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def note_first_seen(target: Path, seen: FirstSeen) -> None:
    """Record the state of a file.

    Raises:
        OSError: The record cannot be written.
    """
    text = json.dumps({"url": seen.url, "sha256": seen.sha256, "nbytes": seen.nbytes}, indent=1)
    note_of(target).write_text(text + "\n", encoding="utf-8")


def check_file(path: Path, stated: Checksum | None, seen: FirstSeen | None, shown: str) -> str:
    """Compare a file with its published checksum, or else with its first download, and return its SHA-256.

    Args:
        path: The file.
        stated: The published checksum.
        seen: The record of the first download, used if no checksum is published.
        shown: The name for errors.

    Raises:
        ModelError: The file differs.
    """
    if stated is not None and not stated.matches(path):
        raise ModelError(
            f"{shown}: the checksum {hash_file(path, stated.kind)} differs from the published {stated}",
            "The file was damaged or replaced during the transfer. Download it again, perhaps through another network.",
        )
    found = hash_file(path)
    if stated is None and seen is not None and seen.sha256 != found:
        raise ModelError(
            f"{shown}: the file differs from the first download: sha256 {found[:16]}…, before {seen.sha256[:16]}…",
            f"If its authors have announced a change, remove {note_of(path).name} next to it, and download it again.",
        )
    return found


def note_of(target: Path) -> Path:
    """Return the path of a file's record."""
    return target.with_name(f"{target.name}.seen.json")
