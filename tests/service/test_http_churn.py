"""Clients that connect and disconnect leave no resources behind."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import warnings
from operator import le
from pathlib import Path

from tests.service.fakes import LONG_S, OPEN, FakeBackend, frame, result
from tests.service.test_http_results import UPGRADE
from tests.support.waiting import wait_until
from vision_infer.service.http.app import make_app
from vision_infer.service.http.server import WebServer

VISITS = 40


POOL_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""The maximum number of threads of asyncio's pool, which starts one when all others are busy and keeps it."""


def counts(web: WebServer) -> tuple[int, int, int]:
    """Count threads, open files and tasks."""
    assert web._loop is not None
    gc.collect()
    files = Path("/proc/self/fd")
    return threading.active_count(), len(list(files.iterdir())) if files.is_dir() else 0, len(asyncio.all_tasks(web._loop))


def visit(web: WebServer, backend: FakeBackend, number: int) -> None:
    """Request results over WebSocket or server-sent events, read some or none, and disconnect abruptly."""
    with socket.create_connection(web.address, LONG_S) as client:
        upgrade = UPGRADE if number % 2 else ""
        client.sendall(f"GET /api/v1/results HTTP/1.1\r\nHost: 127.0.0.1\r\n{upgrade}\r\n".encode())
        if number % 3:
            assert client.recv(100)
        if number % 4 == 0:
            client.shutdown(socket.SHUT_WR)
        backend.hub.write(frame(index=number), result(index=number))
        if number % 5 == 0:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closed by a reset


def test_clients_that_connect_and_disconnect_leave_no_resources_behind() -> None:
    with warnings.catch_warnings():  # about garbage of other tests in this process
        warnings.simplefilter("ignore")
        gc.collect()
    backend = FakeBackend(port=0, requests_per_second=100_000)
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, OPEN))
        for number in range(10):
            visit(web, backend, number)
        wait_until(lambda: backend.hub.readers == 0)
        wait_until(lambda: counts(web)[2] <= 1)
        threads, files, tasks = counts(web)
        most = (threads + POOL_THREADS, files, tasks)
        for number in range(VISITS):
            visit(web, backend, number)
        wait_until(lambda: backend.hub.readers == 0)
        wait_until(lambda: all(map(le, counts(web), most)), lambda: f"{counts(web)}, {most} allowed")
