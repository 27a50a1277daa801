"""Other programs for tests: Python packages and npm packages that need other versions than this project.

Each is installed in a separate folder in ``tests/.media`` (ignored by git), under a hash of its requirements, and kept.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.constraints import clean_pip
from tests.support.media import MEDIA

INSTALL_S = 900
"""The time limit for an installation, in seconds."""


def python_with(*requirements: str, python: str = sys.executable, constraints: str | None = None) -> Path:
    """Return a Python with packages, in a separate environment; skip the test if they cannot be installed.

    Args:
        requirements: The packages with their versions.
        python: The Python of the environment.
        constraints: A file of constraints in the first package, relative to the folder of the packages.
    """

    def install(folder: Path) -> None:
        subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True, timeout=INSTALL_S)
        pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", "--quiet", "--no-compile"]
        if constraints is not None:
            subprocess.run([*pip, "--no-deps", requirements[0]], env=clean_pip(), check=True, timeout=INSTALL_S)
            (file,) = folder.glob(f"lib/*/site-packages/{constraints}")
            pip += ["--constraint", str(file)]
        subprocess.run([*pip, *requirements], env=clean_pip(), check=True, timeout=INSTALL_S)

    return _installed(f"{python} {requirements} {constraints}", requirements[0], install) / "bin/python"


def npm_command(package: str, command: str) -> Path:
    """Return a command of an npm package; skip the test if it cannot be installed."""

    def install(folder: Path) -> None:
        npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), package]
        subprocess.run(npm, check=True, timeout=INSTALL_S)

    return _installed(package, package, install) / "node_modules/.bin" / command


def _installed(recipe: str, name: str, install: Callable[[Path], None]) -> Path:
    folder = MEDIA / "programs" / hashlib.sha256(recipe.encode()).hexdigest()[:16]
    complete = folder / "complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            install(folder)
        except (OSError, subprocess.SubprocessError):
            shutil.rmtree(folder)
            pytest.skip(f"{name} cannot be installed")
        complete.touch()
    return folder
