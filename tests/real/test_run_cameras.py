"""``vision-infer run`` and ``Pipeline.run`` with cameras of a real RTSP server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import av
import pytest

from tests.support.cameras import ClockMount, RtspServer
from tests.support.result_schema import validate_row
from tests.support.tones import sound_of
from tests.support.waiting import wait_until
from vision_infer import Detector, Pipeline
from vision_infer.core.errors import StreamError

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def server() -> Iterator[RtspServer]:
    with RtspServer(
        ClockMount("/clock", 320, 180, fps=10, key_interval=10, sound="pcma", tone_hz=700),
        ClockMount("/locked", user="u", password="p"),
    ) as found:
        yield found


def start(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "vision_infer", "run", *arguments],
        cwd=tmp_path,
        env={**os.environ, "VISION_INFER_HOME": str(tmp_path / "home")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_camera_is_written_until_ctrl_c(server: RtspServer, tmp_path: Path) -> None:
    process = start(tmp_path, server.url("/clock"), "--model", "clock", "--out", "-", "--out", "drawn.mp4", "--track")
    assert process.stdout is not None
    rows = [json.loads(process.stdout.readline()) for _ in range(15)]
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=60)
    rows += [json.loads(line) for line in rest.splitlines()]
    assert process.returncode == 128 + signal.SIGINT, err
    for row in rows:
        validate_row(row)
        assert row["age_ms"] >= 0
    assert {row["stream"] for row in rows} == {"clock"}
    assert [row["frame"] for row in rows] == sorted(row["frame"] for row in rows)
    assert "stopped; all results up to this point are written" in err
    assert "age of results p50" in err
    with av.open(str(tmp_path / "drawn.mp4")) as video:
        times = [float(frame.time or 0) for frame in video.decode(video=0)]
    assert len(times) == len(rows)
    begins_s, ends_s, heard_hz = sound_of(tmp_path / "drawn.mp4")
    assert begins_s < times[0] + 0.3
    assert ends_s == pytest.approx(times[-1], abs=0.4)
    assert heard_hz == pytest.approx(700, abs=10), "the sound of the camera is kept"
    captured = [datetime.fromisoformat(row["captured_at"]).timestamp() for row in rows]
    assert [time - times[0] for time in times] == pytest.approx([time - captured[0] for time in captured], abs=0.05)


def test_a_lost_camera_is_connected_again(tmp_path: Path) -> None:
    with RtspServer(ClockMount("/clock", 320, 180, fps=10, key_interval=10)) as server:
        process = start(tmp_path, server.url("/clock"), "--model", "clock", "--out", "-", "--quiet", "--summary", "s.json")
        assert process.stdout is not None
        rows = [json.loads(process.stdout.readline())]
        server.kill()
        killed = time.time()
        server.restart()
        while datetime.fromisoformat(rows[-1]["captured_at"]).timestamp() < killed:
            rows.append(json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    (source,) = json.loads((tmp_path / "s.json").read_text())["sources"]
    assert source["reconnects"] >= 1
    assert (source["ingest"], source["ingest_reason"], source["rtp_packets"]["lost"]) == ("rtp", "", 0)
    assert source["rtp_packets"]["received"] > len(rows)
    assert source["error"] is None
    frames = [row["frame"] for row in rows]
    assert frames == sorted(set(frames))


@pytest.mark.parametrize(("path", "words"), [("/nothing", "404"), ("/locked", "401")])
def test_a_camera_that_refuses_the_first_connection_fails_the_run(
    server: RtspServer, tmp_path: Path, path: str, words: str
) -> None:
    process = start(tmp_path, server.url(path, "u", "wrong" if path == "/locked" else "p"), "--out", "rows.jsonl", "--quiet")
    _, err = process.communicate(timeout=60)
    assert process.returncode == StreamError.exit_status
    assert words in err
    assert "wrong" not in err
    assert not (tmp_path / "rows.jsonl").exists()


def test_results_of_a_camera_in_python(server: RtspServer) -> None:
    before = set(threading.enumerate())
    with Pipeline(Detector("clock", device="cpu"), fps=5).run(server.url("/clock")) as results:
        found = [next(results) for _ in range(5)]
    assert all(result.live is not None and result.live.age_ns > 0 for result in found)
    assert sum(result.live.dropped_before.get("paced", 0) for result in found if result.live is not None) > 0
    wait_until(lambda: set(threading.enumerate()) <= before, "the end of all threads")
