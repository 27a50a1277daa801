"""A worker process of a service: ``python -m vision_infer.service.worker``.

It receives its settings on standard input, serves its part of the API on a Unix socket, and reports on standard output whether it
is ready. It ends with SIGTERM, at the end of standard input, and when its parent process ends.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from types import FrameType
from typing import IO, Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope

from vision_infer.config.serve import StreamSettings
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.engine.device import available_cpus
from vision_infer.preview.transport.port_front import PortLink
from vision_infer.service.http.access.identify import SecurityContext
from vision_infer.service.http.access.principal import from_plain
from vision_infer.service.http.app import make_routes
from vision_infer.service.http.auth import Tokens
from vision_infer.service.http.listener import raise_descriptor_limit
from vision_infer.service.http.problem import Problem
from vision_infer.service.http.security import SecurityMiddleware
from vision_infer.service.http.server import START_S, WebServer
from vision_infer.service.operations.heap import Heap, share_heaps, system_function
from vision_infer.service.operations.logs import configure
from vision_infer.service.processes.worker_settings import (
    CLIENT_HEADER,
    TOKEN_HEADER,
    GivenStream,
    WorkerStart,
    front_socket,
    settings_from_plain,
    streams_from_plain,
)
from vision_infer.service.service import Service
from vision_infer.service.serving import LOOK_S, drain, open_service, open_telemetry
from vision_infer.service.streams.stream_files import StreamFiles

REPORT_S = 5.0
"""The longest time between two reports to the service in front, seconds."""

_log = logging.getLogger("vision_infer.service")

Orders = SimpleQueue[dict[str, Any] | None]
"""Changed settings and streams that wait until they are applied; None at the end."""


@dataclass(slots=True)
class Lease:
    """The permission to run streams, which the node of a cluster extends several times a second.

    A process that was suspended, or whose node was, thus stops streams that may run elsewhere by now.
    """

    until_ns: int | None = None
    """Its end, monotonic nanoseconds, a clock that the processes of a machine share; None: it does not end."""

    def has_ended(self, now_ns: int) -> bool:
        """Return whether streams must not run."""
        return self.until_ns is not None and now_ns > self.until_ns


class WorkerGate(SecurityMiddleware):
    """Accepts requests with the token of the worker only; the service in front has checked everything else."""

    def __init__(self, app: ASGIApp, security: SecurityContext, token: str) -> None:
        super().__init__(app, security)
        self._token = token.encode()

    async def _admit(self, scope: Scope, receive: Receive) -> Receive:
        headers = Headers(scope=scope)
        if not hmac.compare_digest(headers.get(TOKEN_HEADER, "").encode(), self._token):
            raise Problem("unauthorized", "this is a worker process; send requests to the service")
        client = json.loads(headers.get(CLIENT_HEADER, "{}"))
        scope["client"] = (client.get("address", ""), 0)
        scope.setdefault("state", {}).update(principal=from_plain(client))
        return receive


class _OwnStreams:
    """Stores changes of streams; the service in front has read the stored ones, and given this worker its own."""

    def __init__(self, start: WorkerStart) -> None:
        self._files = None if start.state_dir is None else StreamFiles(start.state_dir, start.settings.service)
        self._given = {name: stream.settings for name, stream in start.streams.items() if stream.origin == "api"}

    def read(self) -> dict[str, StreamSettings]:
        """Return the streams of this worker."""
        return self._given

    def write(self, name: str, settings: StreamSettings) -> None:
        """Store a stream; see :meth:`StreamFiles.write`."""
        if self._files is not None:
            self._files.write(name, settings)

    def remove(self, name: str) -> None:
        """Remove a stored stream; see :meth:`StreamFiles.remove`."""
        if self._files is not None:
            self._files.remove(name)


def run_worker(start: WorkerStart, orders: IO[bytes], reports: IO[bytes], stopping: threading.Event, clock: Clock) -> None:
    """Run a worker until it is stopped.

    Args:
        start: The settings of the worker.
        orders: Lines with changed settings, or with the end of the lease; the end of the lines stops the worker.
        reports: Receives a line with ``ready`` and ``reason`` when they change and every few seconds, the first when the API can
            be reached.
        stopping: Set this event to stop.
        clock: The source of time.

    Raises:
        VisionInferError: The worker cannot start, or a fatal error occurred.
    """
    settings = start.settings
    assert settings.state_dir is not None
    telemetry = open_telemetry(settings, clock, start.worker, start.kind)
    service = open_service(settings, _OwnStreams(start), settings.state_dir, clock, start.worker, telemetry)
    try:
        listening = WebServer(settings.service, service.hub, start.socket)
    except VisionInferError:
        service.close()
        raise
    with listening as web:
        try:
            service.stamp(start.stamps)
            service.start()
            _adopt(service, {name: stream for name, stream in start.streams.items() if stream.origin == "command_line"})
            app = make_routes(service, Tokens({}), clock, telemetry=telemetry)
            app.add_middleware(WorkerGate, security=app.state.context.security, token=start.token)
            web.start(app)
            if settings.preview.enabled and settings.preview.port:
                link = PortLink(front_socket(start.socket.parent))
                web.run(service.preview.open(link.sockets, link), START_S)
            lease, waiting = Lease(), Orders()
            threading.Thread(target=_read, args=(orders, lease, waiting), name="lease", daemon=True).start()
            threading.Thread(target=_obey, args=(service, waiting, stopping), name="orders", daemon=True).start()
            _report(service, reports, lease, stopping, clock)
        finally:
            drain(service)
    if service.error is not None:
        raise service.error


def _read(lines: IO[bytes], lease: Lease, orders: Orders) -> None:
    """Read on a separate thread: an order that takes long must not delay the lease."""
    try:
        for line in lines:
            data = json.loads(line)
            if "lease_until_ns" in data:
                lease.until_ns = data["lease_until_ns"]
            else:
                orders.put(data)
    finally:
        orders.put(None)


def _obey(service: Service, orders: Orders, stopping: threading.Event) -> None:
    try:
        while (data := orders.get()) is not None:
            service.stamp(data.get("stamps", {}))
            service.reload(settings_from_plain(data["settings"]))
            for name in data.get("removed", ()):  # they run in another worker from now on
                service.give_up(name)
            _adopt(service, streams_from_plain(data["streams"]))
    finally:  # also after an error, for example of a spool: the worker starts again with the new settings
        stopping.set()


def _adopt(service: Service, streams: Mapping[str, GivenStream]) -> None:
    for name, stream in streams.items():
        service.adopt(name, stream.settings, stream.origin)


def _report(service: Service, reports: IO[bytes], lease: Lease, stopping: threading.Event, clock: Clock) -> None:
    heap = Heap(system_function("malloc_trim"), clock)
    reported: tuple[bool, str] | None = None
    next_ns = 0
    while True:
        now = service.ready()
        if now != reported or clock.monotonic_ns() >= next_ns:
            reported = now
            next_ns = clock.monotonic_ns() + int(REPORT_S * 1e9)
            reports.write(json.dumps({"ready": now[0], "reason": now[1]}).encode() + b"\n")
            reports.flush()
        heap.trim_if_due()
        _keep(service, lease, clock)
        if stopping.wait(LOOK_S) or service.error is not None:
            return


def _keep(service: Service, lease: Lease, clock: Clock) -> None:
    """Stop all streams if the lease has ended; new orders start them again."""
    if lease.has_ended(clock.monotonic_ns()):
        for stream in service.streams():
            _log.warning("%s: stopped, because this process or its node was suspended", stream.name)
            service.give_up(stream.name)


def main() -> int:
    """Run the worker that standard input describes; return the exit status."""
    stopping = threading.Event()
    signaled = False

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal signaled
        if signaled:  # the end of the orders, which can come before the first signal, does not count
            os._exit(128 + number)
        signaled = True
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    reports = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print goes to the log
    orders = sys.stdin.buffer
    start = WorkerStart.from_json(orders.readline())
    share_heaps(available_cpus(), system_function("mallopt"))
    configure(start.settings.service.log_format)
    raise_descriptor_limit()
    try:
        run_worker(start, orders, reports, stopping, SYSTEM_CLOCK)
    except VisionInferError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    status = 1
    try:
        status = main()
    except Exception:  # noqa: BLE001 - the service writes it to its log
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(status)  # shutting down the thread pools of the runtimes only takes time
