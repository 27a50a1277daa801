"""The command in a separate process, as a user runs it, and in the test's own process."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from vision_infer.cli import main as main_module

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run ``vision-infer`` in an empty folder with an empty model folder."""

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


class _Left(BaseException):
    """The command exits with a status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@pytest.fixture
def in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run ``vision-infer`` in this process, because starting another one takes longer than the test."""

    def leave(status: int) -> NoReturn:
        raise _Left(status)

    monkeypatch.setattr(main_module, "leave", leave)
    monkeypatch.setenv("VISION_INFER_HOME", str(tmp_path / "home"))

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        words = ["vision-infer", *map(str, arguments)]
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        with contextlib.chdir(tmp_path), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            monkeypatch.setattr(sys, "argv", words)
            with pytest.raises(_Left) as left:
                main_module.main()
        texts = [stream.buffer.getvalue().decode() for stream in (out, err)]
        return subprocess.CompletedProcess(words, left.value.status, *texts)

    return run
