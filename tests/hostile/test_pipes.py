"""A pipe in place of a file is refused: opening one without a writer would wait forever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.media import ROOT


@pytest.mark.parametrize("place", ["configuration", "reference", "secret"])
def test_a_pipe_is_refused(tmp_path: Path, place: str) -> None:
    pipe = tmp_path / ("cameras.yaml" if place == "configuration" else "pipe")
    os.mkfifo(pipe)
    file = tmp_path / "cameras.yaml"
    if place == "reference":
        file.write_text("streams: {a: {url: 'rtsp://u:${file:pipe}@h/x'}}\n")
    elif place == "secret":
        file.write_text("service: {token: 'file:pipe'}\n")
    line = [sys.executable, "-m", "vision_infer", "serve", str(file), "--check"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "not a regular file" in done.stderr
