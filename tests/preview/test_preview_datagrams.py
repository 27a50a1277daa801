"""Sending the packets of a frame to a viewer over real sockets."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_infer.preview.transport import datagrams as datagrams_module
from vision_infer.preview.transport.datagrams import BURST, Datagrams, bursts

SENT = [bytes([number]) * 1200 for number in range(12)] + [b"short"]


class Unable(socket.socket):
    """A socket of a system or an interface without segmentation."""

    code = errno.EIO
    asked = 0

    def sendmsg(self, *given: Any) -> int:
        """Reject the burst."""
        self.asked += 1
        raise OSError(self.code, "no")


@asynccontextmanager
async def way(room: int = 1 << 20) -> AsyncIterator[tuple[Datagrams, socket.socket]]:
    """Return the sending and the receiving end of a connection."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as came:
        came.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        came.bind(("127.0.0.1", 0))
        came.settimeout(10)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
        datagrams = Datagrams(transport, came.getsockname())
        try:
            yield datagrams, came
        finally:
            datagrams.close()
            transport.close()


def received(came: socket.socket, count: int) -> list[bytes]:
    return [came.recv(2000) for _ in range(count)]


def test_a_burst_arrives_as_separate_packets() -> None:
    async def run() -> None:
        async with way() as (datagrams, came):
            assert (datagrams._socket is not None) == (sys.platform == "linux")
            datagrams.send(SENT)
            assert received(came, len(SENT)) == SENT
            datagrams.send(SENT[:1])
            assert received(came, 1) == SENT[:1]

    asyncio.run(run())


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL, errno.EAGAIN, errno.ENETUNREACH])
def test_packets_are_sent_individually_if_the_system_rejects_a_burst(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    async def run() -> None:
        async with way() as (datagrams, came):
            own = Unable(socket.AF_INET, socket.SOCK_DGRAM)
            own.code = code
            datagrams.close()
            monkeypatch.setattr(datagrams, "_socket", own)
            datagrams.send(SENT)
            datagrams.send(SENT)
            assert received(came, 2 * len(SENT)) == 2 * SENT
            lasting = code in (errno.EIO, errno.EINVAL)
            assert (own.asked, (datagrams._socket is not None)) == ((1, False) if lasting else (2, True))

    asyncio.run(run())


def test_a_system_without_segmentation_never_receives_several_packets_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older Linux ignores the option and would send a burst as one datagram."""
    monkeypatch.setattr(datagrams_module, "UDP_SEGMENT", 9999)

    async def run() -> None:
        async with way() as (datagrams, came):
            assert datagrams._socket is None
            datagrams.send(SENT)
            assert received(came, len(SENT)) == SENT

    asyncio.run(run())


def test_after_close_packets_are_sent_individually_and_the_transport_stays_open() -> None:
    async def run() -> None:
        async with way() as (datagrams, came):
            datagrams.close()
            datagrams.close()
            assert datagrams._socket is None
            datagrams.send(SENT)
            assert received(came, len(SENT)) == SENT

    asyncio.run(run())


def test_a_relayed_connection_has_no_socket_and_gets_each_packet() -> None:
    class Relayed:
        def __init__(self) -> None:
            self.sent: list[tuple[bytes, tuple[str, int]]] = []

        def sendto(self, packet: bytes, address: tuple[str, int]) -> None:
            self.sent.append((packet, address))

    relayed = Relayed()
    datagrams = Datagrams(relayed, ("192.0.2.1", 9))
    datagrams.send(SENT)
    assert [packet for packet, _ in relayed.sent] == SENT
    assert (datagrams.waiting, (datagrams._socket is not None)) == (0, False)


def test_packets_that_wait_in_the_transport_are_not_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with way() as (datagrams, _):
            sent: list[bytes] = []
            monkeypatch.setattr(datagrams, "_queued", lambda: 1)
            monkeypatch.setattr(datagrams, "transport", type("Full", (), {"sendto": lambda _, packet, __: sent.append(packet)})())
            datagrams.send(SENT)
            assert sent == SENT
            assert datagrams._socket is not None

    asyncio.run(run())


@given(st.lists(st.sampled_from([20, 700, 1299, 1300]), max_size=120))
def test_bursts_keep_the_order_and_have_equal_lengths_except_for_the_last_payload(lengths: list[int]) -> None:
    payloads = [bytes([number % 256]) * length for number, length in enumerate(lengths)]
    found = bursts(payloads)
    assert [payload for burst in found for payload in burst] == payloads
    for burst in found:
        assert 0 < len(burst) <= BURST
        assert len({len(payload) for payload in burst[:-1]} | {len(burst[0])}) == 1
        assert len(burst[-1]) <= len(burst[0])
