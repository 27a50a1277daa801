"""A receiver of webhooks with configurable responses."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.post_server import Answer, PostServer


class Receiver(PostServer):
    """Listens on a port until the context ends.

    Args:
        port: The port; 0 means any free port.
        tls: The certificate and the key.
    """

    def __init__(self, port: int = 0, tls: tuple[Path, Path] | None = None) -> None:
        self.answer: Callable[[Any], Answer] = lambda body: (204, {})
        """Returns the status and the headers of the response to a body."""
        self.bodies: list[Any] = []
        """The bodies of the accepted requests, in order."""
        self.requests: list[tuple[str, Mapping[str, str], bytes]] = []
        """The path, headers and body of each request."""
        context = None
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
        super().__init__(port, context)

    @property
    def rows(self) -> list[Any]:
        """The rows of the accepted requests, in order."""
        return [row for body in list(self.bodies) for row in body.get("rows", [body])]

    def _receive(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.requests.append((path, headers, body))
        self.hold.wait(60)
        content = json.loads(body)
        status, returned = self.answer(content)
        if status < 300:
            self.bodies.append(content)
        return status, returned
