"""A small disk that is soon full, and a user without write permission everywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65_534


@contextmanager
def small_disk(size: int) -> Iterator[Path]:
    """Mount a file system of this size in bytes; skip the test if mounting is not permitted."""
    folder = Path(tempfile.mkdtemp(prefix="small-disk-"))
    try:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        mounted = shutil.which("mount") and subprocess.run(command, capture_output=True, check=False).returncode == 0
        if not mounted:
            pytest.skip("a small disk cannot be mounted here")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)
    finally:
        folder.rmdir()


@contextmanager
def ordinary_user() -> Iterator[Path]:
    """Yield an empty folder, and drop root's permissions outside of it for the duration."""
    folder = Path(tempfile.mkdtemp(prefix="ordinary-"))
    root = os.geteuid() == 0
    try:
        if root:
            os.chown(folder, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)
        shutil.rmtree(folder)
