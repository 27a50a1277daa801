"""Compiled engines are code: they are loaded only from folders that other users cannot write to."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from vision_infer.core.errors import EngineError

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def make_trusted_folder(folder: Path) -> None:
    """Create the folder for its owner alone, or check it if it exists.

    Raises:
        EngineError: It cannot be created, is not a folder, belongs to another user, or other users may write there.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(f"cannot create {folder}: {error.strerror}", "Name another folder with --engine-dir.") from error
    refuse_untrusted(folder)


def refuse_untrusted(path: Path) -> None:
    """Check a file or folder before something is loaded from it; a link is not followed.

    Raises:
        EngineError: It is a link, belongs to a user other than this one and root, or other users may write there.
    """
    try:
        found = path.lstat()
    except OSError as error:
        raise EngineError(f"cannot read {path}: {error.strerror}", "Name another folder with --engine-dir.") from error
    if stat.S_ISLNK(found.st_mode):
        # The folder itself may be reached through a link of its owner; its content may not.
        raise EngineError(f"{path} is a symbolic link", "engines are loaded only from the folder itself")
    if found.st_uid not in (os.geteuid(), 0):
        raise EngineError(f"{path} belongs to another user (user {found.st_uid})", "Name a folder of your own with --engine-dir.")
    if found.st_mode & WRITABLE_BY_OTHERS:
        raise EngineError(
            f"{path}: other users may write there", f"Run chmod go-w {path}, or name another folder with --engine-dir."
        )


def write_file(path: Path, content: bytes) -> None:
    """Write a file of a trusted folder at once; the later of two simultaneous writers wins.

    Raises:
        OSError: It cannot be written; the earlier file is unchanged.
    """
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(content)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
