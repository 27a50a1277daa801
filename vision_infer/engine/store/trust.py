"""Compiled engines are code: they are loaded only from where nobody else can have put them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vision_infer.core.errors import EngineError

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def make_trusted_folder(folder: Path) -> None:
    """Make the folder, for its owner alone, where it is not there; check it where it is.

    Raises:
        EngineError: it cannot be made, is no folder, belongs to somebody else, or others may write there.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(f"{folder}: cannot be made: {error.strerror}", "name another folder with --engine-dir") from error
    refuse_untrusted(folder)


def refuse_untrusted(path: Path) -> None:
    """Check a file or folder that something is to be loaded from; a link is not followed.

    Raises:
        EngineError: it is a link, belongs to somebody else than us and root, or others may write there.
    """
    try:
        found = path.lstat()
    except OSError as error:
        raise EngineError(f"{path}: cannot be read: {error.strerror}", "name another folder with --engine-dir") from error
    if stat.S_ISLNK(found.st_mode):
        # The folder itself may be reached through a link of its owner's; what lies inside may not.
        raise EngineError(f"{path}: is a link", "engines are loaded only from the folder itself")
    if found.st_uid not in (os.geteuid(), 0):
        raise EngineError(
            f"{path}: belongs to somebody else (user {found.st_uid})", "name a folder of your own with --engine-dir"
        )
    if found.st_mode & WRITABLE_BY_OTHERS:
        raise EngineError(f"{path}: others may write there", f"chmod go-w {path}, or name another folder with --engine-dir")
