"""A free port for a server of a test, so that several can run at the same time."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

_FIRST, _LAST = 15_000, 32_000
"""Below the ports that Linux gives to clients, so that no connection takes the port before the server does."""


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that is free for UDP and TCP."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    choice = random.SystemRandom()  # not the seed that Hypothesis sets, with which parallel tests would choose the same
    while True:
        with socket.socket(family, socket.SOCK_DGRAM) as udp, socket.socket(family, socket.SOCK_STREAM) as tcp, suppress(OSError):
            number = choice.randint(_FIRST, _LAST)
            udp.bind((host, number))
            tcp.bind((host, number))
            return number
