"""A server on the loopback interface that receives POST requests, for receivers of webhooks and of OTLP."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from types import TracebackType
from typing import Self

Answer = tuple[int, Mapping[str, str]]


class PostServer(ABC):
    """Listens on a port until the context ends.

    Args:
        port: The port; 0 means any free port.
        tls: The context of a server with TLS.
    """

    def __init__(self, port: int = 0, tls: SSLContext | None = None) -> None:
        self.hold = threading.Event()
        """Requests are answered only while this event is set; :meth:`_receive` waits for it."""
        self.hold.set()
        receive = self._receive

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers = receive(self.path, dict(self.headers), body)
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
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @abstractmethod
    def _receive(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Return the status and the headers of the response to a request."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
