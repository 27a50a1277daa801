"""A real TURN server (coturn)."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

TURN_SECRET = "a secret for tests"


@contextmanager
def turn_server(folder: Path) -> Iterator[str]:
    """Run coturn with a shared secret; return the URL of the server."""
    program = shutil.which("turnserver")
    if program is None:
        pytest.skip("coturn is not installed; run: make packages")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect(("192.0.2.1", 9))  # sends nothing
        address = route.getsockname()[0]
    with socket.create_server((address, 0)) as free:
        port = free.getsockname()[1]
    options = [
        "-n",
        "--use-auth-secret",
        f"--static-auth-secret={TURN_SECRET}",
        "--realm=test",
        "--no-tls",
        "--no-dtls",
        "--no-cli",
    ]
    places = [f"--listening-ip={address}", f"--relay-ip={address}", f"--listening-port={port}", f"--pidfile={folder}/turn.pid"]
    process = subprocess.Popen([program, *options, *places, "--log-file=stdout"], stdout=subprocess.DEVNULL, cwd=folder)
    try:
        wait_until(lambda: _listens(address, port), "the TURN server to listen")
        yield f"turn:{address}:{port}?transport=tcp"
    finally:
        process.terminate()
        process.wait()


def _listens(address: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False
