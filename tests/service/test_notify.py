"""Notifications to the service manager over a real datagram socket, and without one."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vision_infer.service.operations.notify import MAX_STATUS_CHARS, ServiceNotifier

LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")


class Manager:
    """The service manager: a datagram socket that is bound before the service starts."""

    def __init__(self, named: str) -> None:
        self.named = named
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + named[1:] if named.startswith("@") else named)
        self.socket.settimeout(10)

    def receive(self) -> list[str]:
        """Return the lines of the next message."""
        return self.socket.recv(65_536).decode().split("\n")

    def is_empty(self) -> bool:
        """Return whether a message waits. A local datagram has arrived when ``send`` returns."""
        self.socket.setblocking(False)
        try:
            self.socket.recv(1)
        except BlockingIOError:
            return True
        return False


@pytest.fixture(params=["path", pytest.param("abstract", marks=LINUX_ONLY)])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    named = str(tmp_path / "notify") if request.param == "path" else f"@vision-infer-{secrets.token_hex(8)}"
    manager = Manager(named)
    with manager.socket:
        yield manager


def test_the_life_of_a_service(manager: Manager) -> None:
    notifier = ServiceNotifier({"NOTIFY_SOCKET": manager.named})
    assert notifier.status("loading nanodet-416")
    assert notifier.ready("4 of 4 streams live")
    assert notifier.watchdog()
    assert notifier.stopping()
    assert manager.receive() == ["STATUS=loading nanodet-416"]
    assert manager.receive() == ["READY=1", "STATUS=4 of 4 streams live"]
    assert manager.receive() == ["WATCHDOG=1"]
    assert manager.receive() == ["STOPPING=1"]


def test_a_status_is_one_line_of_limited_length(manager: Manager) -> None:
    """A line break in a status would start another assignment: a stream's name must not be able to send READY=1."""
    notifier = ServiceNotifier({"NOTIFY_SOCKET": manager.named})
    assert notifier.status("door\nREADY=1\r\n gone")
    assert manager.receive() == ["STATUS=door READY=1 gone"]
    assert notifier.ready("ä" * 100_000)
    assert manager.receive() == ["READY=1", "STATUS=" + "ä" * MAX_STATUS_CHARS]
    assert notifier.status("half a character: \ud800")
    assert manager.receive() == ["STATUS=half a character: ?"]
    assert not notifier.status("  \n ")
    assert manager.is_empty()


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:9999"}, {"NOTIFY_SOCKET": "@"}])
def test_nothing_is_sent_without_a_service_manager(environ: dict[str, str]) -> None:
    environ = {**environ, "WATCHDOG_USEC": "30000000"}
    before = dict(environ)
    notifier = ServiceNotifier(environ)
    assert notifier.watchdog_interval_s is None
    assert [notifier.ready(), notifier.status("x"), notifier.watchdog(), notifier.stopping()] == [False] * 4
    assert environ == before


def test_the_environment_is_not_changed(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.named)
    assert not ServiceNotifier({}).ready()
    assert manager.is_empty()
    assert ServiceNotifier(os.environ).ready()
    assert os.environ["NOTIFY_SOCKET"] == manager.named


def test_a_missing_service_manager_is_ignored(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    notifier = ServiceNotifier({"NOTIFY_SOCKET": manager.named})
    manager.socket.close()
    assert not notifier.ready()
    assert not ServiceNotifier({"NOTIFY_SOCKET": str(tmp_path / "none")}).ready()
    assert not ServiceNotifier({"NOTIFY_SOCKET": "/" + "long" * 100}).ready()


def test_a_busy_service_manager_does_not_block(manager: Manager) -> None:
    """The queue of datagrams fills up; the service continues, and messages arrive again later."""
    notifier = ServiceNotifier({"NOTIFY_SOCKET": manager.named})
    sent = 0
    while notifier.watchdog():
        sent += 1
        assert sent < 1_000_000
    assert sent
    assert manager.receive() == ["WATCHDOG=1"]
    assert notifier.watchdog()


def test_sockets_are_closed(manager: Manager) -> None:
    notifier = ServiceNotifier({"NOTIFY_SOCKET": manager.named})
    before = os.listdir("/dev/fd")
    for _ in range(100):
        assert notifier.watchdog()
        manager.receive()
    assert len(os.listdir("/dev/fd")) == len(before)


@pytest.mark.parametrize(
    ("watchdog", "interval_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "77"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "78"}, None),  # intended for the parent process
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({}, None),
    ],
)
def test_interval_of_the_watchdog(watchdog: dict[str, str], interval_s: float | None) -> None:
    assert ServiceNotifier({"NOTIFY_SOCKET": "/run/x", **watchdog}, pid=77).watchdog_interval_s == interval_s
