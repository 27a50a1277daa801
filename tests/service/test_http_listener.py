"""The limits of connections before a request."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from vision_infer.service.http.listener import ConnectionLimits, Listener, Progress, connection_limits, raise_descriptor_limit


@pytest.mark.parametrize(
    ("descriptors", "limits"),
    [
        (65_536, ConnectionLimits(320, 192)),
        (1024, ConnectionLimits(320, 192)),
        (256, ConnectionLimits(128, 76)),
        (5, ConnectionLimits(4, 2)),
    ],
)
def test_connections_take_at_most_half_of_the_descriptors(
    descriptors: int, limits: ConnectionLimits, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert connection_limits(320, 256, descriptors) == limits
    assert len(caplog.records) == (limits.total < 320)


@pytest.mark.parametrize(
    ("soft", "hard", "after"),
    [(1024, 4096, 4096), (1024, resource.RLIM_INFINITY, 65_536), (1024, 1024, None), (100_000, 200_000, None)],
)
def test_the_soft_limit_of_descriptors_is_raised(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, after: int | None
) -> None:
    changes: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: changes.append(limits))
    raise_descriptor_limit()
    assert changes == ([] if after is None else [(after, hard)])


def test_a_connection_that_is_not_busy_gives_its_slot_to_a_new_one() -> None:
    async def work(stack: ExitStack) -> None:
        listener = stack.enter_context(Listener(socket.AF_INET, 3, 3))
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(5)
        aborted: list[str] = []

        def connect(name: str, source: str, progress: Progress) -> None:
            stack.enter_context(socket.create_connection(listener.getsockname(), 5, (source, 0)))
            try:
                accepted, peer = listener.accept()
            except BlockingIOError:  # the pause after a closed connection
                accepted, peer = listener.accept()
            stack.enter_context(accepted)
            listener.attach(peer, SimpleNamespace(progress=progress, abort=lambda: aborted.append(name)))

        connect("busy", "127.0.0.2", Progress.BUSY)
        connect("idle", "127.0.0.3", Progress.IDLE)
        connect("unfinished", "127.0.0.4", Progress.UNFINISHED)
        connect("busy 2", "127.0.0.4", Progress.BUSY)
        assert aborted == ["unfinished"]
        connect("busy 3", "127.0.0.5", Progress.BUSY)
        assert aborted == ["unfinished", "idle"]
        stack.enter_context(socket.create_connection(listener.getsockname(), 5))
        listener.setblocking(False)
        for _ in range(2):
            with pytest.raises(BlockingIOError):
                listener.accept()  # all are busy: the client is refused
        assert aborted == ["unfinished", "idle"]

    with ExitStack() as stack:
        asyncio.run(work(stack))


def test_the_client_with_the_most_connections_loses_the_oldest() -> None:
    async def work(stack: ExitStack) -> None:
        listener = stack.enter_context(Listener(socket.AF_INET, 4, 4))
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(5)
        sources = ("127.0.0.2", "127.0.0.3", "127.0.0.3", "127.0.0.3", "127.0.0.4")
        clients = [stack.enter_context(socket.create_connection(listener.getsockname(), 5, (one, 0))) for one in sources]
        for _ in clients:
            stack.enter_context(listener.accept()[0])
        # None of them has completed a handshake, so that this client cannot close its own to open another.
        listener.setblocking(False)
        clients.append(stack.enter_context(socket.create_connection(listener.getsockname(), 5, ("127.0.0.3", 0))))
        for _ in range(2):
            with pytest.raises(BlockingIOError):
                listener.accept()
        for closed in (1, 5):
            clients[closed].settimeout(5)
            assert clients[closed].recv(1) == b""
        for kept in (0, 2, 3, 4):
            clients[kept].setblocking(False)
            with pytest.raises(BlockingIOError):
                clients[kept].recv(1)

    with ExitStack() as stack:
        asyncio.run(work(stack))
