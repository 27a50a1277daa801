"""Hostile WebSocket clients."""

from __future__ import annotations

import pytest

from tests.hostile.conftest import Serve, Spent, bounded

UPGRADE = (
    b"GET /api/v1/results HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
FRAMES = {
    "text that is not UTF-8": b"\x81\x84\0\0\0\0\xff\xfe\xfd\xfc",
    "a frame without a mask": b"\x81\x04abcd",
    "a reserved opcode": b"\x83\x80\0\0\0\0",
    "a frame of 2^62 bytes": b"\x81\xff\x40\0\0\0\0\0\0\0\0\0\0\0",
    "a fragmented ping": b"\x09\x80\0\0\0\0",
    "a close frame of one byte": b"\x88\x81\0\0\0\0x",
}


@pytest.mark.parametrize("count", [5, pytest.param(300, marks=pytest.mark.slow)])
def test_invalid_frames_end_the_connection_and_write_little_log(serve: Serve, count: int) -> None:
    target = serve("model: clock\nservice: {requests_per_second: 10000}\n")
    before = target.descriptors
    with bounded(target, Spent(memory_mb=40, log_bytes=3000)):
        for frame in FRAMES.values():
            for _ in range(count):
                with target.connect() as client:
                    client.sendall(UPGRADE)
                    assert b" 101 " in client.recv(65_536)
                    client.sendall(frame)
                    assert client.recv(65_536)[:1] in (b"", b"\x88")  # closed, or a close frame
    target.wait(lambda: target.descriptors <= before, "the connections to be closed")
