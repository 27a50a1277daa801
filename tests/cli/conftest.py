"""The command as a user runs it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs ``vision-infer`` in an empty folder, with a model folder of its own."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "vision_infer", *map(str, arguments)]
        environment = {**os.environ, "VISION_INFER_HOME": str(tmp_path / "home")}
        return subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    return run
