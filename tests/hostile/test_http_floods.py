"""Many connections and slow clients: the service keeps answering others, within its memory and log."""

from __future__ import annotations

from contextlib import ExitStack

from tests.hostile.conftest import Serve, Spent, bounded


def test_a_healthy_client_is_served_while_another_is_idle(serve: Serve) -> None:
    target = serve()
    with ExitStack() as stack, bounded(target, Spent(memory_mb=50, log_bytes=2000)):
        for _ in range(50):
            stack.enter_context(target.connect("127.0.0.2"))
        assert b" 200 " in target.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "127.0.0.3")
