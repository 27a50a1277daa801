"""``vision-infer why`` with a running service."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.serve_process import ServeProcess
from vision_infer.cli.service_client import TOKEN
from vision_infer.cli.why import _show, _table, _time_of, why_command
from vision_infer.core.errors import UsageError, VisionInferError

NOW = datetime(2026, 11, 25, 3, 15, tzinfo=UTC)
SETTINGS = """model: clock
streams:
  front: {detect: 'test://?fps=10'}
  away: {detect: 'rtsp://user:secret@127.0.0.1:9/none'}
  off: {detect: 'test://', enabled: false}
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    with ServeProcess(tmp_path_factory.mktemp("why"), SETTINGS) as running:
        running.wait(lambda: running.streams()["front"]["status"]["results"] > 5, "results come")
        running.wait(lambda: running.streams()["away"]["status"]["state"] != "connecting", "the other one is refused")
        yield running


def url(process: ServeProcess) -> str:
    return f"http://127.0.0.1:{process.port}"


def test_results_are_explained_with_their_frames(process: ServeProcess, capsys: pytest.CaptureFixture[str]) -> None:
    assert why_command("front", url=url(process)) == 0
    said = capsys.readouterr().out
    assert "frames had results, " in said
    assert "state       live since" in said
    assert re.search(r" result +\d", said)
    assert "milliseconds after capture" in said


def test_an_unreachable_camera_is_explained_without_its_password(
    process: ServeProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert why_command("away", url=url(process)) == 0
    said = capsys.readouterr().out
    assert "connection refused" in said
    assert "secret" not in said


def test_json_contains_the_complete_answer(process: ServeProcess, capsys: pytest.CaptureFixture[str]) -> None:
    assert why_command("front", url=url(process), json_output=True) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["stream"] == "front"
    assert {frame["outcome"] for frame in answer["frames"]} >= {"result"}
    assert all(frame["age_ms"] >= 0 for frame in answer["frames"] if frame["outcome"] == "result")


@pytest.mark.parametrize(("name", "expected"), [("gone", "stream gone does not exist"), ("off", "is not running")])
def test_an_unknown_stream_is_a_one_line_error(process: ServeProcess, name: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        why_command(name, url=url(process))


def test_what_reads_the_camera_and_lost_packets_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    minute = {"from": "2026-11-25T03:12:00Z", "outcomes": {"result": 9}, "max_age_ms": 40, "packets_lost": 7}
    answer = {"stream": "front", "at": "2026-11-25T03:12:05Z", "explanation": "9 of 9 frames.", "hint": "", "state": None}
    reason = "the codec vp9 is not supported over RTP"
    _show({**answer, "until": None, "minute": minute, "frames": [], "ingest": "ffmpeg", "ingest_reason": reason})
    said = capsys.readouterr().out
    assert "read by     FFmpeg (the codec vp9 is not supported over RTP)" in said
    assert "9 result; maximum age 40 ms; 7 packets lost" in said
    _show({**answer, "until": None, "minute": None, "frames": [], "ingest": "rtp", "ingest_reason": ""})
    assert "read by     vision-infer, over RTP\n" in capsys.readouterr().out


def test_an_unreachable_service_is_a_one_line_error() -> None:
    with pytest.raises(VisionInferError, match="the service does not respond: Connection refused"):
        why_command("front", url="http://127.0.0.1:9")
    for wrong in ("ftp://127.0.0.1", "127.0.0.1:8080", "http://user:secret@127.0.0.1:8080"):
        with pytest.raises(UsageError) as raised:
            why_command("front", url=wrong)
        assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"<html>"), (200, b"[]"), (200, b"{}"), (500, b"oops"), (401, b'{"detail": "no"}')]
)
def test_another_server_is_a_one_line_error_and_the_token_is_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, body: bytes
) -> None:
    sent: list[str | None] = []

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent.append(self.headers["Authorization"])
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    file = tmp_path / "token"
    file.write_text("from-the-file\n")
    monkeypatch.setenv(TOKEN, "from-the-environment")
    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        for token_file in (None, file):
            with pytest.raises(VisionInferError) as raised:
                why_command("front", url=address, token_file=token_file)
            assert "\n" not in str(raised.value.message)
            assert "from-the" not in str(raised.value)
        server.shutdown()
    assert sent == ["Bearer from-the-environment", "Bearer from-the-file"]


def test_all_forms_of_time_are_parsed() -> None:
    assert _time_of("now", None, NOW) == NOW
    assert _time_of("2026-11-24T03:12:05Z", None, NOW) == datetime(2026, 11, 24, 3, 12, 5, tzinfo=UTC)
    assert _time_of("2026-11-24T03:12:05+02:00", None, NOW) == datetime(2026, 11, 24, 1, 12, 5, tzinfo=UTC)
    assert _time_of("now", "90s", NOW) == NOW - timedelta(seconds=90)
    assert _time_of("now", "2h", NOW) == NOW - timedelta(hours=2)
    local = NOW.astimezone()
    assert _time_of(f"{local - timedelta(minutes=3):%H:%M:%S}", None, NOW) == NOW - timedelta(minutes=3)
    assert _time_of(f"{local + timedelta(minutes=3):%H:%M:%S}", None, NOW) == NOW + timedelta(minutes=3) - timedelta(days=1)
    for wrong in ("yesterday", "25:00:00", "12:61"):
        with pytest.raises(UsageError, match="is not a valid"):
            _time_of(wrong, None, NOW)
    with pytest.raises(UsageError, match="is not a valid duration"):
        _time_of("now", "a while", NOW)


def test_the_table_of_frames_fits_into_80_columns() -> None:
    frame = {
        "index": 12_345_678,
        "captured": "2026-11-25T03:12:05.123Z",
        "at": "2026-11-25T03:12:05.200Z",
        "outcome": "not_referenced",
        "since_capture_ms": {"decode_end": 1012.3, "preprocess_start": 1100.1, "inference_end": 1234.5, "result": 1256.7},
        "batch": 4,
        "detections": 100,
        "engine": "onnxruntime-cpu-int8",
    }
    console = Console(file=io.StringIO(), width=80)
    console.print(_table([frame, frame | {"outcome": "result"}]))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 4
    assert lines[1].split() == ["12345678", "03:12:05.123", "not_referenced", "1012.3", "1100.1", "1234.5", "1256.7", "100"]
