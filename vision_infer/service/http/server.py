"""The HTTP server: uvicorn on its own thread, with limits for clients."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
import ssl
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import uvicorn
from starlette.types import ASGIApp

from vision_infer.config.serve import ServiceSettings
from vision_infer.config.service.tls import TlsSettings
from vision_infer.core.errors import UsageError, VisionInferError
from vision_infer.service.http.connection import protocol_for
from vision_infer.service.http.listener import ConnectionLimits, Listener, connection_limits

SEND_BUFFER_BYTES = 128 * 1024
"""The kernel's send buffer for one client. A larger buffer would only make a slow client's results older."""
STUCK_MS = 30_000
"""The time after which the kernel closes a connection that does not acknowledge data, in milliseconds."""
MAX_HEADER_BYTES = 16 * 1024
PRIVATE_HEADER_BYTES = 1024 * 1024
"""The maximum size of headers on a Unix socket: they contain the names of all streams of a role."""
MAX_MESSAGE_BYTES = 4096
"""The maximum size of a message that a WebSocket client sends."""
IDLE_S = 30
START_S = 30.0
T = TypeVar("T")
_BACKLOG = 128
_SPARE_CONNECTIONS = 256


class Hub(Protocol):
    """What distributes results to clients."""

    @property
    def readers(self) -> int:
        """The number of connected clients."""

    def close(self, complete: bool) -> None:
        """Announce the end to all clients."""


class WebServer:
    """Serves an application until it is stopped. The constructor binds the socket: early clients wait until the start.

    Args:
        settings: The settings of the server.
        hub: Closed when the server stops, so that clients that read results disconnect.
        path: A Unix socket to listen on instead of the configured address, for one trusted client.

    Raises:
        UsageError: The address is not available, or the certificate is invalid.
    """

    def __init__(self, settings: ServiceSettings, hub: Hub, path: Path | None = None) -> None:
        self._settings = settings
        self._hub = hub
        if settings.tls is not None:
            _check_certificate(settings.tls)
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        limits = connection_limits(settings.max_clients + _SPARE_CONNECTIONS, _SPARE_CONNECTIONS, descriptors)
        self._socket = _bind(settings.host, settings.port, limits) if path is None else _bind_path(path)
        self._server: uvicorn.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        """The host and port; the actual port if port 0 was configured."""

    @property
    def url(self) -> str:
        """The URL of the service on this machine."""
        host, port = self.address
        if self.everywhere:
            host = "::1" if ":" in host else "127.0.0.1"
        return f"{'http' if self._settings.tls is None else 'https'}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def everywhere(self) -> bool:
        """Whether it listens on all addresses of this machine."""
        return self.address[0] in ("0.0.0.0", "::")

    def start(self, app: ASGIApp) -> None:
        """Start to serve requests; returns when the server is ready.

        Raises:
            VisionInferError: The server could not start.
        """
        tls = self._settings.tls
        config = uvicorn.Config(
            app,
            http=protocol_for(self._socket) if isinstance(self._socket, Listener) else "h11",
            ws="auto",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_ping_interval=20.0,
            ws_ping_timeout=20.0,
            ws_per_message_deflate=False,  # a row is encoded once for all clients, but would be compressed for each
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=10,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES if isinstance(self._socket, Listener) else PRIVATE_HEADER_BYTES,
            backlog=_BACKLOG,
            ssl_certfile=None if tls is None else str(tls.certificate),
            ssl_keyfile=None if tls is None else str(tls.key),
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise VisionInferError("the web server did not start", str(self._error or ""))
            time.sleep(0.002)

    def run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Run a coroutine on the event loop of the started server, and return its result."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout_s)

    def _run(self) -> None:
        async def serve(server: uvicorn.Server) -> None:
            self._loop = asyncio.get_running_loop()
            await server.serve([self._socket])

        assert self._server is not None
        try:
            asyncio.run(serve(self._server))
        except BaseException as error:  # noqa: BLE001 - uvicorn ends the process by SystemExit; this is a thread
            self._error = error

    def stop(self, grace_s: float = 3.0) -> None:
        """Accept no further requests, disconnect all clients, and stop. A second call does nothing.

        Args:
            grace_s: The time limit for running requests in seconds; connections that are still open are then aborted.
        """
        self._hub.close(True)
        server, thread, loop = self._server, self._thread, self._loop
        if server is not None and thread is not None and loop is not None:
            deadline = time.monotonic() + grace_s
            farewell = time.monotonic() + min(1.0, grace_s)
            while self._hub.readers and time.monotonic() < farewell:
                time.sleep(0.01)
            server.should_exit = True
            thread.join(max(0.1, deadline - time.monotonic()))
            if thread.is_alive():
                with suppress(RuntimeError):  # the loop has just ended
                    loop.call_soon_threadsafe(_cut, server)
                thread.join(15.0)
        self._socket.close()

    def __enter__(self) -> WebServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _cut(server: uvicorn.Server) -> None:
    for connection in list(server.server_state.connections):
        transport = getattr(connection, "transport", None)
        if transport is not None:
            transport.abort()


def _bind(host: str, port: int, limits: ConnectionLimits) -> Listener:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"cannot listen on {where}: unknown host", "Set --host to an address of this machine.") from error
    bound = Listener(family, limits.total, limits.per_client)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)  # connections inherit it
        # asyncio does it only for sockets that name their protocol, which this one and its connections do not.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        user_timeout = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux
        if user_timeout is not None:
            bound.setsockopt(socket.IPPROTO_TCP, user_timeout, STUCK_MS)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise _refused(where, error) from error
    return bound


def _bind_path(path: Path) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)  # left by a process that was killed
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        bound.bind(str(path))
        path.chmod(0o600)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        hint = "Set TMPDIR to a folder with a short name."
        raise UsageError(f"cannot listen on {path}: {error.strerror or error}", hint) from error
    return bound


def _refused(where: str, error: OSError) -> UsageError:
    if error.errno == errno.EADDRINUSE:
        return UsageError(f"cannot listen on {where}: the port is in use", "Choose another --port, or 0 for any free port.")
    if error.errno == errno.EADDRNOTAVAIL:
        return UsageError(
            f"cannot listen on {where}: not an address of this machine", "Set --host to an address of this machine."
        )
    if error.errno == errno.EACCES:
        return UsageError(f"cannot listen on {where}: permission denied", "Choose a --port above 1023.")
    return UsageError(f"cannot listen on {where}: {error.strerror or error}", "Choose another --host or --port.")


def _check_certificate(tls: TlsSettings) -> None:
    try:
        # Never ask for a password on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key, password=lambda: "")
    except (OSError, ValueError) as error:
        unread = isinstance(error, OSError) and not isinstance(error, ssl.SSLError)
        reason = str(getattr(error, "strerror", "")) if unread else "not a certificate with its private key"
        hint = "Use a matching pair of PEM files; the key must not have a password."
        raise UsageError(f"service.tls: {tls.certificate}, {tls.key}: {reason}", hint) from error
