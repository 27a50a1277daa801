"""A camera or server that sends without end costs bounded memory and time, and its thread ends with the stream."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pytest

from tests.hostile.cameras import HOSTILE, hostile_camera
from tests.hostile.conftest import MB, Serve
from tests.support.media import ROOT
from tests.support.waiting import wait_until
from vision_infer.config.serve import StreamSettings
from vision_infer.core.errors import StreamError
from vision_infer.service.streams.stream_command import live_source
from vision_infer.stream.find import open_source
from vision_infer.stream.live import connection_guard
from vision_infer.stream.source import LiveOptions, SourceSpec

OPEN_S, STALL_S = 2.0, 2.0
SHORT = ("rtsp fragments", "http part", "http headers")
"""The cameras of `make test`."""
READ = """
import json, sys, threading, time
from tests.support.memory import peak_bytes
from vision_infer.core.errors import StreamError
from vision_infer.stream.find import open_source
from vision_infer.stream.source import LiveOptions, SourceSpec
options = LiveOptions(open_timeout_s=float(sys.argv[2]), stall_timeout_s=float(sys.argv[3]))
began, used_s = time.monotonic(), time.process_time()
try:
    with open_source(SourceSpec("evil", "live", (sys.argv[1],), live=options), 1, threading.Event()) as source:
        error = f"{len(list(source.frames()))} frames"
except StreamError as raised:
    error = raised.message
print(json.dumps([peak_bytes(), time.monotonic() - began, time.process_time() - used_s, error]))
"""


@pytest.mark.parametrize("name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.slow) for name in HOSTILE])
def test_a_connection_is_ended_in_time_with_bounded_memory(name: str) -> None:
    with hostile_camera(name) as url:
        done = subprocess.run(
            [sys.executable, "-c", READ, url, str(OPEN_S), str(STALL_S)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    peak, seconds, cpu_s, error = json.loads(done.stdout)
    assert peak < 600 * MB, error
    assert seconds < 2 * OPEN_S + STALL_S + 6, error
    assert cpu_s < seconds + 1
    assert "127.0.0.1" in error


@contextmanager
def stuck(ingest: Literal["rtp", "ffmpeg"]) -> Iterator[tuple[threading.Event, threading.Thread]]:
    """Run a thread that opens a camera which never stops answering, with a time limit that is far away."""
    stopping = threading.Event()
    options = LiveOptions(open_timeout_s=600, stall_timeout_s=600, ingest=ingest)

    def read(url: str) -> None:
        try:
            with open_source(SourceSpec("evil", "live", (url,), live=options), 1, stopping) as source:
                list(source.frames())
        except StreamError:
            pass

    with hostile_camera("rtsp slow headers") as url:
        thread = threading.Thread(target=read, args=(url,), daemon=True)
        thread.start()
        yield stopping, thread


@pytest.mark.parametrize("ingest", ["rtp", "ffmpeg"])
def test_a_thread_that_is_stuck_in_a_server_ends_when_its_stream_is_removed(ingest: Literal["rtp", "ffmpeg"]) -> None:
    with stuck(ingest) as (stopping, thread):
        if ingest == "ffmpeg":
            wait_until(lambda: connection_guard._watch._guards)
        thread.join(1.5)
        assert thread.is_alive()
        stopping.set()
        began = time.monotonic()
        thread.join(20)
        assert not thread.is_alive()
        assert time.monotonic() - began < (10 if ingest == "ffmpeg" else 3), "expected: below 2 s, and 0.3 s over RTP"
        assert not connection_guard._watch._guards


def test_the_frames_of_a_camera_are_limited_to_8k() -> None:
    spec = live_source("door", "rtsp://10.0.0.5/x", StreamSettings(detect="rtsp://10.0.0.5/x"), ())
    assert 7680 * 4320 <= spec.read.max_pixels < 40_000_000


@pytest.mark.slow
def test_the_service_survives_all_hostile_cameras_together(serve: Serve) -> None:
    served = serve("model: clock\nstreams: {good: {url: 'test://?size=320x180&fps=20'}}\n")
    served.forget_peak()
    before_mb = served.rss_mb
    for number, name in enumerate(HOSTILE):
        with hostile_camera(name) as url:
            stream = {"detect": url, "open_timeout_s": 3, "stall_timeout_s": 3}
            assert served.ask("PUT", f"/api/v1/streams/evil-{number}", stream)[0] in (200, 201)
            deadline = time.monotonic() + 6
            wait_until(lambda deadline=deadline: time.monotonic() > deadline)  # type: ignore[misc]
            assert served.streams()["good"]["status"]["state"] == "live"
            assert served.ask("DELETE", f"/api/v1/streams/evil-{number}")[0] == 204
            assert served.peak_mb - before_mb < 900, name
    cpu_s, began = served.cpu_s, time.monotonic()
    wait_until(lambda: time.monotonic() > began + 4)
    assert served.cpu_s - cpu_s < 3, "no thread is left that reads"
