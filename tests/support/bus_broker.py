"""The common part of real brokers of message buses, which a test can start, kill and restart."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.support.free_port import free_port
from tests.support.waiting import wait_until

PREFIX = "vision-infer"


@dataclass(frozen=True)
class Arrived:
    """A message of a bus."""

    id: str
    """The identifier at the place that the bus has for it."""
    key: str
    """The place of the message: key, subject or routing key."""
    headers: dict[str, str]
    content_type: str
    body: dict[str, Any] = field(repr=False)

    @property
    def row(self) -> dict[str, Any]:
        """The row, also from an envelope."""
        row = self.body["data"] if "specversion" in self.body else self.body
        assert isinstance(row, dict)
        return row


class BusBroker:
    """A server on a free port of the loopback interface, with data that survives a kill; a context manager.

    Args:
        folder: The folder of its files.
        tls: The certificate and the key.
        users: Whether it requires :data:`USER` and :data:`PASSWORD`.
    """

    kind: str
    scheme: str
    tls_scheme: str
    program: str

    def __init__(self, folder: Path, tls: tuple[Path, Path] | None = None, users: bool = False) -> None:
        if shutil.which(self.program) is None:
            pytest.skip(f"{self.program} is not here")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.tls = tls
        self.users = users
        self.clients_ca: Path | None = None
        """The certificate of the authority of clients, which must have a certificate; None: they need none. Set it before the
        start."""
        self.port = free_port()
        self._log = folder / "log.txt"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """The URL for the settings of a sink."""
        return f"{self.scheme if self.tls is None else self.tls_scheme}://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""
        raise NotImplementedError

    def environment(self) -> dict[str, str] | None:
        """Return the environment of the server; None: that of the test."""
        return None

    def prepare(self) -> None:
        """Create what receives messages, after each start."""

    def messages(self) -> list[Arrived]:
        """Return all messages in the order of the broker."""
        raise NotImplementedError

    def numbers(self, stream: str = "door") -> list[int]:
        """Return the numbers of a stream's rows, without those of repeated ids."""
        first = {message.id: message.row["number"] for message in reversed(self.messages()) if message.row["stream"] == stream}
        return list(reversed(first.values()))

    def start(self) -> None:
        """Start the server; return when it accepts connections."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, cwd=self.folder, env=self.environment(), start_new_session=True
            )
        wait_until(self._listens, lambda: f"{self.program} listens: {self._log.read_text(errors='replace')[-2000:]}")
        self.prepare()

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text(errors="replace")[-4000:]
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def suspend(self) -> None:
        """Stop the processes of the server: it accepts connections and does not answer."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the processes of the server."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill the server (SIGKILL) if it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
