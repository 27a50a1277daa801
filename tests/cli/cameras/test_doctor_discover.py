"""``vision-infer doctor --discover``: the devices and their streams."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.conftest import Command
from tests.support.onvif_device import PASSWORD, USER, FakeProfile, OnvifDevice, serving
from vision_infer.cli import camera_checks
from vision_infer.cli.camera_checks import check_network
from vision_infer.cli.cameras.login import CameraLogin
from vision_infer.config.serve import ServeSettings
from vision_infer.config.yaml_lines import compose, plain
from vision_infer.core.finding import Finding
from vision_infer.stream.discovery import discover as module
from vision_infer.stream.discovery.discover import DiscoveredDevice

LOGIN = CameraLogin(USER, PASSWORD, "${CAMERA_PASSWORD}")


def found(
    monkeypatch: pytest.MonkeyPatch, device: OnvifDevice, login: CameraLogin | None = None, **settings: Any
) -> list[Finding]:
    """Return the findings about a device, with another host among its services."""
    answered = DiscoveredDevice("127.0.0.1", "Front Door", "IPC-7", "", ("http://10.9.8.7/onvif", device.service), "urn:1")
    monkeypatch.setattr(module, "discover", lambda _: [answered])
    findings = check_network(0.1, ServeSettings(**settings), login)
    assert PASSWORD not in json.dumps([(one.text, one.hint, dict(one.facts)) for one in findings], ensure_ascii=False)
    assert findings[0].text == f"127.0.0.1 Front Door IPC-7 http://10.9.8.7/onvif {device.service}"
    return findings[1:]


def device(url: str = "rtsp://127.0.0.1") -> OnvifDevice:
    main = FakeProfile("main", "H264", 1920, 1080, f"{url}/main")
    return OnvifDevice([main, FakeProfile("sub", "H264", 640, 360, f"{url}/sub", 10)])


def test_streams_are_shown_with_a_line_to_paste(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(device()) as fake:
        (one,) = found(monkeypatch, fake, LOGIN)
    assert (one.area, one.severity) == ("camera", "ok")
    assert one.text == (
        "127.0.0.1: Example IPC-7: detect rtsp://127.0.0.1/sub (h264 640x360, 10 frames/s), "
        "view rtsp://127.0.0.1/main (h264 1920x1080, 25 frames/s)"
    )
    assert one.hint.startswith(f"Run: vision-infer cameras add 127.0.0.1:{fake.port} --name front-door --user {USER}; ")
    line = one.hint.partition("cameras.yaml: ")[2]
    assert plain(compose("streams:\n  " + line))["streams"] == {
        "front-door": {
            "detect": f"rtsp://{USER}:${{CAMERA_PASSWORD}}@127.0.0.1/sub",
            "view": f"rtsp://{USER}:${{CAMERA_PASSWORD}}@127.0.0.1/main",
        }
    }


def test_the_credentials_of_the_configuration_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = [{"match": "127.0.0.1", "user": USER, "password": PASSWORD}]
    with serving(device()) as fake:
        (one,) = found(monkeypatch, fake, credentials=credentials)
    assert "front-door: {detect: 'rtsp://127.0.0.1/sub', view: 'rtsp://127.0.0.1/main'}" in one.hint


def test_without_a_password_the_way_to_give_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(device()) as fake:
        (one,) = found(monkeypatch, fake)
    assert (one.severity, "the user name and password are needed" in one.text) == ("note", True)
    assert "--user NAME, with the password in $CAMERA_PASSWORD or --password-file FILE" in one.hint


def test_a_wrong_password_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(device()) as fake:
        (one,) = found(monkeypatch, fake, CameraLogin(USER, "wrong", ""))
    assert (one.severity, "authentication failed" in one.text) == ("warning", True)


def test_each_channel_of_a_recorder_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    channels = [
        FakeProfile(f"c{number}", "H264", 640, 360, f"rtsp://127.0.0.1/c{number}", source=f"s{number}") for number in (1, 2)
    ]
    with serving(OnvifDevice(channels)) as fake:
        one, two = found(monkeypatch, fake, LOGIN)
    assert "front-door: {detect:" in one.hint
    assert "--name front-door --channel 1 --user" in one.hint
    assert "127.0.0.1 channel 2: Example" in two.text
    assert "front-door-2: {detect:" in two.hint


def test_a_secret_that_a_camera_puts_into_a_url_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(device("rtsp://127.0.0.1/user=admin_password=geheim_channel=1")) as fake:
        (one,) = found(monkeypatch, fake, LOGIN)
    assert "geheim" not in str(one)
    assert one.hint == f"Run: vision-infer cameras add 127.0.0.1:{fake.port} --name front-door --user {USER}"


def test_the_password_in_a_url_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = [{"match": "127.0.0.1", "user": USER, "password": PASSWORD}]
    with serving(device(f"rtsp://127.0.0.1/live?x={PASSWORD}&amp;y=")) as fake:
        (one,) = found(monkeypatch, fake, credentials=credentials)
    assert one.hint.startswith("Run: vision-infer cameras add")
    assert "or paste" not in one.hint


def test_cameras_with_the_same_name_get_different_names(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = {"Front-Door": {"detect": "test://"}}
    with serving(device()) as fake:
        answered = [DiscoveredDevice("127.0.0.1", "", "", "", (fake.service,), f"urn:{number}") for number in range(2)]
        monkeypatch.setattr(module, "discover", lambda _: answered)
        findings = check_network(0.1, ServeSettings(streams=streams), LOGIN)
    names = [one.hint.partition("--name ")[2].split()[0] for one in findings if one.area == "camera"]
    assert names == ["front-door-2", "front-door-3"]


def test_an_address_that_a_device_chose_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(device()) as fake:
        service = f"http://127.0.0.1:{fake.port}/$(reboot);x"
        monkeypatch.setattr(module, "discover", lambda _: [DiscoveredDevice("127.0.0.1", "", "", "", (service,), "urn:1")])
        (_, one) = check_network(0.1, ServeSettings(), LOGIN)
    assert one.hint.startswith(f"Run: vision-infer cameras add '{service}' --name ")


def test_a_device_that_names_another_host_gets_no_password_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device on port 80 of the address that answered is asked instead."""
    asked: list[str] = []
    with serving(device()) as fake:
        fake.port, port = 1, fake.port

        def record(url: str, *_: object) -> None:
            asked.append(url)
            raise AssertionError

        monkeypatch.setattr("vision_infer.stream.onvif.read_camera.camera_streams", record)
        answered = DiscoveredDevice("127.0.0.1", "", "", "", (f"http://localhost:{port}/onvif",), "urn:1")
        monkeypatch.setattr(module, "discover", lambda _: [answered])
        with pytest.raises(AssertionError):
            check_network(0.1, ServeSettings(), LOGIN)
    assert asked == ["http://127.0.0.1/onvif/device_service"]


def test_a_missing_package_is_one_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_checks, "find_spec", lambda _: None)
    with serving(device()) as fake:
        (one,) = found(monkeypatch, fake, LOGIN)
    assert (one.severity, one.hint) == ("note", "Run: pip install '.[onvif]'")
    assert fake.requests == []


def test_the_command_prints_the_streams(in_process: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.cli.checks._to_try", lambda *_: [])  # the runtimes take seconds
    monkeypatch.setenv("CAMERA_PASSWORD", PASSWORD)
    with serving(device()) as fake:
        answered = DiscoveredDevice("127.0.0.1", "", "", "", (fake.service,), "urn:1")
        monkeypatch.setattr(module, "discover", lambda _: [answered])
        done = in_process("doctor", "--discover", "--user", USER)
    assert "ok       camera   127.0.0.1: Example IPC-7: detect rtsp://127.0.0.1/sub (h264 640x360" in done.stdout
    assert f"front-door: {{detect: 'rtsp://{USER}:${{CAMERA_PASSWORD}}@127.0.0.1/sub', view:" in done.stdout
    assert PASSWORD not in done.stdout + done.stderr


def test_a_user_without_a_search_is_an_error(in_process: Command) -> None:
    assert "--user: is for --discover" in in_process("doctor", "--user", USER).stderr
