"""Damaged requests, as a public port receives them, are answered or cut, and do not fill the log."""

from __future__ import annotations

import io
import logging
import random
import selectors
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from tests.service.fakes import ADMIN, LONG_S, OPEN, TOKENS, FakeBackend
from tests.service.test_http_results import UPGRADE
from tests.support.waiting import wait_until
from vision_infer.service.http.app import make_app
from vision_infer.service.http.auth import Tokens
from vision_infer.service.http.server import WebServer
from vision_infer.service.operations.logs import configure

REQUESTS = 300
AT_ONCE = 30
SILENCE_S = 1.0
_HEAD = f"Host: 127.0.0.1\r\nAuthorization: Bearer {ADMIN}\r\n"
_SEEDS = (
    f"GET /api/v1/streams HTTP/1.1\r\n{_HEAD}Cookie: a=b\r\nOrigin: http://127.0.0.1\r\n\r\n".encode(),
    f"PUT /api/v1/streams/x HTTP/1.1\r\n{_HEAD}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    + b'10\r\n{"detect": "rtsp\r\n8\r\n://a/b"}\r\n0\r\n\r\n',
    f"GET /api/v1/results?streams=a&min_score=0.5 HTTP/1.1\r\n{_HEAD}{UPGRADE}\r\n".encode()
    + b"\x81\x85\1\2\3\4abcde\x88\x80abcd",
    f"POST /api/v1/infer HTTP/1.1\r\n{_HEAD}Content-Type: image/jpeg\r\nContent-Length: 5\r\n\r\n".encode() + b"\xff\xd8\xffab",
    b'POST /api/v1/session HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 14\r\n\r\n{"token": "ab"}',
)


def damaged(drawn: random.Random) -> bytes:
    """Generate one of the seeds with some bytes changed, removed, inserted or duplicated."""
    data = bytearray(drawn.choice(_SEEDS))
    for _ in range(drawn.randrange(6)):
        place = drawn.randrange(len(data))
        match drawn.randrange(4):
            case 0:
                data[place] = drawn.randrange(256)
            case 1:
                del data[place : place + drawn.randrange(1, 8)]
            case 2:
                data[place:place] = drawn.randbytes(drawn.randrange(1, 6))
            case _:
                begin = drawn.randrange(len(data))
                data[place:place] = data[begin : begin + drawn.randrange(1, 40)]
    return bytes(data)


def answers(clients: list[socket.socket]) -> Iterator[bytes]:
    """Yield the answers, or ends, of those connections that have one before all have been silent for a while."""
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_READ)
        while selector.get_map() and (ready := selector.select(SILENCE_S)):
            for key, _ in ready:
                selector.unregister(key.fileobj)
                assert isinstance(key.fileobj, socket.socket)
                try:
                    yield key.fileobj.recv(64)
                except ConnectionError:
                    yield b""


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Collect the errors that the service logs."""
    loggers = [logging.getLogger(name) for name in ("vision_infer", "uvicorn", "asyncio")]
    before = [(one.level, list(one.handlers)) for one in loggers]
    text = io.StringIO()
    configure("human", logging.ERROR, text)
    yield text
    for one, (level, handlers) in zip(loggers, before, strict=True):
        one.setLevel(level)
        one.handlers[:] = handlers


@pytest.mark.parametrize("tokens", [pytest.param(OPEN, marks=pytest.mark.slow, id="open"), pytest.param(TOKENS, id="guarded")])
def test_damaged_requests(tokens: Tokens, log: io.StringIO) -> None:
    drawn = random.Random(7)
    backend = FakeBackend(port=0, requests_per_second=1e6)
    with WebServer(backend.settings.service, backend.hub) as web:
        web.start(make_app(backend, tokens))
        answered = 0
        for _ in range(REQUESTS // AT_ONCE):
            with ExitStack() as stack:
                clients = [stack.enter_context(socket.create_connection(web.address, LONG_S)) for _ in range(AT_ONCE)]
                for client in clients:
                    client.sendall(damaged(drawn))
                for answer in answers(clients):
                    answered += 1
                    assert not answer or answer.startswith(b"HTTP/1.1 "), answer
                    assert not answer.startswith(b"HTTP/1.1 500"), answer
        assert answered > 0.8 * REQUESTS, "the others are incomplete: the service waits for more"
        assert httpx.get(f"{web.url}/healthz", timeout=LONG_S).status_code == 200
        wait_until(lambda: backend.hub.readers == 0)
    assert log.getvalue() == ""
