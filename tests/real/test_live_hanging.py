"""Cameras that accept a connection but never respond, and cameras over UDP, do not block the service."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cameras import ClockMount, RtspServer
from tests.support.live_service import Running, camera
from tests.support.media import ROOT
from tests.support.serve_process import ServeProcess
from vision_infer.pipeline.status import StreamState

PATTERN = "test://?size=160x90&fps=10"
AT_ONCE_S = 5.0
"""The time limit for immediate actions, also on a busy machine; the hanging cameras would take a minute."""
HANGS_S = 60.0


@pytest.fixture
def silent() -> Iterator[str]:
    """Yield the URL of a server that never responds."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"rtsp://user:s3cret@127.0.0.1:{listener.getsockname()[1]}/x"


@pytest.fixture(scope="module")
def server() -> Iterator[RtspServer]:
    with RtspServer(ClockMount("/clock", 320, 180, 20, key_interval=5)) as running:
        yield running


def test_a_hanging_stream_is_replaced_and_removed_immediately(silent: str, server: RtspServer) -> None:
    """The thread of the old stream hangs until its connection times out, without any effect."""
    hangs = camera(silent, open_timeout_s=HANGS_S)
    with Running({"well": camera(PATTERN)}) as running:
        service = running.service
        service.create("cam", hangs)
        for _ in range(2):
            running.wait(lambda: any(thread.name == "stream-cam" for thread in threading.enumerate()), "the camera to hang")
            began = time.monotonic()
            service.replace("cam", camera(server.url("/clock")))
            assert time.monotonic() - began < AT_ONCE_S
            seen = running.wait_for_results("cam", 5)
            assert seen[0].result.frame < 20, "the stream restarts"
            assert running.status("cam").reconnects == 0
            began = time.monotonic()
            service.replace("cam", hangs)
            assert time.monotonic() - began < AT_ONCE_S
            assert running.status("cam").state is StreamState.CONNECTING
            assert running.status("cam").results == 0
        service.delete("cam")
        assert [view.name for view in service.streams()] == ["well"]
        running.wait_for_results("well", 5)
        service.create("cam", hangs)
        began = time.monotonic()
    assert time.monotonic() - began < AT_ONCE_S, "the end does not wait for the thread"


def test_a_process_ends_while_cameras_hang(silent: str, tmp_path: Path) -> None:
    streams = "".join(f"  s{number}: {{detect: '{silent}', open_timeout_s: {HANGS_S}}}\n" for number in range(3))
    with ServeProcess(tmp_path, f"model: clock\nstreams:\n{streams}") as process:
        process.wait(
            lambda: {one["status"]["state"] for one in process.streams().values()} == {"connecting"}, "the cameras to hang"
        )
        status, took_s = process.stop()
    assert status == 0
    assert took_s < 15, "expected: 0.5 s"


HOOK = "import time\n\n\ndef hang(frame, result):\n    time.sleep(600)\n    return result\n"


def _with_a_hook_that_hangs(folder: Path) -> ServeProcess:
    (folder / "hanging.py").write_text(HOOK, encoding="utf-8")
    streams = f"streams: {{cam: {{detect: '{PATTERN}', hook: 'hanging:hang,timeout_s=600'}}}}"
    return ServeProcess(folder, f"model: clock\n{streams}\n", PYTHONPATH=f"{folder}:{ROOT}")


@pytest.mark.slow
def test_the_end_waits_five_seconds_for_hanging_cameras(tmp_path: Path) -> None:
    with _with_a_hook_that_hangs(tmp_path) as process:
        process.wait(lambda: process.streams()["cam"]["status"]["dropped"].get("backlogged", 0) > 0, "results to wait")
        status, took_s = process.stop()
        assert status == 0
        assert 4.9 < took_s < 20, "expected: 5.2 s"
        assert "were not finished within 5 s and are lost" in process.log
        assert "stalled" not in process.log


def test_a_second_signal_ends_the_process_immediately(tmp_path: Path) -> None:
    with _with_a_hook_that_hangs(tmp_path) as process:
        process.wait(lambda: process.streams()["cam"]["status"]["dropped"].get("backlogged", 0) > 0, "results to wait")
        os.kill(process.pid, signal.SIGTERM)
        process.wait(lambda: process.ask("GET", "/readyz")[0] == 503, "the first signal to arrive")
        status, took_s = process.stop()
    assert status == 128 + signal.SIGTERM
    assert took_s < 4, "expected: nothing"


@pytest.mark.slow
def test_a_camera_over_udp_recovers() -> None:
    """UDP has no connection whose end reports the loss."""
    with (
        RtspServer(ClockMount("/clock", 320, 180, 20, key_interval=5)) as server,
        Running({"cam": camera(server.url("/clock"), transport="udp")}) as running,
    ):
        running.wait_for_results("cam", 10)
        began = time.monotonic_ns()
        server.freeze()
        running.wait(lambda: StreamState.BACKING_OFF in running.states("cam", began), "the loss to be detected")
        assert StreamState.STALLED in running.states("cam", began)
        server.thaw()
        running.wait_for_results("cam", 5)
        killed = time.monotonic_ns()
        server.kill()
        running.wait(lambda: StreamState.BACKING_OFF in running.states("cam", killed), "the end to be detected")
        server.restart()
        seen = running.wait_for_results("cam", 10)
        assert seen[-1].true_age_ms is not None
        assert seen[-1].true_age_ms < 1000


def test_many_cameras_lost_together_recover() -> None:
    names = [f"cam{number}" for number in range(16)]
    with (
        RtspServer(ClockMount("/clock", 320, 180, 10, key_interval=5)) as server,
        Running({name: camera(server.url("/clock")) for name in names}) as running,
    ):
        for name in names:
            running.wait_for_results(name, 1)
        began = time.monotonic_ns()
        server.kill()
        running.wait(
            lambda: all(StreamState.BACKING_OFF in running.states(name, began) for name in names), "all cameras to be lost"
        )
        server.restart()
        back = time.monotonic_ns()
        running.wait(lambda: all(running.seen(name, back) for name in names), "all cameras to recover")
        reasons = [event.reason for event in running.events if event.state is StreamState.BACKING_OFF]
        assert len({reason.rpartition("attempt in ")[2] for reason in reasons}) > 1, "the retries are not synchronized"
