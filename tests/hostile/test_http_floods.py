"""Many connections and slow clients: the service keeps answering others, within its memory, log and descriptors."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.hostile.conftest import Serve, Spent, Target, bounded
from tests.support.disks import small_disk

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
UNFINISHED = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
SLOW_LOGIN = b"POST /api/v1/session HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{"
LARGE_FILE = b"GET /page/vendor/swagger-ui-bundle.js HTTP/1.1\r\nHost: 127.0.0.1\r\n"
TOKEN = "a-token-for-tests-0123456789"


def hold(stack: ExitStack, target: Target, addresses: int, each: int, begin: bytes) -> list[socket.socket]:
    """Open connections from several addresses, and send the beginning of a request on each."""
    held = []
    for number in range(addresses * each):
        client = stack.enter_context(target.connect(f"127.0.1.{1 + number % addresses}"))
        if begin:
            try:
                client.sendall(begin)
            except OSError:
                continue  # closed already
        held.append(client)
    return held


def answers(target: Target, path: str = "/healthz", source: str = "127.0.0.3") -> bool:
    """Return whether a client with the token gets a response within eight seconds."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    return target.raw(request.encode(), source, 8.0).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(b"", id="idle"),
        pytest.param(UNFINISHED, marks=pytest.mark.slow, id="half a head"),
        pytest.param(SLOW_LOGIN, id="half a body"),
    ],
)
@pytest.mark.parametrize("each", [200, pytest.param(1500, marks=pytest.mark.slow)])
def test_unfinished_requests_of_two_addresses_stop_no_other(serve: Serve, begin: bytes, each: int) -> None:
    target = serve(token=TOKEN)
    with ExitStack() as stack, bounded(target, Spent(memory_mb=50, log_bytes=2000)):
        hold(stack, target, 2, each, begin)
        for path in ("/healthz", "/api/v1/streams"):
            assert answers(target, path)
        assert target.descriptors < 400


@pytest.mark.parametrize("each", [60, pytest.param(190, marks=pytest.mark.slow)])
def test_clients_without_a_token_that_do_not_read_a_large_file(serve: Serve, each: int) -> None:
    target = serve(token=TOKEN)
    assert target.raw(LARGE_FILE + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200")
    with ExitStack() as stack, bounded(target, Spent(memory_mb=10 + each * 2 * 0.2, log_bytes=2000)):
        for number in range(2 * each):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.bind((f"127.0.1.{1 + number % 2}", 0))
            client.connect(("127.0.0.1", target.port))
            client.sendall(LARGE_FILE + b"\r\n")
        assert answers(target)  # the event loop has handled the requests before this one
        assert answers(target, "/api/v1/streams")


def test_a_client_in_the_attacking_network_is_served_too(serve: Serve) -> None:
    target = serve()
    with ExitStack() as stack:
        hold(stack, target, 1, 250, UNFINISHED)
        assert target.raw(HEALTH, "127.0.1.1", 5.0).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("count", [350, pytest.param(1100, marks=pytest.mark.slow)])
def test_tls_connections_that_send_nothing(serve: Serve, tmp_path: Path, count: int) -> None:
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost "
        f"-keyout {tmp_path}/key.pem -out {tmp_path}/cert.pem".split(),
        check=True,
        capture_output=True,
    )
    text = f"model: clock\nservice: {{tls: {{certificate: {tmp_path}/cert.pem, key: {tmp_path}/key.pem}}}}\n"
    target = serve(text, under=("prlimit", "--nofile=1024"))
    target.ask("GET", "/healthz")
    with ExitStack() as stack, bounded(target, Spent(memory_mb=90, log_bytes=2000)):
        held = hold(stack, target, 1, count, b"")
        assert target.ask("GET", "/healthz")[0] == 200  # during the attack
        assert target.descriptors < 400
        if count > 1000:  # the time limit for handshakes
            began = time.monotonic()
            held[100].settimeout(30)
            assert held[100].recv(1) == b""
            assert time.monotonic() - began < 20


@pytest.mark.parametrize("count", [150, pytest.param(600, marks=pytest.mark.slow)])
def test_too_few_descriptors(serve: Serve, count: int) -> None:
    target = serve(under=("prlimit", "--nofile=64"))
    began_s = target.cpu_s
    with ExitStack() as stack, bounded(target, Spent(memory_mb=30, log_bytes=5000)):
        hold(stack, target, 6, count // 6, UNFINISHED)
        assert answers(target)
    assert target.cpu_s - began_s < 5


def test_a_client_sees_the_response_to_a_body_that_is_too_large(serve: Serve) -> None:
    target = serve()
    head = b"POST /api/v1/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    for _ in range(3):
        with target.connect() as client, bounded(target, Spent(memory_mb=40, log_bytes=1000)):
            client.sendall(head % 40_000_000)
            for _ in range(40):
                client.sendall(bytes(1_000_000))
            assert client.recv(65_536).startswith(b"HTTP/1.1 413")


def test_a_request_with_two_lengths_ends_the_connection(serve: Serve) -> None:
    target = serve()
    head = b"POST /api/v1/session HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    received = target.raw(head + b"0\r\n\r\n" + HEALTH)
    assert received.startswith(b"HTTP/1.1 400")
    assert received.count(b"HTTP/1.1") == 1


def test_a_full_disk_is_the_reason(serve: Serve) -> None:
    with small_disk(256 << 10) as disk:
        target = serve(f"model: clock\nstate_dir: {disk}\n")
        with contextlib.suppress(OSError), (disk / "full").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        status, text = target.ask("PUT", "/api/v1/streams/door", {"detect": "test://", "enabled": False})
        assert (status, "No space left on device" in text) == (507, True)
        target.kill()
