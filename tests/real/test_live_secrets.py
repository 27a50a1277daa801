"""``vision-infer serve`` never outputs a password: not in refusals, restarts, errors or responses."""

from __future__ import annotations

import json
import stat
import threading
import time
import urllib.request
from collections.abc import Iterator
from functools import partial

import pytest

from tests.support.cameras import ClockMount, RtspServer
from tests.support.fault_proxy import FaultProxy
from tests.support.serve_process import LIMIT_S, ServeProcess

USER, SECRET = "viewer", "p@ss/w0rd s3cr3t?x=1&y"
ESCAPED = "p%40ss%2Fw0rd%20s3cr3t%3Fx%3D1%26y"
TRACES = ("s3cr3t", "p@ss", "p%40ss", "w0rd", "t0ken")
"""The parts of passwords, plain and escaped."""
QUESTIONS = (
    "/api/v1/streams",
    "/api/v1/events",
    "/api/v1/engines",
    "/api/v1/models",
    "/metrics",
    "/readyz",
    "/healthz",
    "/api/v1/openapi.json",
)


class Events:
    """Collect server-sent events with results and changes of state as text."""

    def __init__(self, process: ServeProcess) -> None:
        self.text = ""
        self._url = f"http://127.0.0.1:{process.port}/api/v1/results?states=true"
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._read, name="events")

    def _read(self) -> None:
        with urllib.request.urlopen(self._url, timeout=LIMIT_S) as lines:
            self._begun.set()
            for line in lines:
                self.text += line.decode()

    def __enter__(self) -> Events:
        self._thread.start()
        assert self._begun.wait(LIMIT_S)
        return self

    def __exit__(self, *what: object) -> None:
        self._thread.join(LIMIT_S)  # the service has ended
        assert not self._thread.is_alive()


def _configuration(urls: dict[str, str], log_format: str) -> str:
    common = "open_timeout_s: 2, stall_timeout_s: 2, reconnect: {min_s: 0.1, max_s: 0.3, refused_s: 0.3}"
    streams = "".join(f"  {name}: {{detect: '{url}', {common}}}\n" for name, url in urls.items())
    return f"model: clock\nservice: {{log_format: {log_format}}}\nstreams:\n{streams}"


@pytest.fixture(scope="module", params=[pytest.param("human", marks=pytest.mark.slow), "json"])
def output(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Return all output of a service with cameras of every kind, by channel."""
    folder = tmp_path_factory.mktemp("secrets")
    camera = ClockMount("/clock", 320, 180, 10, key_interval=5)
    locked = ClockMount("/locked", 320, 180, 10, user=USER, password="another")
    with RtspServer(camera, locked) as server, FaultProxy(server.port) as network:
        urls = {
            "good": network.url("/clock?access_token=t0ken", USER, ESCAPED),
            "wrong": server.url("/locked", USER, ESCAPED),
            "unknown": server.url("/nothing", USER, ESCAPED),
            "nobody": f"rtsp://{USER}:{ESCAPED}@127.0.0.1:9/clock",
            "nowhere": f"rtsp://{USER}:{ESCAPED}@camera.invalid/clock",
            "raw": f"http://{USER}:{ESCAPED}@127.0.0.1:{server.port}/clock?token=t0ken",
        }
        with ServeProcess(folder, _configuration(urls, request.param)) as process:
            with Events(process) as events:
                _go_through(process, network, urls)
                assert process.stop()[0] == 0
            process.start()  # with the stored streams
            assert {"made", "good"} <= process.streams().keys()
            _ask_all(process)
            kept = folder / "home" / "serve" / "streams" / "made.yaml"
            assert "s3cr3t" in kept.read_text(), "the file is readable by its owner only"
            assert stat.S_IMODE(kept.stat().st_mode) == 0o600
            process.file.write_text(
                process.file.read_text() + f"  broken: {{detect: 'gopher://{USER}:{ESCAPED}@x/y', fps: -1}}\n"
            )
            process.wait(lambda: "continues with the old settings" in process.log, "the error is logged")
            assert process.stop()[0] == 0
            yield {"log": process.log, "answers": "\n".join(process.answers), "events": events.text}


def _go_through(process: ServeProcess, network: FaultProxy, urls: dict[str, str]) -> None:
    states = {"good": "live", "wrong": "refused", "unknown": "refused", "nobody": "backing_off", "nowhere": "backing_off"}
    for name, state in states.items():
        process.wait(partial(_came_into, process, name, state), f"{name}: {state}")
    network.drop()
    network.garbage()
    process.wait(lambda: process.streams()["good"]["status"]["state"] != "live", "the camera to be lost")
    network.heal()
    process.wait(lambda: process.streams()["good"]["status"]["reconnects"] > 0, "the camera to recover")
    stream = "/api/v1/streams/made"
    assert process.ask("PUT", stream, {"detect": urls["wrong"], "view": urls["good"]})[0] == 201
    shown = process.streams()["made"]["settings"]
    assert process.ask("PUT", stream, {"detect": shown["detect"], "weight": 2})[0] == 200, "*** keeps the password"
    assert process.ask("PUT", stream, {"detect": urls["wrong"], "fps": -1})[0] == 422
    assert process.ask("PUT", stream, {"detect": f"gopher://{USER}:{ESCAPED}@x/y"})[0] == 422
    assert process.ask("PUT", stream, {"detect": f"rtsp://{USER}:{SECRET}@[broken/y"})[0] == 422
    assert process.ask("PUT", stream, {"detect": [urls["wrong"]], urls["wrong"]: 1})[0] == 422
    assert process.ask("PUT", "/api/v1/streams/good", {"detect": urls["wrong"]})[0] == 409
    assert process.ask("GET", "/api/v1/streams/wrong/snapshot.jpg")[0] == 503
    _ask_all(process)


def _came_into(process: ServeProcess, name: str, state: str) -> bool:
    events = json.loads(process.ask("GET", "/api/v1/events")[1])
    return any(event["stream"] == name and event["state"] == state for event in events)


def _ask_all(process: ServeProcess) -> None:
    deadline = time.monotonic() + LIMIT_S
    for path in QUESTIONS:
        assert process.ask("GET", path)[0] == 200
        assert time.monotonic() < deadline


@pytest.mark.parametrize("where", ["log", "answers", "events"])
def test_no_output_contains_a_password(output: dict[str, str], where: str) -> None:
    text = output[where]
    assert "good" in text
    assert "***" in text
    for trace in TRACES:
        assert trace not in text, [line for line in text.splitlines() if trace in line][:3]


def test_errors_are_reported(output: dict[str, str]) -> None:
    """Only the password is hidden: the log still contains the hints."""
    for words in ("authentication failed (401)", "no such stream (404)", "connection refused", f"{USER}:***@127.0.0.1"):
        assert words in output["log"]
    assert "Traceback" not in output["log"]
