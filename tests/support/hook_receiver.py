"""A receiver of web hooks that answers as a test wants it to."""

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
        port: 0: any free one.
        tls: certificate and key.
    """

    def __init__(self, port: int = 0, tls: tuple[Path, Path] | None = None) -> None:
        self.answer: Callable[[Any], Answer] = lambda body: (204, {})
        """called with the body of each request; what it gives is answered"""
        self.hold = threading.Event()
        """while it is not set, nothing is answered"""
        self.hold.set()
        self.bodies: list[Any] = []
        """of requests that were answered with success, in order"""
        self.requests: list[tuple[str, Mapping[str, str], bytes]] = []
        """path, headers and body of all requests"""
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
                pass  # clients that go away

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
        """All rows that were taken, in order."""
        return [row for body in list(self.bodies) for row in body.get("rows", [body])]

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
