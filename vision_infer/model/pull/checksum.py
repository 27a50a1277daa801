"""Checksums of files that were fetched: those that a source states, and those that were seen at the first time."""

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
    """A checksum as a source states it."""

    kind: Literal["sha256", "md5"]
    digits: str
    """hexadecimal, from the beginning: torchvision states the first eight of a SHA-256"""

    def __str__(self) -> str:
        whole = {"sha256": 64, "md5": 32}[self.kind]
        return f"{self.kind} {self.digits}" + ("…" if len(self.digits) < whole else "")

    def matches(self, path: Path) -> bool:
        """Whether a file has it."""
        return hash_file(path, self.kind).startswith(self.digits)


def parse_checksum(text: str) -> Checksum | None:
    """``sha256:`` and 8 to 64 digits, or ``md5:`` and 32; None for an empty text.

    Raises:
        ValueError: it is neither.
    """
    if not text:
        return None
    match = _STATED.fullmatch(text)
    if match is None:
        raise ValueError("write sha256: and 8 to 64 hexadecimal digits, or md5: and 32")
    return Checksum("sha256", match["sha"]) if match["sha"] else Checksum("md5", match["md5"])


def hash_file(path: Path, kind: Literal["sha256", "md5"] = "sha256") -> str:
    """The checksum of a file, hexadecimal."""
    with path.open("rb") as stream:
        # MD5 tells a damaged file; where it is all that a source states, it is better than nothing.
        return hashlib.file_digest(stream, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


@dataclass(frozen=True, slots=True)
class FirstSeen:
    """What a file was like when it was first fetched; kept beside it as ``NAME.seen.json``."""

    url: str
    sha256: str
    nbytes: int


def read_first_seen(target: Path) -> FirstSeen | None:
    """What was noted of a file; None where nothing was, or the note cannot be read."""
    try:
        data = json.loads(note_of(target).read_text(encoding="utf-8"))
        return FirstSeen(str(data["url"]), str(data["sha256"]), int(data["nbytes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def note_first_seen(target: Path, seen: FirstSeen) -> None:
    """Note what a file is like.

    Raises:
        OSError: it cannot be written.
    """
    text = json.dumps({"url": seen.url, "sha256": seen.sha256, "nbytes": seen.nbytes}, indent=1)
    note_of(target).write_text(text + "\n", encoding="utf-8")


def check_file(path: Path, stated: Checksum | None, seen: FirstSeen | None, shown: str) -> str:
    """Hold a file against what is stated and what was seen before; its SHA-256.

    Args:
        path: the file.
        stated: by its source.
        seen: at the first time, which counts where nothing is stated.
        shown: what it is called.

    Raises:
        ModelError: it is another file.
    """
    if stated is not None and not stated.matches(path):
        raise ModelError(
            f"{shown}: its checksum is wrong: {hash_file(path, stated.kind)}, where its source states {stated}",
            "it was damaged or exchanged on its way; fetch it again, from another network perhaps",
        )
    found = hash_file(path)
    if stated is None and seen is not None and seen.sha256 != found:
        raise ModelError(
            f"{shown}: is not the file that was fetched before: sha256 {found[:16]}…, then {seen.sha256[:16]}…",
            f"where its authors say that they have changed it, remove {note_of(path).name} beside it, and pull again",
        )
    return found


def note_of(target: Path) -> Path:
    """Where it is noted what a file was like."""
    return target.with_name(f"{target.name}.seen.json")
