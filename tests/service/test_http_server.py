"""The HTTP server: addresses, TLS, connection limits, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from websockets.sync.client import connect

from tests.service.fakes import LONG_S, OPEN, FakeBackend, frame, result
from tests.support.waiting import wait_until
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import UsageError
from vision_infer.service.backend import Backend
from vision_infer.service.http.app import make_app, make_routes
from vision_infer.service.http.listener import Listener
from vision_infer.service.http.server import MAX_HEADER_BYTES, WebServer
from vision_infer.service.processes.merged_results import MergedHub
from vision_infer.service.processes.worker_client import WorkerClient, WorkerRequest
from vision_infer.service.results.row import ResultFilter
from vision_infer.service.worker import WorkerGate


def server(**service: Any) -> tuple[WebServer, FakeBackend]:
    backend = FakeBackend(**{"port": 0, **service})
    return WebServer(backend.settings.service, backend.hub), backend


def test_the_chosen_port_is_reported() -> None:
    web, backend = server()
    with web:
        web.start(make_app(backend, OPEN))
        assert web.url == f"http://127.0.0.1:{web.address[1]}"
        assert httpx.get(f"{web.url}/healthz", timeout=LONG_S).text == "ok\n"
    web.stop()  # a second time


def test_a_port_in_use_is_reported_in_one_line() -> None:
    web, _ = server()
    with web, pytest.raises(UsageError, match=r"cannot listen on 127\.0\.0\.1:\d+: the port is in use") as refused:
        server(port=web.address[1])
    assert "\n" not in str(refused.value)
    again, backend = server(port=web.address[1])  # the port is free again immediately
    with again:
        again.start(make_app(backend, OPEN))


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "a" * 300])
def test_a_foreign_address_is_rejected(host: str) -> None:
    with pytest.raises(UsageError, match="Set --host to an address of this machine"):
        server(host=host)


def test_early_clients_wait_for_the_start() -> None:
    web, backend = server()
    with web:
        client = socket.create_connection(web.address, LONG_S)
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        web.start(make_app(backend, OPEN))
        with client:
            assert client.recv(65_536).startswith(b"HTTP/1.1 200")


OPENSSL = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost "
    "-addext subjectAltName=IP:127.0.0.1"
)


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    chain, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [*OPENSSL.split(), "-keyout", str(key), "-out", str(chain)],
        check=True,
        capture_output=True,
        timeout=LONG_S,
    )
    return chain, key


def test_tls(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "own")
    web, backend = server(tls={"certificate": chain, "key": key})
    with web:
        web.start(make_app(backend, OPEN))
        assert web.url.startswith("https://")
        context = ssl.create_default_context(cafile=chain)
        assert httpx.get(f"{web.url}/api/v1/version", verify=context, timeout=LONG_S).status_code == 200
        url = f"{web.url.replace('https', 'wss')}/api/v1/results"
        with connect(url, ssl=context, open_timeout=LONG_S, proxy=None) as client:
            wait_until(lambda: backend.hub.readers == 1)
            backend.hub.write(frame(), result())
            assert '"stream": "door"' in str(client.recv(LONG_S))


def test_an_invalid_certificate_is_rejected(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "own")
    _, foreign = certificate(tmp_path, "foreign")
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", str(key), "-out", str(locked), "-passout", "pass:secret"],
        check=True,
        capture_output=True,
        timeout=LONG_S,
    )
    for one, other in ((chain, foreign), (key, chain), (chain, tmp_path / "missing"), (tmp_path, key), (chain, locked)):
        with pytest.raises(UsageError, match=r"service\.tls: .*Use a matching pair of PEM files"):
            server(tls={"certificate": one, "key": other})


def test_an_endless_header_is_rejected() -> None:
    web, backend = server()
    with web:
        web.start(make_app(backend, OPEN))
        with socket.create_connection(web.address, LONG_S) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * (2 * MAX_HEADER_BYTES))
            assert client.recv(65_536).startswith(b"HTTP/1.1 400")
        with socket.create_connection(web.address, LONG_S) as client:
            client.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            assert client.recv(65_536).startswith(b"HTTP/1.1 400")
        assert httpx.get(f"{web.url}/healthz", timeout=LONG_S).status_code == 200


def test_a_private_socket_takes_the_names_of_many_cameras(tmp_path: Path) -> None:
    """The streams of a role and of a reader are in the headers of requests to a worker."""
    backend = FakeBackend(max_streams=10_000)
    names = [f"a-camera-with-a-long-name-{number:04d}" for number in range(3000)]
    web = WebServer(backend.settings.service, backend.hub, tmp_path / "socket")
    app = make_routes(cast(Backend, backend), OPEN, SYSTEM_CLOCK)
    app.add_middleware(WorkerGate, security=app.state.context.security, token="t" * 32)

    client = WorkerClient(tmp_path / "socket", "t" * 32)

    async def read() -> list[str]:
        hub = MergedHub(1, {"a": lambda: client}, SYSTEM_CLOCK)
        with hub.subscribe(ResultFilter(streams=frozenset(names))) as reader:
            while not backend.hub.readers:
                await asyncio.sleep(0.01)
            for name in ("door", names[7]):
                backend.hub.write(frame(name), result(name))
            message = await reader.next(LONG_S)
        streams = await client.send(WorkerRequest("GET", "/api/v1/streams", client={"cameras": names}))
        await streams.aread()
        assert streams.json() == []  # the only stream is another one
        assert message is not None
        assert client._client is not None
        await client._client.aclose()
        return [json.loads(message.text)["stream"]]

    with web:
        web.start(app)
        assert asyncio.run(asyncio.wait_for(read(), LONG_S)) == [names[7]]


def until_it_is_cut(client: socket.socket) -> bytes:
    """Read until the service ends the connection."""
    received = b""
    while True:
        try:
            chunk = client.recv(65_536)
        except ConnectionResetError:
            return received
        if not chunk:
            return received
        received += chunk


def test_unfinished_requests_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.service.http.connection.HEAD_TIMEOUT_S", 0.3)
    monkeypatch.setattr("vision_infer.service.http.server.IDLE_S", 1)
    web, backend = server()
    entered = threading.Event()
    original = backend.streams

    def slow() -> Any:
        entered.set()
        with socket.create_connection(web.address, LONG_S) as other:  # longer than the time limit for headers
            assert until_it_is_cut(other) == b""
        return original()

    backend.streams = slow  # type: ignore[method-assign]
    with web:
        web.start(make_app(backend, OPEN))
        request = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        for begin in (b"", request, request + b"\r\n" + request):
            with socket.create_connection(web.address, LONG_S) as client:
                client.sendall(begin)
                assert until_it_is_cut(client).count(b"HTTP/1.1 200") == begin.count(b"\r\n\r\n")
        assert httpx.get(f"{web.url}/api/v1/streams", timeout=LONG_S).status_code == 200
        assert entered.is_set()


def test_connections_of_one_address_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.service.http.server._SPARE_CONNECTIONS", 8)
    web, backend = server(max_clients=2)
    with web, contextlib.ExitStack() as stack:
        web.start(make_app(backend, OPEN))
        held = [stack.enter_context(socket.create_connection(web.address, LONG_S)) for _ in range(6)]
        assert isinstance(web._socket, Listener)
        connections = web._socket._connections  # one that has no HTTP protocol yet is never closed for another one
        wait_until(lambda: sum(one.handler is not None for one in connections.values()) == 6)
        assert httpx.get(f"{web.url}/healthz", timeout=LONG_S).status_code == 200
        assert until_it_is_cut(held[0]) == b""  # the oldest one had no request
        for one in held[1:]:
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert until_it_is_cut(one).startswith(b"HTTP/1.1 200")


def test_running_requests_are_finished() -> None:
    web, backend = server()
    entered, leave = threading.Event(), threading.Event()
    original = backend.streams

    def slow() -> Any:
        entered.set()
        leave.wait(LONG_S)
        return original()

    backend.streams = slow  # type: ignore[method-assign]
    answers: list[int] = []
    with web:
        web.start(make_app(backend, OPEN))
        asking = threading.Thread(
            target=lambda: answers.append(httpx.get(f"{web.url}/api/v1/streams", timeout=LONG_S).status_code)
        )
        asking.start()
        assert entered.wait(LONG_S)
        stopping = threading.Thread(target=web.stop, args=(LONG_S,))
        stopping.start()
        leave.set()
        asking.join(LONG_S)
        stopping.join(LONG_S)
    assert answers == [200]
    assert not stopping.is_alive()


@pytest.mark.slow
def test_threads_and_files_are_released() -> None:
    def once() -> tuple[int, int]:
        before = set(threading.enumerate())
        web, backend = server()
        with web:
            web.start(make_app(backend, OPEN))
            assert httpx.get(f"{web.url}/metrics", timeout=LONG_S).status_code == 200
        wait_until(lambda: set(threading.enumerate()) <= before)
        gc.collect()
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0

    once()
    threads, files = once()
    for _ in range(3):
        again = once()
    assert again[0] <= threads
    assert again[1] <= files
