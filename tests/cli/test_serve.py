"""``vision-infer serve`` in a separate process: validated, started and stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import Command
from tests.support.free_port import free_port
from tests.support.result_schema import validate_row

LONG_S = 60.0
STOP_S = 5.0
"""what the page promises"""


class Process:
    """A service in a separate process.

    Args:
        folder: The working folder.
        arguments: The arguments of ``serve``.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        words = [sys.executable, "-m", "vision_infer", "serve", *arguments]
        own = {"VISION_INFER_HOME": str(folder / "home"), "VISION_INFER_PREVIEW__PORT": str(free_port())}
        environment = {**os.environ, **own}
        self.process = subprocess.Popen(
            words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            self.lines.extend(iter(lines.readline, ""))

    def until(self, condition: object) -> None:
        assert callable(condition)
        deadline = time.monotonic() + LONG_S
        while not condition():
            assert time.monotonic() < deadline, f"waited {LONG_S} s; it said: {self.text}"
            assert self.process.poll() is None, f"it has ended; it said: {self.text}"
            time.sleep(0.02)

    @property
    def text(self) -> str:
        return "".join(self.lines)

    @property
    def url(self) -> str:
        self.until(lambda: "serves on" in self.text)
        found = re.search(r"^vision-infer serves on (http://127\.0\.0\.1:(\d+))\b", self.text, re.MULTILINE)
        assert found, self.text
        assert int(found[2]) > 0
        return found[1]

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, trust_env=False, timeout=LONG_S)

    def wait_ready(self) -> None:
        self.until(lambda: self.get("/readyz").status_code == 200)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        status = self.process.wait(LONG_S)
        self._reader.join(LONG_S)
        return status


@contextmanager
def serve(folder: Path, *arguments: str) -> Iterator[Process]:
    started = Process(folder, *arguments)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
        started.wait()


def test_a_configuration_is_validated(command: Command, tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text(
        "streams:\n  a: {url: 'test://'}\n  b: {url: 'rtsp://u:hunter2@10.0.0.1/', model: clock}\n"
    )
    done = command("serve", "serve.yaml", "--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok: 2 streams: a, b\n", "")
    done = command("serve", "serve.yaml", "test://", "--check", "--model", "clock")
    assert done.returncode == 0
    assert done.stdout.startswith("ok: 3 streams: a, b, ")
    (tmp_path / "serve.yaml").write_text("streams:\n  a: {url: 'test://', model: nonsense}\n")
    done = command("serve", "serve.yaml", "--check")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert "nonsense" in done.stderr
    folder = tmp_path / "home" / "models" / "faces"
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text("name: faces\ntask: embed\ninput: {width: 96, height: 96}\n")
    (folder / "model.onnx").touch()
    (folder.parent / "labeled").mkdir()
    (folder.parent / "labeled" / "model.yaml").write_text("name: labeled\ntask: classify\ninput: {width: 96, height: 96}\n")
    (folder.parent / "labeled" / "model.onnx").touch()
    for stream, said in (
        (
            "model: faces, secondary: faces",
            "streams.a.secondary: faces is a model for 'embed' and has no detections. Leave it out",
        ),
        (
            "secondary: labeled, track: true, reidentify: {}",
            "streams.a.reidentify: labeled is a model for 'classify' and has no embeddings to compare. Choose",
        ),
        ("secondary: clock", "streams.a.secondary: clock is a model for 'detect'. Choose a model for"),
    ):
        (tmp_path / "serve.yaml").write_text(f"streams:\n  a: {{url: 'test://', {stream}}}\n")
        done = command("serve", "serve.yaml", "--check")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert said in done.stderr


def test_all_problems_of_a_configuration_are_reported_without_secrets(command: Command, tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text(
        "service:\n  port: 99999\n  token: hunter2\n"
        "streams:\n"
        "  door:\n    url: rtsp://admin:hunter2@10.0.0.1/main\n    fsp: 5\n    weight: -1\n"
        "  yard:\n    url: gopher://admin:hunter2@10.0.0.1/\n"
    )
    for check in (["--check"], []):
        done = command("serve", "serve.yaml", *check)
        assert (done.returncode, done.stdout) == (2, "")
        lines = done.stderr.splitlines()
        assert len(lines) == 5, done.stderr
        assert all(line.startswith("error: serve.yaml: line ") for line in lines)
        for field in ("service.port", "service.token", "streams.door.fsp", "streams.door.weight", "streams.yard.url"):
            assert [line for line in lines if field in line], field
        assert "hunter2" not in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["missing.yaml"], 2, "missing.yaml"),
        (["a.yaml", "b.yaml"], 2, "a second configuration"),
        (["gopher://u:hunter2@host/"], 2, "unknown scheme"),
        (["test://", "--model", "nonsense"], 3, "nonsense"),
        (["test://", "--port", "99999"], 2, "--port"),
        (["test://", "--model", "clock", "--device", "cuda:0,tpu"], 2, "device: unknown device 'tpu'"),
        (["test://", "--model", "clock", "--engine", "nonsense", "--port", "0"], 4, "nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_failed_start_is_a_one_line_error(command: Command, arguments: list[str], status: int, expected: str) -> None:
    done = command("serve", *arguments)
    assert done.returncode == status, done.stderr
    assert expected in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert len([line for line in done.stderr.splitlines() if line.lower().startswith("error")]) == 1


def test_a_port_in_use_is_a_one_line_error(command: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = command("serve", "test://", "--model", "clock", "--port", str(port))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert str(port) in done.stderr
    assert done.stderr.startswith("error: ")


def test_sigterm_completes_frames_in_flight(tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text(
        "model: clock\nresults: {jsonl: '{stream}.jsonl'}\n"
        "streams:\n  a: {url: 'test://?fps=20'}\n  b: {url: 'test://?fps=10'}\n"
        "  hung: {url: 'rtsp://user:hunter2@127.0.0.1:9/main'}\n"
    )
    with serve(tmp_path, "serve.yaml", "--port", "0") as started:
        started.wait_ready()
        files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
        started.until(lambda: all(file.exists() and file.read_text().count("\n") > 5 for file in files))
        reached = httpx.get(f"{started.url}/api/v1/streams/a", trust_env=False).json()["status"]["results"]
        began = time.monotonic()
        started.signal(signal.SIGTERM)
        assert started.wait() == 0, started.text
        assert time.monotonic() - began < STOP_S
        for file in files:
            text = file.read_text()
            assert text.endswith("}\n")
            rows = [json.loads(line) for line in text.splitlines()]
            for row in rows:
                validate_row(row)
            frames = [row["frame"] for row in rows]
            assert frames == sorted(set(frames))
        assert files[0].read_text().count("\n") >= reached
        assert "Traceback" not in started.text
        assert "hunter2" not in started.text
        assert "hunter2" not in "".join(path.read_text() for path in tmp_path.glob("*.jsonl"))


def test_a_second_signal_ends_the_service_immediately(tmp_path: Path) -> None:
    called = tmp_path / "called"  # only then does the service wait for it
    (tmp_path / "slow.py").write_text(
        "import pathlib, threading\n\n"
        f"def hook(frame, result):\n    pathlib.Path({str(called)!r}).touch()\n    threading.Event().wait()\n"
    )
    (tmp_path / "serve.yaml").write_text("model: clock\nstreams:\n  a: {url: 'test://', hook: 'slow:hook'}\n")
    with serve(tmp_path, "serve.yaml", "--port", "0") as started:
        started.wait_ready()
        started.until(called.exists)
        started.signal(signal.SIGTERM)
        started.until(lambda: "stopping" in started.get("/readyz").text)
        began = time.monotonic()
        started.signal(signal.SIGTERM)
        assert started.wait() == 128 + signal.SIGTERM
        assert time.monotonic() - began < 2


def test_without_sources_the_service_starts_empty_and_streams_are_added_over_the_api(tmp_path: Path) -> None:
    with serve(tmp_path, "--port", "0", "--model", "clock") as started:
        assert started.get("/healthz").status_code == 200
        started.wait_ready()
        assert "test" not in started.get("/api/v1/streams").text
        made = httpx.put(
            f"{started.url}/api/v1/streams/cam", json={"detect": "test://?size=320x180&fps=10"}, trust_env=False, timeout=LONG_S
        )
        assert made.status_code == 201, made.text
        started.until(lambda: started.get("/api/v1/streams/cam").json()["status"]["state"] == "live")
        started.signal(signal.SIGKILL)
        assert started.wait() == -signal.SIGKILL
    with serve(tmp_path, "--port", "0", "--model", "clock") as started:
        started.until(lambda: started.get("/api/v1/streams/cam").json()["status"]["state"] == "live")
        began = time.monotonic()
        started.signal(signal.SIGINT)
        assert started.wait() == 0
        assert time.monotonic() - began < STOP_S


def test_the_address_that_is_printed_is_true(tmp_path: Path) -> None:
    with serve(tmp_path, "--host", "0.0.0.0", "--port", "0") as serving:
        serving.until(lambda: "and on all other addresses of this machine" in serving.text)
        assert serving.get("/healthz").status_code == 200
