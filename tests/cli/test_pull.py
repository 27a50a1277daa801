"""``vision-infer model pull`` from a local server."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.cli.conftest import Command
from tests.model.bad_server import BadServer, Reply
from tests.support import raw_networks as raw
from tests.support.waiting import wait_until
from vision_infer.cli.app import app
from vision_infer.core.errors import ModelError

CARD = """
name: mine
family: Mine
license: MIT
source: https://example.org/mine
input: { width: 160, height: 96 }
accuracy: [{ metric: "mAP", dataset: COCO val2017, value: 12.5, source: made up }]
"""
IMPORTED = "import: { head: yolox }"
EXPORTED = "export: { family: resnet/18 }"
MAIN = """
import sys
from pathlib import Path
from vision_infer.model.pull import available, download, http_file
available.available_dir = lambda: Path("catalog")
url, sys.argv[1:2] = sys.argv[1], []
download.ask = lambda _, *rest: http_file.ask(url, *rest)  # the catalog takes https:// only, and the server has no certificate
from vision_infer.cli.main import main
main()
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start ``vision-infer model pull mine`` with a separate catalog."""

    def run(server: BadServer, how: str, checksum: str, *options: str) -> subprocess.Popen[str]:
        (tmp_path / "catalog").mkdir(exist_ok=True)
        file = f'file: {{ url: "https://example.org/mine.bin", read_in: README.md, checksum: "{checksum}" }}'
        (tmp_path / "catalog" / "mine.yaml").write_text(f"{CARD}{file}\n{how}\n")
        words = [sys.executable, "-c", MAIN, server.url, "model", "pull", "mine", *options]
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment["VISION_INFER_HOME"] = str(tmp_path / "home")
        pipe = subprocess.PIPE
        return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path, env=environment)

    return run


def test_a_downloaded_model_can_be_run(start: Start, tmp_path: Path) -> None:
    data = raw.yolox(tmp_path / "made.onnx").read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    with BadServer(data, Reply(send=len(data) // 2)) as server:
        pulling = start(server, IMPORTED, f"sha256:{sha256[:8]}")
        out, err = pulling.communicate(timeout=120)
    assert pulling.returncode == 0, err
    lines = out.splitlines()
    assert lines[0] == "mine: Mine, MIT, from https://example.org/mine"
    assert lines[2] == f"the checksum matches the published one: sha256 {sha256[:8]}…"
    assert "mine.bin: verified at 160x96 (width x height), in batches of 1, 2 and 5" in out
    assert lines[-2].endswith("run it with: vision-infer run VIDEO --model mine")
    assert lines[-1].endswith("run: vision-infer engine choose mine")
    assert "the connection broke at " in err
    assert "\r" not in err
    card = (tmp_path / "home/models/mine/model.yaml").read_text()
    assert "license: MIT" in card
    assert "value: 12.5" in card
    assert f"sha256: {sha256}" in card
    with BadServer(data) as server:
        again = start(server, IMPORTED, "")
        assert "model 'mine' already exists" in again.communicate(timeout=120)[1]
        assert (again.returncode, server.asked) == (3, [])


def test_ctrl_c_keeps_the_partial_download(start: Start, tmp_path: Path) -> None:
    data, waiting = bytes(range(256)) * 1000, threading.Event()

    def hold() -> Reply:
        waiting.set()
        return Reply(drip=True)

    with BadServer(data, hold) as server:
        pulling = start(server, EXPORTED, "")
        assert waiting.wait(60)
        part = tmp_path / "home/downloads/mine/mine.bin.part"
        wait_until(lambda: part.exists() and part.stat().st_size == len(data) - 1)
        pulling.send_signal(signal.SIGINT)
        out, err = pulling.communicate(timeout=60)
        assert pulling.returncode == 130
        assert err.splitlines() == ["interrupted: 0.3 of 0.3 MB are kept; run the same command again to resume"]
        pulling = start(server, EXPORTED, "")
        out, err = pulling.communicate(timeout=60)
    assert (pulling.returncode, err) == (0, "")
    assert server.asked[1].range == f"bytes={len(data) - 1}-"
    path = tmp_path / "home/downloads/mine/mine.bin"
    assert path.read_bytes() == data
    assert "the source publishes no checksum; later downloads must match this one" in out
    assert out.splitlines()[-1].endswith(f"vision-infer model export resnet/18 --weights {path} --name mine")


def test_a_first_download_that_is_not_a_model_does_not_set_the_checksum(start: Start, tmp_path: Path) -> None:
    good = raw.yolox(tmp_path / "made.onnx").read_bytes()
    with BadServer(b"please sign in", Reply(), Reply(data=good)) as server:
        first = start(server, IMPORTED, "")
        assert "not an ONNX file" in first.communicate(timeout=120)[1]
        second = start(server, IMPORTED, "")
        err = second.communicate(timeout=120)[1]
    assert (first.returncode, second.returncode, err) == (3, 0, "")


def test_a_manually_downloaded_file_works_offline(in_process: Command, tmp_path: Path) -> None:
    raw.yolox(tmp_path / "by hand.onnx", classes=80)
    done = in_process("model", "pull", "yolox-tiny", "--file", "by hand.onnx", "--name", "own")
    assert (done.returncode, done.stderr) == (0, "")
    assert "run it with: vision-infer run VIDEO --model own" in done.stdout
    assert in_process("model", "pull", "ssdlite320", "--file", "by hand.onnx").stderr.startswith(
        "error: by hand.onnx: the checksum "
    )
    done = in_process("model", "pull", "deimv2-n", "--file", "by hand.onnx")
    assert done.returncode == 3, "the file is not a DEIMv2 model"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["yolox-nan"], "'yolox-nan' is not in the catalog. Did you mean yolox-nano"),
        (["deimv2-n"], "deimv2-n: can only be downloaded from a web page: https://huggingface.co/"),
        (["yolox-s", "--file", "nothing.onnx"], "nothing.onnx: no such file"),
        (["deimv2-n", "--file", "nothing.onnx"], "nothing.onnx: cannot be read"),
        (
            ["dfine-m"],
            "dfine-m: can only be downloaded from a web page: https://huggingface.co/ustc-community: vision-infer model",
        ),
    ],
)
def test_a_model_that_cannot_be_downloaded_is_a_one_line_error(arguments: list[str], expected: str) -> None:
    done = CliRunner().invoke(app, ["model", "pull", *arguments], standalone_mode=False)
    assert isinstance(done.exception, ModelError)
    assert str(done.exception).startswith(expected)


def test_the_catalog_is_listed_and_shown() -> None:
    def shown(*words: str) -> str:
        return CliRunner().invoke(app, ["model", *words], standalone_mode=False).stdout

    rows = json.loads(shown("list", "--available", "--json"))
    assert {"yolox-nano", "rfdetr-nano", "resnet50"} <= {row["name"] for row in rows}
    assert not any(row["here"] for row in rows)
    lines = shown("list", "--available").splitlines()
    assert len(lines) == len(rows)
    assert "yolox-nano  YOLOX  detect, 416x416, mAP 0.50:0.95 25.8 on COCO val2017, Apache-2.0" in lines
    assert shown("show", "dfine-n").startswith("# not installed; install it with: vision-infer model pull dfine-n\nname")
