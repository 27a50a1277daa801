"""A real service in a separate process, and what an attack costs it: memory, log and descriptors."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.serve_process import ServeProcess

MB = 1 << 20


class Target(ServeProcess):
    """A service that is attacked. Linux only: the figures come from ``/proc``."""

    @property
    def rss_mb(self) -> float:
        """The resident memory now, MB."""
        return self._memory_mb("VmRSS")

    @property
    def peak_mb(self) -> float:
        """The largest resident memory since the start or :meth:`forget_peak`, MB."""
        return self._memory_mb("VmHWM")

    @property
    def log_bytes(self) -> int:
        """The size of the log so far."""
        return self.log_file.stat().st_size

    @property
    def descriptors(self) -> int:
        """The number of open file descriptors."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    @property
    def cpu_s(self) -> float:
        """The CPU time used since the start, seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def forget_peak(self) -> None:
        """Let :attr:`peak_mb` begin again at the current memory."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def connect(self, source: str = "127.0.0.1", timeout_s: float = 10.0) -> socket.socket:
        """Open a TCP connection. Linux accepts every source of 127.0.0.0/8, so that one machine has many addresses."""
        return socket.create_connection(("127.0.0.1", self.port), timeout_s, source_address=(source, 0))

    def raw(self, request: bytes, source: str = "127.0.0.1", timeout_s: float = 10.0) -> bytes:
        """Send bytes and return everything that the service sends until it closes; close after the time limit."""
        received = b""
        with self.connect(source, timeout_s) as client, contextlib.suppress(OSError):
            client.sendall(request)
            while chunk := client.recv(65_536):
                received += chunk
        return received

    def _memory_mb(self, field: str) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{field}:")) * 1024 / MB


@dataclass(frozen=True)
class Spent:
    """What a service may use while it is attacked."""

    memory_mb: float
    log_bytes: int


@contextlib.contextmanager
def bounded(target: Target, most: Spent) -> Iterator[None]:
    """Verify afterwards that the peak of memory and the log stayed within bounds, and that the service still answers."""
    target.forget_peak()
    before_mb, before_log = target.rss_mb, target.log_bytes
    yield
    assert target.peak_mb - before_mb <= most.memory_mb, f"{target.peak_mb - before_mb:.0f} MB more"
    written = target.log_bytes - before_log
    assert written <= most.log_bytes, target.log[-2000:]
    assert "Traceback" not in target.log[-max(written, 1) :]
    assert target.ask("GET", "/healthz")[0] == 200


Serve = Callable[..., Target]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Return a function that starts a service: ``serve(configuration, under=(), token="", **environment)``."""
    with ExitStack() as stack:

        def start(
            configuration: str = "model: clock\n", under: Sequence[str] = (), token: str = "", **environment: str
        ) -> Target:
            if token:
                configuration += f"service: {{token: {token}}}\n"
            folder = tmp_path / f"service-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            target = Target(folder, configuration, under, **environment)
            target.token = token
            stack.callback(target.kill)
            target.start()
            return target

        yield start
