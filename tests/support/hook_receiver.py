"""A receiver of webhooks with configurable responses."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

Answer = tuple[int, Mapping[str, str]]


class Receiver:
    """Listens on a port until the context ends.

    Args:
        port: The port; 0 means any free port.
        tls: The certificate and the key.
    """

    def __init__(self, port: int = 0, tls: tuple[Path, Path] | None = None) -> None:
        self.answer: Callable[[Any], Answer] = lambda body: (204, {})
        """Returns the status and the headers of the response to a body."""
        self.hold = threading.Event()
        """Requests are answered only while this event is set."""
        self.hold.set()
        self.bodies: list[Any] = []
        """The bodies of the accepted requests, in order."""
        self.requests: list[tuple[str, Mapping[str, str], bytes]] = []
        """The path, headers and body of each request."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append((self.path, dict(self.headers), data))
                receiver.hold.wait(60)
                body = json.loads(data)
                status, headers = receiver.answer(body)
                if status < 300:
                    receiver.bodies.append(body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *args: object) -> None:
                pass  # clients that disconnect

        self._server = Server(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def rows(self) -> list[Any]:
        """The rows of the accepted requests, in order."""
        return [row for body in list(self.bodies) for row in body.get("rows", [body])]

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
