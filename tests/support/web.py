"""A small web server for tests with configurable misbehavior."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect."""


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[str]:
    """Serve files at ``http://127.0.0.1:PORT/HOW/NAME``; yield the address up to the port.

    HOW is ``ranges``: supports ranges; ``plain``: does not; ``stall``: sends two thirds, then nothing; ``silent``: accepts the
    connection and never responds; ``break``: announces everything, sends two thirds and closes; ``gone``: 404; ``forbidden``:
    403; ``locked``: 401; ``failing``: 500; ``elsewhere``: redirects to a file of the client's machine; ``moved``: redirects to
    ``ranges``.
    """
    stopping = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            how, _, name = urlsplit(self.path).path.strip("/").partition("/")
            refused = {"gone": 404, "forbidden": 403, "locked": 401, "failing": 500}
            if how in refused:
                self.send_error(refused[how])
            elif how == "silent":
                stopping.wait(30)
            elif how in ("elsewhere", "moved"):
                self.send_response(302)
                self.send_header("Location", f"file:///{name}" if how == "elsewhere" else f"/ranges/{name}")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self._send(how, files[name])

        def _send(self, how: str, data: bytes) -> None:
            begin, end = 0, len(data)
            wanted = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if how == "ranges" and wanted:
                begin = int(wanted[1])
                end = int(wanted[2]) + 1 if wanted[2] else end
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
            else:
                self.send_response(200)
            self.send_header("Accept-Ranges", "bytes" if how == "ranges" else "none")
            self.send_header("Content-Length", str(end - begin))
            if how != "ranges":
                self.send_header("Connection", "close")
            self.end_headers()
            if how in ("stall", "break"):
                end = begin + (end - begin) * 2 // 3
            self.wfile.write(data[begin:end])
            self.wfile.flush()
            if how == "stall":
                stopping.wait(30)
            if how in ("stall", "break"):
                self.close_connection = True

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
