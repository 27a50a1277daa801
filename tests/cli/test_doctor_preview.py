"""``vision-infer doctor``: the preview port, of this machine and of a running service."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.free_port import free_port
from tests.support.serve_process import ServeProcess
from vision_infer.cli import checks, preview_checks
from vision_infer.cli.app import app
from vision_infer.cli.service_client import ServiceClient
from vision_infer.config.serve_file import load_settings
from vision_infer.core.errors import UsageError
from vision_infer.core.finding import Finding, Severity
from vision_infer.preview.transport.reachability import Announced, ReachabilityCheck

PORT_TEXT = "preview.port: cannot listen on 127.0.0.1, port {} (UDP and TCP): the port is in use"
TOKEN = "a-token-for-tests-of-doctor"
CLIENT = ServiceClient("http://192.0.2.7:8080", None, "--preview")


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    settings = f"service: {{port: 0, token: {TOKEN}}}\nmodel: clock\nstreams:\n  front: {{detect: 'test://?fps=10'}}\n"
    running = ServeProcess(tmp_path_factory.mktemp("doctor"), settings)
    running.token = TOKEN
    with running:
        running.wait(lambda: running.streams()["front"]["status"]["state"] == "live", "the stream is live")
        yield running


def doctor(*words: str) -> tuple[int, list[dict[str, Any]]]:
    done = CliRunner().invoke(app, ["doctor", "--json", *words], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.return_value, json.loads(done.stdout)["findings"]


def local(port: int, **other: object) -> list[Finding]:
    changes = {f"preview.{name}": value for name, value in other.items() if name != "service_port"}
    service = {"service.port": other.get("service_port", 9), "service.token": TOKEN}
    return list(preview_checks.check_port(load_settings(None, (), {}, {"preview.port": port, **service, **changes}), None))


def test_a_free_port_receives_at_the_addresses_that_browsers_would_use(port: int) -> None:
    found = local(port)
    assert [one.severity for one in found] == ["ok", "note"]
    assert found[0].text == f"browsers would use 127.0.0.1, port {port} (loopback): packets of this machine arrive"
    assert found[1].text == "only browsers on this machine get live video"
    assert [one.severity for one in local(0)] == ["note"]
    assert [one.text for one in local(port, enabled=False)] == ["live video is disabled (preview.enabled)"]


def test_announced_addresses_are_resolved_and_tested(port: int) -> None:
    found = local(port, addresses=["localhost", "nowhere.invalid", "203.0.113.7"])
    text = {one.text: one for one in found}
    assert text["preview.addresses: nowhere.invalid cannot be resolved"].severity == "error"
    assert text[f"browsers would use 127.0.0.1, port {port} (loopback): packets of this machine arrive"].severity == "ok"
    away = text[f"browsers would use 203.0.113.7, port {port} (private): no packet of this machine arrives over UDP and TCP"]
    assert (away.severity, "forwards the port" in away.hint) == ("warning", True)
    assert found[-1].text.startswith("firewalls between this machine and browsers are not tested, and browsers in other networks")
    assert [preview_checks._kind(one) for one in ("8.8.8.8", "::1", "100.64.0.1", "fe80::1%eth0")] == [
        "public", "loopback", "private", "private",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_port_of_another_program_is_an_error(port: int, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind(("127.0.0.1", port))
        if kind == socket.SOCK_STREAM:
            other.listen()
        (found,) = local(port)
    assert (found.severity, found.text) == ("error", PORT_TEXT.format(port))
    assert "Set preview.port" in found.hint


def test_a_port_of_the_running_service_is_tested_with_it(process: ServeProcess) -> None:
    found = local(process.preview_port, service_port=process.port)
    assert found[0].text == f"port {process.preview_port} is in use by the service at http://127.0.0.1:{process.port}"
    assert {one.severity for one in found} == {"ok"}, found


def test_each_announced_address_of_a_service_answers_and_no_session_remains(process: ServeProcess, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{process.port}"
    status, (refused,) = doctor("--preview", url)
    assert (status, "Set the token with --token-file" in refused["hint"]) == (2, True)
    file = tmp_path / "token"
    file.write_text(TOKEN)
    status, found = doctor("--preview", url, "--token-file", str(file))
    assert status == 0, found
    assert {one["area"] for one in found} == {"preview"}
    answers = [one for one in found if "answers after" in one["text"]]
    assert {one["facts"]["protocol"] for one in answers} == {"udp", "tcp"}
    assert found[-1]["text"].startswith("browsers on this machine can play video over UDP")
    assert _viewers(process) == 0


def _viewers(process: ServeProcess) -> float:
    lines = process.ask("GET", "/metrics")[1].splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("vision_infer_preview_viewers"))


def test_a_service_that_does_not_respond_or_is_another_program_is_an_error() -> None:
    status, (found,) = doctor("--preview", "http://127.0.0.1:9")
    assert (status, found["severity"]) == (2, "error")
    assert found["text"].startswith("live video cannot be tested: http://127.0.0.1:9: the service does not respond")
    status, (found,) = doctor("--preview", "ftp://user:geheim@x")
    assert (status, "geheim" in str(found)) == (2, False)


def test_an_address_that_another_program_uses_does_not_count() -> None:
    viewer = ReachabilityCheck()
    viewer.read("a=ice-ufrag:abcd\r\na=ice-pwd:a-password-of-22-chars\r\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=lambda: other.sendto(b"hello", other.recvfrom(2048)[1]))
        thread.start()
        with pytest.raises(OSError, match="not a STUN message"):
            viewer.check(Announced("udp", "127.0.0.1", other.getsockname()[1]))
        thread.join()
        with pytest.raises(TimeoutError, match="no answer within"):
            viewer.check(Announced("udp", "127.0.0.1", other.getsockname()[1]), 0.25)
    with pytest.raises(ConnectionRefusedError):
        viewer.check(Announced("tcp", "127.0.0.1", 9), 0.25)


def test_a_configuration_file_is_checked_with_its_cameras(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, port: int) -> None:
    monkeypatch.setattr(checks, "_to_try", lambda *_: [("onnxruntime", "cpu")])  # the others take seconds to import
    file = tmp_path / "cameras.yaml"
    streams = "streams:\n  gone: {detect: '/nonexistent.mp4'}\n  off: {detect: '/off.mp4', enabled: false}\n"
    file.write_text(f"preview: {{port: {port}}}\n{streams}")
    status, found = doctor(str(file))
    assert [one["text"] for one in found if one["area"] == "camera"] == ["camera 1: is not a URL, file or device"]
    assert any(f"port {port} (loopback)" in one["text"] for one in found)
    assert status == 2
    with pytest.raises(UsageError, match="is a second configuration"):
        doctor(str(file), str(file))


def test_addresses_of_turn_servers_are_left_out() -> None:
    lines = (
        "a=candidate:1 1 udp 9 192.0.2.7 8189 typ host",
        "a=candidate:2 1 udp 1 192.0.2.9 4000 typ relay raddr 0.0.0.0 rport 0",
    )
    assert ReachabilityCheck().read("\r\n".join(lines)) == [Announced("udp", "192.0.2.7", 8189)]


HERE, THERE = "192.0.2.7", "172.17.0.2"


@pytest.mark.parametrize(
    ("address", "udp", "tcp", "arrived", "severity", "text", "hint"),
    [
        (HERE, 0.01, "refused", 1, "ok", "browsers on this machine can play video over UDP", ""),
        (HERE, "no answer", 0.01, 1, "warning", "video plays over TCP", "Open port 8189 for UDP in the firewall"),
        (HERE, "no answer", "no answer", 0, "error", "no announced address answers", "Open port 8189 for UDP and TCP"),
        (HERE, "no answer", "no answer", 8, "error", "no announced address answers", "8 requests reached the service, but no"),
        (
            THERE,
            "no answer",
            "no answer",
            0,
            "error",
            "no announced address answers",
            "set preview.addresses, such as [192.0.2.7]",
        ),
    ],
)
def test_what_the_answers_mean(
    address: str, udp: float | str, tcp: float | str, arrived: int, severity: Severity, text: str, hint: str
) -> None:
    announced = [Announced("udp", address, 8189), Announced("tcp", address, 8189)]
    found = preview_checks._verdict(CLIENT, announced, [udp, tcp], arrived)
    assert found.severity == severity
    assert text in found.text
    assert hint in found.hint
