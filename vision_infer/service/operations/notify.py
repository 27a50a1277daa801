"""What the service manager is told: systemd's notification protocol, one datagram for each message.

systemd gives a service of ``Type=notify`` the address of a datagram socket in ``NOTIFY_SOCKET``. The service sends lines of
``KEY=value`` there: when it is ready, what it is doing, that it stops, and that it is alive, where a watchdog waits for that.
Without a socket nothing is sent, so that callers need not ask where they run.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

SOCKET_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE = "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE = "WATCHDOG_PID"

LONGEST_STATUS = 512
"""characters; what is longer is cut, for a datagram goes whole or not at all"""


class ServiceNotifier:
    """Tells the service manager what the service does; does nothing where there is none. Any thread may call it."""

    __slots__ = ("_address", "watchdog_interval_s")

    def __init__(self, environ: Mapping[str, str], pid: int | None = None) -> None:
        """Look up where to send to; the environment is not changed, so that our own children could notify too.

        Args:
            environ: the environment, usually ``os.environ``.
            pid: the process that the watchdog has to be meant for; null: this one.
        """
        self._address = _address(environ.get(SOCKET_VARIABLE, ""))
        self.watchdog_interval_s: float | None = None
        """seconds between two calls of ``watchdog``: half of what systemd waits; null: no watchdog waits"""
        if self._address is not None:
            self.watchdog_interval_s = _watchdog_interval_s(environ, os.getpid() if pid is None else pid)

    @property
    def active(self) -> bool:
        """Whether there is a service manager to tell."""
        return self._address is not None

    def ready(self, status: str = "") -> bool:
        """Starting is over: what waits for this service may start."""
        return self._send("READY=1", status)

    def status(self, status: str) -> bool:
        """One line for ``systemctl status``; no password may be in it, for every user can read it."""
        return self._send("", status)

    def stopping(self, status: str = "") -> bool:
        """The service begins to stop."""
        return self._send("STOPPING=1", status)

    def watchdog(self) -> bool:
        """The service is alive. To be called every ``watchdog_interval_s``, and only while it is true."""
        return self._send("WATCHDOG=1", "")

    def _send(self, assignment: str, status: str) -> bool:
        """Whether the message was handed over. A manager that is gone or busy is no reason to stop or to wait."""
        if self._address is None:
            return False
        line = " ".join(status.split())[:LONGEST_STATUS]
        message = "\n".join(part for part in (assignment, line and f"STATUS={line}") if part)
        if not message:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.connect(self._address)
                return sender.send(message.encode("utf-8", "replace")) > 0
        except OSError:
            return False


def _address(named: str) -> bytes | None:
    """``/path`` of a socket, or ``@name`` of an abstract one, whose first byte is a zero; null where it is neither."""
    if len(named) < 2 or named[0] not in "/@" or "\0" in named:
        return None
    address = os.fsencode(named)
    return b"\0" + address[1:] if named[0] == "@" else address


def _watchdog_interval_s(environ: Mapping[str, str], pid: int) -> float | None:
    if environ.get(WATCHDOG_PID_VARIABLE, str(pid)) != str(pid):
        return None
    try:
        limit_us = int(environ.get(WATCHDOG_VARIABLE, ""))
    except ValueError:
        return None
    return limit_us / 2e6 if limit_us > 0 else None
