"""A free port for the preview, so that several services can run at the same time."""

from __future__ import annotations

import socket
from contextlib import suppress


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that is free for UDP and TCP."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        with socket.socket(family, socket.SOCK_DGRAM) as udp, socket.socket(family, socket.SOCK_STREAM) as tcp, suppress(OSError):
            udp.bind((host, 0))
            number = int(udp.getsockname()[1])
            tcp.bind((host, number))
            return number
