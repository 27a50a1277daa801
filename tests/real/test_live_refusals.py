"""Refused connections and missing servers: a real RTSP server, closed ports, unknown hosts."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.cameras import ClockMount, RtspServer, SoundMount
from tests.support.live_reading import Reading, message_of
from vision_infer.core.errors import RefusedError
from vision_infer.stream.source import LiveOptions

SHORT = LiveOptions(open_timeout_s=2, stall_timeout_s=2)


@pytest.fixture(scope="module")
def server() -> Iterator[RtspServer]:
    mounts = (
        ClockMount("/locked", user="user", password="s3cret"),
        ClockMount("/silent", stop_after=0),
        ClockMount("/one", stop_after=1),
        ClockMount("/udp", udp_only=True),
        ClockMount("/udp2", udp_only=True, key_interval=10),
        SoundMount("/sound"),
    )
    with RtspServer(*mounts) as running:
        yield running


def refused_error(url: str, live: LiveOptions = SHORT) -> RefusedError:
    with Reading(url, live) as reading:
        error = reading.wait_for_end()
    assert isinstance(error, RefusedError), error
    return error


def refused(url: str, live: LiveOptions = SHORT) -> str:
    return message_of(refused_error(url, live))


def test_a_missing_stream_is_refused(server: RtspServer) -> None:
    assert "no such stream (404)" in refused(server.url("/nothing"))


@pytest.mark.parametrize(("user", "password"), [("", ""), ("user", "wrong%40pass"), ("other", "s3cret")])
def test_a_wrong_password_is_refused_and_not_logged(server: RtspServer, user: str, password: str) -> None:
    text = refused(server.url("/locked", user, password))
    assert "authentication failed (401)" in text
    assert "***" in text or not user


def test_the_right_password(server: RtspServer) -> None:
    with Reading(server.url("/locked", "user", "s3cret")) as reading:
        reading.wait_for_frames(3)


def test_a_camera_without_tcp_is_read_over_udp(server: RtspServer) -> None:
    for live in (SHORT, replace(SHORT, transport="udp"), replace(SHORT, allow_networks=("127.0.0.0/8",))):
        with Reading(server.url("/udp"), live) as reading:
            reading.wait_for_frames(3)
    error = refused_error(server.url("/udp2"), replace(SHORT, ingest="ffmpeg"))
    assert "does not offer RTSP over TCP (461)" in error.message
    assert "transport: udp" in error.hint


def test_a_stream_with_only_audio_is_refused(server: RtspServer) -> None:
    assert "only audio" in refused(server.url("/sound"))


def test_a_camera_that_is_frozen_before_its_first_frame(server: RtspServer) -> None:
    began = time.monotonic()
    with Reading(server.url("/silent"), SHORT) as silent, Reading(server.url("/one"), SHORT) as one:
        errors = [silent.wait_for_end(), one.wait_for_end()]
    for error in errors:
        assert error is not None
        assert not isinstance(error, RefusedError)
        assert "within 2 s" in message_of(error) or "no data for 2 s" in message_of(error)
    assert time.monotonic() - began < 15, "expected: 2 to 4 s"


def test_a_server_that_does_not_respond() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with Reading(f"rtsp://user:s3cret@127.0.0.1:{listener.getsockname()[1]}/x", SHORT) as reading:
            error = reading.wait_for_end()
    assert error is not None
    assert not isinstance(error, RefusedError)
    assert "no answer within 2 s" in message_of(error)


@pytest.mark.parametrize("scheme", ["rtsp", "http", "rtmp"])
def test_nothing_listens(scheme: str) -> None:
    with Reading(f"{scheme}://user:s3cret@127.0.0.1:9/x", SHORT) as reading:
        error = reading.wait_for_end()
    assert error is not None
    assert not isinstance(error, RefusedError)
    assert "connection refused" in message_of(error)


@pytest.mark.parametrize("scheme", ["rtsp", "http", "rtmp"])
def test_a_host_that_does_not_exist(scheme: str) -> None:
    with Reading(f"{scheme}://user:s3cret@camera.invalid/x", SHORT) as reading:
        error = reading.wait_for_end()
    assert error is not None
    assert not isinstance(error, RefusedError)
    assert "host name cannot be resolved" in message_of(error) or "no answer" in message_of(error)


def test_an_unknown_scheme_is_refused() -> None:
    assert "rtsp://" in refused("gopher://user:s3cret@host/x")


def test_a_missing_device() -> None:
    with Reading("/dev/video99", SHORT) as reading:
        error = reading.wait_for_end()
    assert error is not None
    assert "no such file or device" in message_of(error)


def test_a_camera_in_an_allowed_network(server: RtspServer) -> None:
    url = server.url("/locked", "user", "s3cret").replace("127.0.0.1", "localhost")
    with Reading(url, LiveOptions(allow_networks=("127.0.0.0/8",))) as reading:
        reading.wait_for_frames(3)
