"""The service manager hears what it has to, on a real datagram socket; nobody is disturbed where there is none."""

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
    """The other end: a datagram socket that was bound before the service began."""

    def __init__(self, named: str) -> None:
        self.named = named
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + named[1:] if named.startswith("@") else named)
        self.socket.settimeout(10)

    def heard(self) -> list[str]:
        """Lines of the next message."""
        return self.socket.recv(65_536).decode().split("\n")

    def heard_nothing(self) -> bool:
        """A datagram on a local socket is there when ``send`` returns: no need to wait."""
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
    assert notifier.active
    assert notifier.status("loading nanodet-416")
    assert notifier.ready("4 of 4 streams live")
    assert notifier.watchdog()
    assert notifier.stopping()
    assert manager.heard() == ["STATUS=loading nanodet-416"]
    assert manager.heard() == ["READY=1", "STATUS=4 of 4 streams live"]
    assert manager.heard() == ["WATCHDOG=1"]
    assert manager.heard() == ["STOPPING=1"]


def test_a_status_is_one_line_and_bounded(manager: Manager) -> None:
    """A line end in a status would be a message of its own: a name of a stream must not be able to say READY=1."""
    notifier = ServiceNotifier({"NOTIFY_SOCKET": manager.named})
    assert notifier.status("door\nREADY=1\r\n gone")
    assert manager.heard() == ["STATUS=door READY=1 gone"]
    assert notifier.ready("ä" * 100_000)
    assert manager.heard() == ["READY=1", "STATUS=" + "ä" * MAX_STATUS_CHARS]
    assert notifier.status("half a character: \ud800")
    assert manager.heard() == ["STATUS=half a character: ?"]
    assert not notifier.status("  \n ")
    assert manager.heard_nothing()


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:9999"}, {"NOTIFY_SOCKET": "@"}])
def test_without_a_manager_nothing_happens(environ: dict[str, str]) -> None:
    environ = {**environ, "WATCHDOG_USEC": "30000000"}
    before = dict(environ)
    notifier = ServiceNotifier(environ)
    assert not notifier.active
    assert notifier.watchdog_interval_s is None
    assert [notifier.ready(), notifier.status("x"), notifier.watchdog(), notifier.stopping()] == [False] * 4
    assert environ == before


def test_the_environment_is_read_only_when_asked(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.named)
    assert not ServiceNotifier({}).ready()
    assert manager.heard_nothing()
    assert ServiceNotifier(os.environ).ready()
    assert os.environ["NOTIFY_SOCKET"] == manager.named


def test_a_manager_that_is_gone_or_never_was_harms_nobody(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    notifier = ServiceNotifier({"NOTIFY_SOCKET": manager.named})
    manager.socket.close()
    assert not notifier.ready()
    assert not ServiceNotifier({"NOTIFY_SOCKET": str(tmp_path / "none")}).ready()
    assert not ServiceNotifier({"NOTIFY_SOCKET": "/" + "long" * 100}).ready()


def test_a_manager_that_does_not_read_is_not_waited_for(manager: Manager) -> None:
    """Its queue of datagrams is full after some; the service goes on, and is heard again when there is room."""
    notifier = ServiceNotifier({"NOTIFY_SOCKET": manager.named})
    sent = 0
    while notifier.watchdog():
        sent += 1
        assert sent < 1_000_000
    assert sent
    assert manager.heard() == ["WATCHDOG=1"]
    assert notifier.watchdog()


def test_no_socket_stays_open(manager: Manager) -> None:
    notifier = ServiceNotifier({"NOTIFY_SOCKET": manager.named})
    before = os.listdir("/dev/fd")
    for _ in range(100):
        assert notifier.watchdog()
        manager.heard()
    assert len(os.listdir("/dev/fd")) == len(before)


@pytest.mark.parametrize(
    ("watchdog", "interval_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "77"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "78"}, None),  # meant for the process that started us
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({}, None),
    ],
)
def test_how_often_the_watchdog_wants_to_hear(watchdog: dict[str, str], interval_s: float | None) -> None:
    assert ServiceNotifier({"NOTIFY_SOCKET": "/run/x", **watchdog}, pid=77).watchdog_interval_s == interval_s
