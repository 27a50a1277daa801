"""A web server for downloads with scripted replies."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

ETAG = '"first"'


@dataclass
class Asked:
    """A received request."""

    path: str
    range: str
    """The requested range; empty for the complete file."""
    if_range: str


@dataclass
class Reply:
    """The reply to one request; the defaults are those of a correct server."""

    status: int | None = None
    """The status; None: 206 for a part of the current version, otherwise 200."""
    etag: str = ETAG
    ranges: bool = True
    length: int | None = None
    """The announced length; None: the actual length, -1: none."""
    content_range: str | None = None
    first: int | None = None
    """The position at which the body begins, independently of the request."""
    send: int | None = None
    """The number of bytes sent before the connection is closed; None: all."""
    drip: bool = False
    """Whether the server sends all but the last byte, and then nothing until the test ends."""
    headers: dict[str, str] = field(default_factory=dict)
    data: bytes | None = None
    """The content; None: the server's file."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect."""


class BadServer:
    """A context manager that answers each request with the next reply, and correctly after the last one.

    Args:
        data: the file, under every path.
        replies: in the order in which they are used.
    """

    def __init__(self, data: bytes, *replies: Reply | Callable[[], Reply]) -> None:
        self.data = data
        self.asked: list[Asked] = []
        self.over = threading.Event()
        self._replies = list(replies)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                outer.asked.append(Asked(self.path, self.headers.get("Range", ""), self.headers.get("If-Range", "")))
                reply = outer._replies.pop(0) if outer._replies else Reply()
                outer._answer(self, reply() if callable(reply) else reply)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/network.onnx"

    def __enter__(self) -> BadServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        data = self.data if reply.data is None else reply.data
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        partial = bool(wanted) and reply.ranges and handler.headers.get("If-Range") == reply.etag and reply.status is None
        first = int(wanted[1]) if partial and wanted else 0
        first = first if reply.first is None else reply.first
        body = data[first:]
        handler.send_response(reply.status or (206 if partial else 200))
        if reply.etag:
            handler.send_header("ETag", reply.etag)
        if partial:
            said = f"bytes {first}-{len(data) - 1}/{len(data)}"
            handler.send_header("Content-Range", said if reply.content_range is None else reply.content_range)
        if reply.length != -1:
            handler.send_header("Content-Length", str(len(body) if reply.length is None else reply.length))
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.send_header("Connection", "close")
        handler.end_headers()
        end = len(body) - 1 if reply.drip else len(body) if reply.send is None else reply.send
        handler.wfile.write(body[:end])
        handler.wfile.flush()
        if reply.drip:
            self.over.wait(30)
        handler.close_connection = True
