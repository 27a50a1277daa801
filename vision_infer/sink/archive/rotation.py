"""When a service begins a new file of rows, the names of the finished ones, and how many it keeps."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

DAY_NS = 86_400 * 1_000_000_000
PARTS = ".parts"
"""The suffix of the hidden folder in which a file is assembled."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a new file is begun, and how many finished ones are kept."""

    max_bytes: int | None = None
    """The maximum size of a file; None: unlimited."""
    daily: bool = False
    """Whether a new file is begun with each day (UTC)."""
    keep: int = 10
    """The number of finished files that are kept, for each name; older ones are deleted."""
    every_s: float = float("inf")
    """The maximum time that a Parquet file covers, seconds."""


NO_ROTATION = Rotation()


def next_name(path: Path, wall_ns: int) -> Path:
    """Return a name with the time, ``NAME-20261124T180000Z.jsonl``, that sorts after all finished files and is not taken.

    Raises:
        OSError: The folder cannot be read.
    """
    stamp, number = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(wall_ns // 1_000_000_000)), 1
    others = max(_stamped(path)[-1:] + _stamped(path, ".", PARTS)[-1:], default=None)
    if others is not None and others[0] >= stamp:  # the same second, or a clock that was set back
        stamp, number = others[0], others[1] + 1
    return path.with_stem(f"{path.stem}-{stamp}" if number == 1 else f"{path.stem}-{stamp}-{number}")


def rotated_files(path: Path) -> list[Path]:
    """Return the finished files of this name, oldest first.

    Raises:
        OSError: The folder cannot be read.
    """
    return [path.with_name(name) for _, _, name in _stamped(path)]


def left_behind(path: Path) -> list[Path]:
    """Return the folders of parts that an earlier process left for a file of this name, oldest first.

    Raises:
        OSError: The folder cannot be read.
    """
    return [path.with_name(name) for _, _, name in _stamped(path, ".", PARTS)] if path.parent.is_dir() else []


def delete_older(path: Path, keep: int) -> None:
    """Delete the finished files of this name, except the newest."""
    with suppress(OSError):
        files = rotated_files(path)
        for older in files[: max(0, len(files) - keep)]:
            with suppress(OSError):
                older.unlink()


def _stamped(path: Path, prefix: str = "", suffix: str = "") -> list[tuple[str, int, str]]:
    """Return time, number and name of the entries whose name has a time, oldest first."""
    ends = re.escape(path.suffix + suffix)
    pattern = re.compile(rf"{re.escape(prefix + path.stem)}-(\d{{8}}T\d{{6}}Z)(?:-(\d+))?{ends}", re.ASCII)
    matches = [pattern.fullmatch(entry.name) for entry in path.parent.iterdir()]
    return sorted((match[1], int(match[2] or 1), match[0]) for match in matches if match)
