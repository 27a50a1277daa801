"""Cameras whose user name and password are in ``credentials``, by host: over RTSP and HTTP, and in a service."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

import pytest

from tests.support.cameras import ClockMount, RtspServer
from tests.support.live_reading import Reading, message_of
from tests.support.serve_process import ServeProcess
from vision_infer.cli.camera_checks import check_cameras
from vision_infer.config.secrets.credentials import CameraCredentials
from vision_infer.core.errors import RefusedError
from vision_infer.stream.source import LiveOptions

USER, SECRET = "viewer", "p@ss/w0rd s3cr3t"
TRACES = ("s3cr3t", "p@ss", "p%40ss", "w0rd", base64.b64encode(f"{USER}:{SECRET}".encode()).decode())


def entries(**users: str) -> tuple[CameraCredentials, ...]:
    return tuple(
        CameraCredentials.model_validate({"match": match, "user": user, "password": SECRET}) for match, user in users.items()
    )


def with_credentials(*found: CameraCredentials, **more: object) -> LiveOptions:
    return LiveOptions(open_timeout_s=3, stall_timeout_s=3, credentials=found, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server() -> Iterator[RtspServer]:
    with RtspServer(ClockMount("/locked", user=USER, password=SECRET), auth="digest") as running:
        yield running


@pytest.mark.parametrize("ingest", ["rtp", "ffmpeg"])
def test_a_camera_with_digest_receives_the_credentials_of_its_host(server: RtspServer, ingest: Literal["rtp", "ffmpeg"]) -> None:
    url = server.url("/locked")
    with Reading(url, with_credentials(*entries(**{"127.0.0.0/8": USER}), ingest=ingest)) as reading:
        reading.wait_for_frames(2)
    with Reading(url, with_credentials(*entries(**{"127.0.0.2": USER}), ingest=ingest)) as reading:
        error = reading.wait_for_end()
    assert isinstance(error, RefusedError)
    assert "authentication failed (401)" in message_of(error)
    assert not any(trace in f"{error!r} {error.hint}" for trace in TRACES)


def test_the_doctor_uses_them(server: RtspServer) -> None:
    findings = check_cameras([server.url("/locked")], with_credentials(*entries(**{"127.0.0.1": USER})), 2)
    assert any(server.url("/locked") in finding.text and "h264" in finding.text for finding in findings), findings
    assert not any(trace in repr(findings) for trace in TRACES)


@contextmanager
def web_camera(move_to: str = "") -> Iterator[tuple[str, list[str]]]:
    """Run a server that asks for a password and then redirects; yield its URL and the credentials that it received."""
    received: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            value = self.headers.get("Authorization")
            if value is not None:
                received.append(base64.b64decode(value.removeprefix("Basic ")).decode())
            self.send_response(302 if value and move_to else 401)
            self.send_header("Location", move_to) if value and move_to else self.send_header(
                "WWW-Authenticate", 'Basic realm="x"'
            )
            self.send_header("Content-Length", "0")
            self.end_headers()

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/video.mjpeg", received
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


@pytest.mark.parametrize("networks", [(), ("127.0.0.0/8",)], ids=["ffmpeg", "guarded"])
def test_a_redirect_over_http_does_not_send_them_to_another_host(networks: tuple[str, ...]) -> None:
    with web_camera() as (target, received), web_camera(target.replace("127.0.0.1", "localhost")) as (url, first):
        live = with_credentials(*entries(**{"127.0.0.1": USER}), allow_networks=networks)
        with Reading(url, live) as reading:
            error = reading.wait_for_end()
    assert isinstance(error, RefusedError)
    assert "authentication failed (401)" in message_of(error)
    assert set(first) == {f"{USER}:{SECRET}"}
    assert received == []


PATHS = (
    "streams",
    "events",
    "engines",
    "models",
    "sinks",
    "cost",
    "openapi.json",
    "cameras.yaml",
    "streams/file",
    "streams/added",
)


@pytest.mark.slow
def test_a_service_applies_changed_credentials_and_outputs_none(server: RtspServer, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("wr0ng")
    (tmp_path / "service").mkdir()
    file = f"streams: {{file: {{detect: '{server.url('/locked')}', stall_timeout_s: 2}}}}"
    own = f"credentials:\n  - {{match: 127.0.0.0/8, user: {USER}, password: 'file:{secret}'}}\n"
    with ServeProcess(tmp_path / "service", f"model: clock\n{own}{file}\n") as process:

        def states() -> set[str]:
            return {stream["status"]["state"] for stream in process.streams().values()}

        process.wait(lambda: states() == {"refused"}, "the wrong password to be refused")
        assert (
            process.ask("PUT", "/api/v1/streams/added", {"detect": server.url("/locked"), "view": server.url("/locked")})[0]
            == 201
        )
        secret.write_text(SECRET)
        process.file.write_text(process.file.read_text() + "# changed\n")
        process.wait(lambda: states() == {"live"}, "both streams to be live", 20)
        status, text = process.ask("POST", "/api/v1/probe", {"url": server.url("/locked")})
        assert (status, json.loads(text)["works"]) == (200, True)
        assert process.ask("GET", "/api/v1/streams/added/snapshot.jpg")[0] == 200
        for path in PATHS:
            process.ask("GET", f"/api/v1/{path}")
        process.ask("GET", "/metrics")
        kept = "".join(path.read_text(errors="replace") for path in (tmp_path / "service" / "home").rglob("*") if path.is_file())
        assert process.stop()[0] == 0
        text = "\n".join([process.log, *process.answers, kept])
    assert server.url("/locked") in text
    assert not [trace for trace in (*TRACES, "wr0ng") if trace in text]
