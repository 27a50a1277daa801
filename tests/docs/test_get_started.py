"""The examples of docs/get-started/cameras.md work."""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.free_port import free_port
from tests.support.media import ROOT
from vision_infer.config.serve_file import load_settings

PAGE = (ROOT / "docs" / "get-started" / "cameras.md").read_text(encoding="utf-8")
CONFIGURATIONS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines() if line.strip()]
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
START_S = 60.0


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service of the page's first example, on a free port; yields ``127.0.0.1:PORT``."""
    home = tmp_path_factory.mktemp("home")
    command = [sys.executable, "-m", "vision_infer", "serve", "test://", "--model", "clock", "--port", "0"]
    environ = {**os.environ, "VISION_INFER_HOME": str(home), "VISION_INFER_PREVIEW__PORT": str(free_port())}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environ, cwd=home)
    assert process.stderr is not None
    found = b""
    while b"connecting" not in found or b"127.0.0.1:" not in found:
        assert select.select([process.stderr], [], [], START_S)[0], found
        part = os.read(process.stderr.fileno(), 4096)
        assert part, found
        found += part
    port = re.search(rb"127\.0\.0\.1:(\d+)", found)
    assert port is not None
    yield f"127.0.0.1:{port[1].decode()}"
    process.send_signal(signal.SIGTERM)
    process.stderr.close()
    assert process.wait(30) == 0


@pytest.mark.parametrize("number", range(len(CONFIGURATIONS)))
def test_a_configuration_loads(number: int, tmp_path: Path) -> None:
    path = tmp_path / "cameras.yaml"
    path.write_text(CONFIGURATIONS[number], encoding="utf-8")
    assert load_settings(path, (), {}, {}).streams


def test_the_commands_work_in_their_order(address: str, tmp_path: Path) -> None:
    assert len(COMMANDS) >= 8
    for line in COMMANDS:
        words = shlex.split(line.replace("127.0.0.1:8080", address))
        assert words[0] == "curl"
        done = subprocess.run(
            [*words, "--retry", "20", "--retry-delay", "1", "-S"], cwd=tmp_path, capture_output=True, timeout=120
        )
        assert done.returncode == 0, (line, done.stderr, done.stdout)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs(number: int, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(SNIPPETS[number].replace("127.0.0.1:8080", address), f"snippet {number}", "exec"), {"__name__": "__main__"})
    assert "ms old" in capsys.readouterr().out


def test_links_to_files_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", PAGE):
        assert (ROOT / "docs" / "get-started" / target).exists(), target
