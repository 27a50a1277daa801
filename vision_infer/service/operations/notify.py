"""Notify the service manager with systemd's protocol, one datagram for each message.

systemd passes the address of a datagram socket in ``NOTIFY_SOCKET`` to services of ``Type=notify``. The service sends lines of
``KEY=value``: when it is ready, its status, when it stops, and a keep-alive for the watchdog if one is configured. Without a
socket, nothing is sent. See https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

SOCKET_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE = "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE = "WATCHDOG_PID"

MAX_STATUS_CHARS = 512
"""The maximum length of a status line; longer ones are truncated to fit into a datagram."""


class ServiceNotifier:
    """Notifies the service manager; does nothing if there is none. Any thread may call it."""

    __slots__ = ("_address", "watchdog_interval_s")

    def __init__(self, environ: Mapping[str, str], pid: int | None = None) -> None:
        """Read the socket address from the environment, which is not changed, so that child processes could notify as well."""
        self._address = _address(environ.get(SOCKET_VARIABLE, ""))
        self.watchdog_interval_s: float | None = None
        """The interval between calls of ``watchdog`` in seconds, half of systemd's timeout; None without a watchdog."""
        if self._address is not None:
            self.watchdog_interval_s = _watchdog_interval_s(environ, os.getpid() if pid is None else pid)

    def ready(self, status: str = "") -> bool:
        """Report that the start is complete; services that depend on this one may start."""
        return self._send("READY=1", status)

    def status(self, status: str) -> bool:
        """Set the line in ``systemctl status``. It must not contain passwords, because every user can read it."""
        return self._send("", status)

    def stopping(self, status: str = "") -> bool:
        """Report that the service is stopping."""
        return self._send("STOPPING=1", status)

    def watchdog(self) -> bool:
        """Report that the service is alive. Call it every ``watchdog_interval_s``, and only while the service works."""
        return self._send("WATCHDOG=1", "")

    def _send(self, assignment: str, status: str) -> bool:
        """Send a message; return whether it was sent. Errors are ignored, and the call never blocks."""
        if self._address is None:
            return False
        line = " ".join(status.split())[:MAX_STATUS_CHARS]
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
    """Return the address for ``/path`` or for an abstract socket ``@name``, whose first byte is zero; None if it is neither."""
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
