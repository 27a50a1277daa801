"""Probes of real cameras: the results, and the step at which a probe fails."""

from __future__ import annotations

import socket
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.cameras import ClockMount, RtspServer, SoundMount
from tests.support.live_reading import Reading
from tests.support.media import bikes
from vision_infer.core.geometry import Size
from vision_infer.stream.discovery.probe import Probe, ProbeError, probe
from vision_infer.stream.source import LiveOptions

MOUNTS = (
    ClockMount("/clock", key_interval=10),
    ClockMount("/h265", codec="h265", key_interval=10),
    ClockMount("/vp9", 320, 180, 15, codec="vp9", key_interval=10),
    ClockMount("/b", key_interval=15, b_frames=2),
    ClockMount("/far", key_interval=6000),
    ClockMount("/locked", user="user", password="s3cret", key_interval=10),
    ClockMount("/silent", stop_after=0),
    ClockMount("/one", stop_after=1),
    SoundMount("/sound"),
)


@pytest.fixture(scope="module")
def server() -> Iterator[RtspServer]:
    with RtspServer(*MOUNTS) as running:
        yield running


@pytest.fixture(scope="module")
def seen(server: RtspServer) -> dict[str, Probe]:
    """Probe all cameras concurrently."""
    with ThreadPoolExecutor(4) as pool:
        urls = {path: server.url(path) for path in ("/clock", "/h265", "/vp9", "/b")} | {
            "/locked": server.url("/locked", "user", "s3cret")
        }
        looks = {path: pool.submit(probe, url, watch_s=1.0, limit_s=20) for path, url in urls.items()}
        return {path: look.result() for path, look in looks.items()}


def failed(url: str, live: LiveOptions = LiveOptions(), limit_s: float = 3.0) -> ProbeError:  # noqa: B008
    with pytest.raises(ProbeError) as caught:
        probe(url, live, limit_s=limit_s)
    shown = "".join(traceback.format_exception(caught.value))
    assert "s3cret" not in shown
    assert "geheim" not in shown
    assert caught.value.hint
    return caught.value


@pytest.mark.timing
def test_what_a_camera_sends(seen: dict[str, Probe]) -> None:
    clock = seen["/clock"]
    assert (clock.kind, clock.codec, clock.size, clock.pixel_format) == ("rtsp", "h264", Size(640, 360), "yuv420p")
    assert clock.profile == "Constrained Baseline"
    assert clock.frame_rate == pytest.approx(30, rel=0.1)
    assert clock.nominal_rate == 30
    assert clock.key_interval_frames == 10
    assert 0 < clock.opened_ms < clock.first_frame_ms
    assert (clock.b_frames, clock.damaged, clock.passthrough_players, clock.audio_codec) == (False, 0, "every browser", "")
    assert clock.bit_rate
    assert clock.decode_ms
    assert clock.jitter_ms is not None
    assert (clock.ingest, clock.ingest_reason, clock.packets_lost) == ("rtp", "", 0)
    assert clock.packets_received >= clock.frames
    assert not seen["/vp9"].ingest_delays
    assert (seen["/vp9"].ingest, seen["/vp9"].ingest_reason) == ("ffmpeg", "the codec vp9 is not supported over RTP")


def test_reasons_against_passthrough(seen: dict[str, Probe]) -> None:
    assert seen["/h265"].codec == "hevc"
    assert (seen["/h265"].passthrough_problem, seen["/h265"].passthrough_players) == (
        "",
        "browsers that play H.265 Main; others get encoded video",
    )
    assert (seen["/vp9"].codec, seen["/vp9"].passthrough_players) == (
        "vp9",
        "browsers that play VP9 Profile 0; others get encoded video",
    )
    assert seen["/b"].b_frames
    assert "B-frames" in seen["/b"].passthrough_problem


def test_key_frames_of_vp9_are_recognized_over_rtsp(seen: dict[str, Probe]) -> None:
    assert seen["/vp9"].key_interval_frames == 10


def test_a_password_is_used_and_never_shown(seen: dict[str, Probe]) -> None:
    assert seen["/locked"].url.startswith("rtsp://user:***@")
    assert "s3cret" not in repr(seen["/locked"])


@pytest.mark.timing
def test_the_time_limit_ends_a_probe(server: RtspServer) -> None:
    began = time.monotonic()
    found = probe(server.url("/clock"), watch_s=60, limit_s=1.5)
    assert time.monotonic() - began < 8, "expected: 1.5 s"
    assert found.frames > 10


@pytest.mark.timing
def test_a_camera_with_rare_key_frames_is_distinguished_from_a_silent_one(server: RtspServer) -> None:
    with Reading(server.url("/far")) as first:  # which receives the key frame
        first.wait_for_frames(3)
        error = failed(server.url("/far"), limit_s=1.5)
    assert error.step == "frame"
    assert "packets arrived, but no frame could be decoded" in error.message
    assert error.hint.startswith("its key frames are too far apart")


def test_a_probe_can_be_stopped(server: RtspServer) -> None:
    stopping = threading.Event()
    timer = threading.Timer(0.8, stopping.set)
    timer.start()
    began = time.monotonic()
    found = probe(server.url("/clock"), watch_s=60, limit_s=60, stopping=stopping)
    assert time.monotonic() - began < 20
    assert found.frames


@pytest.mark.parametrize(
    ("path", "step", "says"),
    [
        ("/locked", "sign-in", "authentication failed (401)"),
        ("/nothing", "stream", "no such stream (404)"),
        ("/silent", "answer", "no answer within"),
        ("/one", "frame", "no data for"),
        ("/sound", "video", "only audio"),
    ],
)
def test_the_step_at_which_a_camera_fails(server: RtspServer, path: str, step: str, says: str) -> None:
    error = failed(server.url(path, "user", "geheim"))
    assert (error.step, says in error.message) == (step, True), error


def test_the_step_at_which_a_probe_fails_without_a_camera(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert failed("rtsp://user:geheim@nowhere.invalid/x").step == "name"
    assert failed("gopher://user:geheim@host/x").step == "address"
    assert failed(str(tmp_path_factory.getbasetemp() / "none.mp4")).step == "connect"
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert failed(f"rtsp://user:geheim@127.0.0.1:{nobody.getsockname()[1]}/x").step == "connect"
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        url = f"rtsp://user:geheim@127.0.0.1:{mute.getsockname()[1]}/x"
        assert failed(url, limit_s=1.0).step == "answer"
        error = failed(url, LiveOptions(allow_networks=("192.0.2.0/24",)))
        assert (error.step, error.refused) == ("address", True), "it was not asked"


def test_a_name_server_that_does_not_answer_does_not_block_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [hanging.wait(30)][1:])
    error = failed("rtsp://user:geheim@slow.invalid/x", limit_s=0.3)
    hanging.set()
    assert error.step == "name"
    assert error.message == "rtsp://user:***@slow.invalid/x: timeout of 0.3 s while resolving the host name"


def test_probing_a_file() -> None:
    found = probe(str(bikes()), limit_s=20)
    assert (found.kind, found.codec) == ("file", "h264")
    assert found.jitter_ms is None
    assert found.frame_rate


def test_probing_the_test_pattern() -> None:
    found = probe("test://?size=320x240&fps=15")
    assert (found.kind, found.size, found.frame_rate) == ("test", Size(320, 240), 15)
    assert found.passthrough_problem
