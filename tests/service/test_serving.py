"""The service from start to end in this process: HTTP server, configuration file, and hanging engines."""

from __future__ import annotations

import json
import os
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
from aiortc import RTCRtpSender

from tests.pipeline.fakes import LONG_S, wait_for
from tests.service.site import Engines, engines
from tests.support.free_port import free_port
from tests.support.result_schema import validate_row
from tests.support.waiting import wait_until
from vision_infer.config.serve import ServeSettings
from vision_infer.config.serve_file import load_settings
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import EngineError, ModelError, UsageError
from vision_infer.service import serving
from vision_infer.service.operations.file_watch import FileWatch
from vision_infer.service.serving import Start, serve
from vision_infer.sink.archive.rotation import rotated_files

__all__ = ["engines"]
TEST = "test://?size=320x180&fps=20"


def test_a_shadow_model_needs_one_process(tmp_path: Path) -> None:
    text = f"processes: 2\nmodel: one\nshadow: {{model: two}}\nstreams: {{door: {{url: '{TEST}'}}}}\n"
    (tmp_path / "serve.yaml").write_text(text, encoding="utf-8")
    settings = load_settings(tmp_path / "serve.yaml", [], {}, {})
    start = Start(settings, None, lambda: settings, {"VISION_INFER_HOME": str(tmp_path)})
    with pytest.raises(UsageError, match="shadow: needs a service in one process"):
        serve(start, threading.Event(), lambda _: None)


class Served:
    """A service on its own thread."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder = folder
        self.file = folder / "serve.yaml"
        self.file.write_text(text)
        self.messages: list[str] = []
        self.preview_port = free_port()
        self.stopping = threading.Event()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> Start:
        environ = {"VISION_INFER_HOME": str(self.folder / "home")}
        watch = FileWatch(self.file, SYSTEM_CLOCK)
        return Start(self.load(), watch, self.load, environ)

    def load(self) -> ServeSettings:
        return load_settings(self.file, [], {"VISION_INFER_PREVIEW__PORT": str(self.preview_port)}, {})

    def _run(self) -> None:
        try:
            serve(self.start(), self.stopping, self.messages.append)
        except BaseException as error:  # noqa: BLE001
            self.error = error

    @property
    def url(self) -> str:
        wait_until(lambda: self.messages or not self.thread.is_alive(), "the service to print its URL")
        assert self.messages, self.error
        return self.messages[0].removeprefix("vision-infer serves on ").partition(" ")[0]

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, trust_env=False, timeout=LONG_S)

    def streams(self) -> dict[str, str]:
        """Return the state of each stream."""
        answer = self.get("/api/v1/streams").json()
        listed = answer["streams"] if isinstance(answer, dict) else answer
        return {one["name"]: one["status"]["state"] for one in listed}

    def stop(self) -> float:
        """Stop the service and return the duration in seconds."""
        began = time.monotonic()
        self.stopping.set()
        self.thread.join(LONG_S)
        assert not self.thread.is_alive(), "the service did not stop"
        return time.monotonic() - began


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, engines: Engines) -> None:
    monkeypatch.setattr(serving, "configure", lambda form: None)
    monkeypatch.setattr(serving, "resolve_model", engines.resolve)


@contextmanager
def serves(folder: Path, text: str) -> Iterator[Served]:
    served = Served(folder, text)
    served.thread.start()
    try:
        yield served
    finally:
        served.stop()


def test_from_start_to_end(tmp_path: Path, engines: Engines) -> None:
    rows = tmp_path / "rows.jsonl"
    streams = f"streams: {{a: {{url: '{TEST}'}}, b: {{url: '{TEST}'}}}}"
    before = '{"stream": "a", "frame": 0}\n'
    rows.write_text(before)
    os.utime(rows, (0, 0))  # written on another day
    text = f"model: one\nservice: {{port: 0}}\nresults: {{jsonl: {rows}, daily: true}}\n{streams}\n"
    with serves(tmp_path, text) as served:
        assert served.get("/healthz").status_code == 200
        wait_until(lambda: served.get("/readyz").status_code == 200)
        wait_until(lambda: served.streams() == {"a": "live", "b": "live"})
        wait_until(lambda: rows.exists() and rows.read_text().count("\n") > 10)
        assert served.stop() < serving.DRAIN_S
        assert served.error is None
        assert served.messages[1:] == [f"live video on port {served.preview_port} (UDP and TCP) of 127.0.0.1"]
        with pytest.raises(httpx.ConnectError):
            served.get("/healthz")
    assert engines.loaded == set()
    assert [older.read_text() for older in rotated_files(rows)] == [before]
    text = rows.read_text()
    assert text.endswith("}\n")
    for line in text.splitlines():
        row = json.loads(line)
        validate_row(row)
        assert row["clock"] == "camera"
    assert not [one for one in threading.enumerate() if one.name.startswith(("stream-", "inference-", "results", "live-watch"))]


def test_a_busy_preview_port_ends_the_start_and_names_the_setting(tmp_path: Path) -> None:
    served = Served(tmp_path, "model: one\nservice: {port: 0}\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", served.preview_port))
        with pytest.raises(UsageError, match=f"preview.port: cannot listen on 127.0.0.1, port {served.preview_port}.*in use"):
            serve(served.start(), served.stopping, served.messages.append)
    assert served.messages == []


def test_a_library_that_lacks_a_private_attribute_ends_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served(tmp_path, "model: one\nservice: {port: 0}\n")
    monkeypatch.delattr(RTCRtpSender, "_run_rtp")
    with pytest.raises(UsageError, match=r"aiortc 1\.16.* and aioice 0\.13.*: RTCRtpSender has no _run_rtp") as caught:
        serve(served.start(), served.stopping, served.messages.append)
    assert 'pip install "aiortc==1.16.*" "aioice==0.13.*"' in caught.value.hint


def test_a_changed_file_is_applied_unless_it_is_invalid(
    tmp_path: Path, engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    text = "model: one\nservice: {port: 0}\nstreams:\n"
    with serves(tmp_path, f"{text}  a: {{url: '{TEST}'}}\n") as served:
        wait_until(lambda: served.streams() == {"a": "live"})
        served.file.write_text(f"{text}  a: {{url: '{TEST}'}}\n  b: {{url: '{TEST}'}}\n")
        wait_until(lambda: served.streams() == {"a": "live", "b": "live"})
        served.file.write_text(f"{text}  a: {{url: '{TEST}', wieght: 3}}\n")
        wait_until(lambda: "has changed but is invalid" in caplog.text)
        assert served.streams() == {"a": "live", "b": "live"}
        served.file.write_text(f"{text}  b: {{url: '{TEST}', model: nonsense}}\n".replace("port: 0", "port: 1"))
        wait_until(lambda: served.streams() == {"b": "failed"})
        assert "service.port: restart the service" in caplog.text
        served.file.write_text(f"{text}  b: {{url: '{TEST}'}}\n")
        wait_until(lambda: served.streams() == {"b": "live"})
        served.file.unlink()
        assert served.streams() == {"b": "live"}


def test_a_service_with_one_process_loads_nothing_for_worker_processes() -> None:
    code = "import sys, vision_infer.service.serving; print('httpx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


def test_a_port_in_use_is_reported_and_nothing_is_left_behind(tmp_path: Path, engines: Engines) -> None:
    before = threading.active_count()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        served = Served(tmp_path, f"model: one\nservice: {{port: {port}}}\nstreams: {{a: {{url: '{TEST}'}}}}\n")
        with pytest.raises(UsageError, match=str(port)):
            serve(served.start(), served.stopping, served.messages.append)
    assert served.messages == []
    assert engines.opened == []
    wait_until(lambda: threading.active_count() <= before)


def test_an_unknown_model_is_reported_before_the_start(tmp_path: Path) -> None:
    served = Served(tmp_path, "model: nonsense\nservice: {port: 0}\n")
    with pytest.raises(ModelError, match="nonsense"):
        serve(served.start(), served.stopping, served.messages.append)
    assert served.messages == []


def test_an_engine_that_cannot_be_loaded_ends_the_service(tmp_path: Path) -> None:
    served = Served(tmp_path, "model: broken\nservice: {port: 0}\n")
    with pytest.raises(EngineError, match="broken: cannot be loaded"):
        serve(served.start(), served.stopping, served.messages.append)


@pytest.mark.parametrize("where", ["running", "loading"])
def test_a_hanging_engine_does_not_prevent_the_end(
    tmp_path: Path, engines: Engines, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    monkeypatch.setattr(serving, "DRAIN_S", 0.3)
    hangs, go = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        hangs.set()
        wait_for(go)

    if where == "running":
        engines.run = hang
    else:
        engines.before_open = hang
    try:
        with serves(tmp_path, f"model: one\nservice: {{port: 0}}\nstreams: {{a: {{url: '{TEST}'}}}}\n") as served:
            assert served.url
            wait_for(hangs)
            assert served.stop() < LONG_S / 3
            assert served.error is None
        assert ("were not finished within 0.3 s" in caplog.text) is (where == "running")
    finally:
        go.set()
    wait_until(lambda: not [one for one in threading.enumerate() if one.name in ("service-close", "service-start", "results")])
    assert engines.loaded == set()


def test_a_token_is_printed_once_when_not_on_loopback(tmp_path: Path, engines: Engines) -> None:
    text = "model: one\nservice: {port: 0, host: 0.0.0.0}\n"
    with serves(tmp_path, text) as served:
        assert served.get("/healthz").status_code == 200
        assert served.get("/api/v1/streams").status_code == 401
        wait_until(lambda: len(served.messages) == 3)
        token = served.messages[2].rpartition(" ")[2]
        answer = httpx.get(f"{served.url}/api/v1/streams", headers={"Authorization": f"Bearer {token}"}, trust_env=False)
        assert answer.status_code == 200
    with serves(tmp_path, text) as served:
        answer = httpx.get(f"{served.url}/api/v1/streams", headers={"Authorization": f"Bearer {token}"}, trust_env=False)
        assert answer.status_code == 200
        assert len(served.messages) == 2
    for path in (tmp_path / "home").rglob("*"):
        assert not path.is_file() or token not in path.read_text()
