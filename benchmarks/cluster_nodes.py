"""A Ray cluster on this machine, each node started with ``ray start``, and the memory of a node."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from benchmarks.inputs import ROOT
from benchmarks.processes import descendants, pss_bytes
from tests.support.free_port import free_port

STORE_BYTES = 80 << 20
"""The minimum object store: rows and requests are too small for it."""
STOP_S = 20.0


class NodeMemory(NamedTuple):
    """The memory of one node, shared pages divided among their processes."""

    ray_mb: float
    """The memory of Ray's own processes and of the actor: what a node needs in addition to the service."""
    service_mb: float
    processes: int
    """The number of processes without those of the service."""


class LocalCluster:
    """A head without CPUs, and nodes, all with token authentication, until the context ends.

    Args:
        nodes: The number of nodes.
        cpus: The number of CPUs that each node reports.
        client: Whether the head also accepts Ray Client, which needs the package ``grpcio``.
    """

    def __init__(self, nodes: int, cpus: int, client: bool) -> None:
        self.environ: Mapping[str, str] = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(ROOT),
        }
        """The environment variables of programs that use the cluster."""
        self.address = f"127.0.0.1:{free_port()}"
        self.client_address = f"ray://127.0.0.1:{free_port()}" if client else None
        self._nodes = nodes
        self._cpus = cpus
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # Ray's paths of sockets must be short.
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vi-ray-", ignore_cleanup_errors=True)))
            stack.callback(self._stop)
            client = [] if self.client_address is None else [f"--ray-client-server-port={self.client_address.rpartition(':')[2]}"]
            self._start("head", "--head", f"--port={self.address.rpartition(':')[2]}", "--include-dashboard=false", *client)
            for number in range(1, self._nodes + 1):
                self._start(f"node-{number}", f"--address={self.address}")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def memory(self) -> list[NodeMemory]:
        """Return the memory of each node but the head."""
        return [_memory_of(process.pid) for process in self._started[1:]]

    def _start(self, name: str, *options: str) -> None:
        """Start a node, and wait until it runs."""
        first_port = 10_000 + 1_000 * len(self._started)  # nodes of one machine must not share a range
        log = self._folder / f"{name}.log"
        command = [
            str(Path(sys.executable).parent / "ray"),
            "start",
            *options,
            "--block",
            f"--node-name={name}",
            f"--num-cpus={0 if name == 'head' else self._cpus}",
            f"--object-store-memory={STORE_BYTES}",
            f"--min-worker-port={first_port}",
            f"--max-worker-port={first_port + 999}",
            f"--dashboard-agent-listen-port={free_port()}",
            f"--metrics-export-port={free_port()}",
            *(["--temp-dir", str(self._folder)] if name == "head" else []),
        ]
        own = {"VISION_INFER_HOME": str(self._folder / name), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log.open("wb"),
            env={**os.environ, **self.environ, **own},
            start_new_session=True,
        )
        self._started.append(process)
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.decode(errors="replace"))
            if b"Ray runtime started" in line:
                return
        raise RuntimeError(f"{name} did not start:\n{''.join(lines)[-2000:]}{log.read_text(errors='replace')[-2000:]}")

    def _stop(self) -> None:
        for process in reversed(self._started):  # the head last
            process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _memory_of(pid: int) -> NodeMemory:
    everything = descendants(pid)
    roots = [one for one in everything if b"vision_infer.service.worker" in _command_of(one)]
    service = {one for root in roots for one in descendants(root)}
    ray = everything - service
    return NodeMemory(sum(map(pss_bytes, ray)) / 1e6, sum(map(pss_bytes, service)) / 1e6, len(ray))


def _command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
