"""``vision-infer cameras add`` and ``list``, with simulated ONVIF devices and a real RTSP server."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command
from tests.support.cameras import ClockMount, RtspServer
from tests.support.onvif_device import NOT_AUTHORIZED, PASSWORD, UNSUPPORTED, USER, FakeProfile, OnvifDevice, serving
from vision_infer.config.serve_file import load_settings


def device(port: int = 9, **options: Any) -> OnvifDevice:
    main = FakeProfile("main", "H264", 1280, 720, f"rtsp://10.9.8.7:{port}/main")
    sub = FakeProfile("sub", "H264", 640, 360, f"rtsp://10.9.8.7:{port}/sub")
    return replace(OnvifDevice([main, sub]), **options)


def test_a_camera_is_added_and_its_stream_is_checked(
    in_process: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAMERA_FRONT_DOOR_PASSWORD", PASSWORD)
    file = tmp_path / "cameras.yaml"
    file.write_text("# mine\nstreams:\n  other: {url: 'test://'}\n")
    mounts = [ClockMount(path, fps=15, key_interval=5, user=USER, password=PASSWORD) for path in ("/main", "/sub")]
    with RtspServer(*mounts, auth="digest") as server, serving(device(server.port, clock_offset_s=3600.0)) as fake:
        done = in_process("cameras", "add", f"127.0.0.1:{fake.port}", "--name", "front-door", "--user", USER)
        assert done.returncode == 0, done.stderr
        assert PASSWORD not in done.stdout + done.stderr + file.read_text()
        assert file.read_text() == (
            "# mine\nstreams:\n  other: {url: 'test://'}\n  front-door:\n"
            f"    detect: rtsp://{USER}:${{CAMERA_FRONT_DOOR_PASSWORD}}@127.0.0.1:{server.port}/sub\n"
            f"    view: rtsp://{USER}:${{CAMERA_FRONT_DOOR_PASSWORD}}@127.0.0.1:{server.port}/main\n"
        )
        assert re.search(r"^ok +camera +rtsp://operator:\*\*\*@127\.0\.0\.1:\d+/sub: h264 .*640x360", done.stdout, re.MULTILINE)
        assert "reported addresses at 10.9.8.7" in done.stdout
        again = in_process("cameras", "add", f"127.0.0.1:{fake.port}", "--name", "Front-Door", "--user", USER)
    assert (again.returncode, "already has a stream of this name" in again.stderr) == (2, True)
    url = load_settings(file, (), dict(os.environ), {}).streams["front-door"].detect
    assert url == f"rtsp://{USER}:pa%3Ass%2Fw%C3%B6rd@127.0.0.1:{server.port}/sub"
    listed = in_process("cameras", "list")
    assert listed.stdout == (
        f"other  test://\nfront-door  rtsp://{USER}:***@127.0.0.1:{server.port}/sub"
        f"  view rtsp://{USER}:***@127.0.0.1:{server.port}/main\n"
    )


def test_a_camera_without_frames_is_not_added(in_process: Command, tmp_path: Path) -> None:
    with serving(device(authentication="none")) as fake:
        done = in_process("cameras", "add", f"127.0.0.1:{fake.port}", "--name", "a")
    assert (done.returncode, "connection refused" in done.stderr, "--no-check" in done.stderr) == (1, True, True)
    assert list(tmp_path.glob("*.yaml")) == []


def test_the_user_of_the_configuration_is_used(in_process: Command, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(PASSWORD)
    file = tmp_path / "mine.yaml"
    file.write_text(f"credentials:\n  - {{match: 127.0.0.0/8, user: {USER}, password: 'file:secret'}}\nstreams:\n")
    with serving(device()) as fake:
        done = in_process("cameras", "add", f"127.0.0.1:{fake.port}", "--name", "a", "--no-check", "--file", "mine.yaml")
    assert done.returncode == 0, done.stderr
    assert "detect: rtsp://127.0.0.1:9/sub\n" in file.read_text()


def test_a_password_in_a_file_is_referenced(in_process: Command, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(PASSWORD)
    words = ("--name", "a", "--no-check", "--user", USER, "--password-file", "secret")
    with serving(device()) as fake:
        done = in_process("cameras", "add", f"127.0.0.1:{fake.port}", *words)
    assert done.returncode == 0, done.stderr
    assert f"{USER}:${{file:{tmp_path}/secret}}@127.0.0.1" in (tmp_path / "cameras.yaml").read_text()
    assert load_settings(tmp_path / "cameras.yaml", (), {}, {}).streams["a"].view is not None


def test_a_password_is_asked_for_on_a_terminal(in_process: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.prompt", lambda *_, **__: PASSWORD)
    with serving(device()) as fake:
        done = in_process("cameras", "add", f"127.0.0.1:{fake.port}", "--name", "a", "--no-check", "--user", USER)
    assert "Set the environment variable CAMERA_A_PASSWORD" in done.stdout
    assert "${CAMERA_A_PASSWORD}" in (tmp_path / "cameras.yaml").read_text()


def test_a_secret_that_the_camera_put_into_a_url_is_only_in_the_file(in_process: Command, tmp_path: Path) -> None:
    profile = FakeProfile("main", "H264", 1920, 1080, "rtsp://127.0.0.1/user=admin_password=geheim_channel=1")
    with serving(OnvifDevice([profile], authentication="none")) as fake:
        done = in_process("cameras", "add", f"127.0.0.1:{fake.port}", "--name", "a", "--no-check")
    assert done.returncode == 0, done.stderr
    assert "geheim" not in done.stdout + done.stderr
    assert "password=geheim_channel=1" in (tmp_path / "cameras.yaml").read_text()


def test_the_passwords_of_other_cameras_are_not_needed(
    in_process: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAMERA_PASSWORD", PASSWORD)
    streams = "streams:\n  old: {detect: 'rtsp://u:${CAMERA_OLD_PASSWORD}@10.0.0.5/sub', view: '${VIEW}'}\n"
    words = ("--name", "a", "--no-check", "--user", USER)
    (tmp_path / "cameras.yaml").write_text(streams)
    with serving(device()) as fake:
        done = in_process("cameras", "add", f"127.0.0.1:{fake.port}", *words)
        assert done.returncode == 0, done.stderr
        (tmp_path / "cameras.yaml").write_text(
            "credentials: [{match: '*.example.org', user: u, password: '${VIEW}'}]\n" + streams
        )
        done = in_process("cameras", "add", f"127.0.0.1:{fake.port}", *words)
    assert "credentials.0.password: the environment variable VIEW is not set" in done.stderr


@pytest.mark.parametrize(
    ("options", "words", "status", "message"),
    [
        ({}, ("--name", "a"), 1, "authentication failed. Add --user NAME, or write the user name and password to credentials:"),
        ({}, ("--name", "a", "--user", USER), 1, "authentication failed. Check the user name and password"),
        ({"clock_offset_s": 3600.0}, ("--name", "a", "--user", USER), 1, "Its clock differs from this machine's by 3"),
        ({"answers": {"GetSystemDateAndTime": NOT_AUTHORIZED}}, ("--name", "a", "--user", USER), 1, "check its clock too"),
        ({"answers": {"GetSystemDateAndTime": b"<html>"}}, ("--name", "a"), 1, "no ONVIF service: the response is not XML"),
        ({"authentication": "none", "profiles": []}, ("--name", "a"), 1, "the device offers no video stream over ONVIF"),
        (
            {"answers": {"GetProfiles": UNSUPPORTED}, "authentication": "none"},
            ("--name", "a"),
            1,
            "Optional Action Not Implemented",
        ),
        ({}, ("--name", "a b"), 2, "--name: is not a valid name"),
        ({}, ("--name", "a", "--password-file", "x"), 2, "--password-file: needs a user name"),
        ({}, ("--name", "a", "--user", USER, "--password-file", "x"), 2, "the file x cannot be read"),
        ({}, ("--name", "a", "--user", USER, "--password-file", "x}"), 2, "--password-file: the path contains }"),
        ({"authentication": "none"}, ("--name", "a", "--channel", "2"), 2, "the device has one channel"),
        ({"authentication": "none"}, ("--name", "a", "--no-check", "--file", "no/cameras.yaml"), 5, "cannot be written"),
    ],
)
def test_errors(
    in_process: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    words: tuple[str, ...],
    status: int,
    message: str,
) -> None:
    monkeypatch.setenv("CAMERA_PASSWORD", "wrong")
    with serving(device(**options)) as fake:
        done = in_process("cameras", "add", f"127.0.0.1:{fake.port}", *words)
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.returncode == status
    assert list(tmp_path.glob("**/*.yaml")) == []


def test_a_user_without_a_password_is_an_error_without_a_terminal(in_process: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    done = in_process("cameras", "add", "127.0.0.1:1", "--name", "a", "--user", USER)
    assert "Set $CAMERA_A_PASSWORD or $CAMERA_PASSWORD, or use --password-file FILE." in done.stderr


def test_an_address_that_is_not_allowed(in_process: Command, tmp_path: Path) -> None:
    (tmp_path / "cameras.yaml").write_text("service: {allow_networks: [10.0.0.0/8]}\n")
    with serving(device(authentication="none")) as fake:
        done = in_process("cameras", "add", f"127.0.0.1:{fake.port}", "--name", "a")
    assert (done.returncode, "outside the allowed networks" in done.stderr) == (1, True)
    assert fake.requests == []


def test_a_channel_of_a_recorder(in_process: Command, tmp_path: Path) -> None:
    channels = [
        FakeProfile(f"c{number}", "H264", 640, 360, f"rtsp://10.9.8.7/c{number}", source=f"s{number}") for number in (1, 2, 3)
    ]
    with serving(device(profiles=channels, authentication="none")) as fake:
        words = ("cameras", "add", f"127.0.0.1:{fake.port}", "--name", "a", "--no-check")
        assert "the device has 3 channels. Add --channel N, from 1 to 3." in in_process(*words).stderr
        assert in_process(*words, "--channel", "2").returncode == 0
    assert "detect: rtsp://127.0.0.1/c2\n" in (tmp_path / "cameras.yaml").read_text()


def test_lines_to_paste_are_printed_if_the_file_cannot_be_changed(in_process: Command, tmp_path: Path) -> None:
    (tmp_path / "cameras.yaml").write_text("streams: {b: {url: 'test://'}}\n")
    with serving(device(authentication="none")) as fake:
        done = in_process("cameras", "add", f"127.0.0.1:{fake.port}", "--name", "a", "--no-check")
    assert (done.returncode, done.stdout.splitlines()[0]) == (2, "  a:")
    assert "has its streams in braces. Paste the lines above into the file" in done.stderr


def test_a_list_needs_no_secrets(in_process: Command, tmp_path: Path) -> None:
    (tmp_path / "cameras.yaml").write_text(
        "streams:\n  a: {url: 'rtsp://v:${NOT_SET}@cam/x', enabled: false}\n  b: {detect: 'test://', view: 'rtsp://v:geheim@cam/y'}\n"
    )
    done = in_process("cameras", "list", "--json")
    assert json.loads(done.stdout) == [
        {"name": "a", "enabled": False, "detect": "rtsp://v:***@cam/x", "view": None},
        {"name": "b", "enabled": True, "detect": "test://", "view": "rtsp://v:***@cam/y"},
    ]
    assert in_process("cameras", "list").stdout.splitlines()[0] == "a  rtsp://v:***@cam/x  (not enabled)"
    assert "cannot be read" in in_process("cameras", "list", "--file", "none.yaml").stderr
    (tmp_path / "cameras.yaml").write_text("# nothing\n")
    assert in_process("cameras", "list").stdout == "cameras.yaml: no cameras\n"
    (tmp_path / "cameras.yaml").write_text("streams: [a]\n")
    assert "the streams are not valid" in in_process("cameras", "list").stderr
