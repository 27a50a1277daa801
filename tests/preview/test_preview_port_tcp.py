"""The shared port over TCP (RFC 6544, RFC 4571): framing, limits and deadlines."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress

import pytest

from tests.preview.shared_port import (
    DTLS,
    LIMIT_S,
    RTP,
    Udp,
    connected,
    ended,
    packet,
    shared,
    until,
    viewer,
)
from tests.support.ice_peer import IcePeer, framed
from vision_infer.preview.transport import tcp as tcp_module


def test_a_viewer_connects_over_tcp_even_byte_by_byte() -> None:
    async def run() -> None:
        async with shared() as port:
            agent, peer = await viewer(port)
            reader, writer = await connected(port)
            for byte in framed(peer.check()):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)
            answer = peer.verified(await packet(reader))
            assert answer.attributes["XOR-MAPPED-ADDRESS"] == writer.get_extra_info("sockname")
            writer.write(framed(DTLS, RTP, b"\xff ignored", b"", RTP))
            assert [await agent.recv() for _ in range(3)] == [DTLS, RTP, RTP]
            assert agent.route is not None
            assert agent.route.protocol == "tcp"
            agent.route.send([b"\x80" * 1000] * 3 + [RTP])
            assert [len(await packet(reader)) for _ in range(4)] == [1000, 1000, 1000, len(RTP)]
            assert port._tcp._unknown == {}
            await agent.close()
            await ended(reader)
            writer.close()

    asyncio.run(run())


def test_a_viewer_changes_from_tcp_to_udp_and_back_when_it_nominates() -> None:
    async def run() -> None:
        async with shared() as port:
            agent, peer = await viewer(port)
            reader, writer = await connected(port)
            writer.write(framed(peer.check()))
            peer.verified(await packet(reader))
            with closing(Udp(port)) as end:
                end.send(peer.check())
                peer.verified(await end.read())
                end.send(peer.answer(await end.read()))
                await until(lambda: agent.route is not None and agent.route.protocol == "udp")
                writer.write(framed(peer.check()))
                peer.verified(await packet(reader))
                writer.write(framed(peer.answer(await packet(reader))))
                await until(lambda: agent.route is not None and agent.route.protocol == "tcp")
                writer.transport.abort()
                await until(lambda: agent.route is not None and agent.route.protocol == "udp")
                await agent.send(RTP)
                assert await end.read() == RTP

    asyncio.run(run())


@pytest.mark.parametrize(
    "first",
    [
        lambda _: framed(DTLS),
        lambda _: framed(b""),
        lambda _: framed(bytes(2049)),
        lambda _: b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        lambda peer: framed(peer.check(password="wrong")),
        lambda peer: framed(peer.check()[:-4]),
    ],
    ids=["dtls", "empty", "oversized", "http", "unsigned", "cut"],
)
def test_a_connection_must_start_with_a_valid_check(first: Callable[[IcePeer], bytes]) -> None:
    async def run() -> None:
        async with shared() as port:
            agent, peer = await viewer(port)
            reader, writer = await connected(port)
            writer.write(first(peer))
            await ended(reader)
            assert (agent.route, port._tcp._unknown) == (None, {})
            writer.close()

    asyncio.run(run())


def test_a_packet_that_is_too_large_ends_a_viewers_connection() -> None:
    async def run() -> None:
        async with shared() as port:
            agent, peer = await viewer(port)
            reader, writer = await connected(port)
            writer.write(framed(peer.check()))
            peer.verified(await packet(reader))
            writer.write(framed(DTLS) + b"\xff\xff" + bytes(5000))
            assert await agent.recv() == DTLS
            await ended(reader)
            await until(lambda: agent.route is None)
            writer.close()

    asyncio.run(run())


def test_a_viewer_that_sends_much_over_tcp_delays_other_tasks_little() -> None:
    async def run() -> None:
        async with shared() as port:
            agent, peer = await viewer(port)
            turns, checks = 0, 0

            async def others() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            with socket.create_connection(("127.0.0.1", port.number)) as end:
                end.setblocking(False)
                with suppress(BlockingIOError):
                    while checks < 1000:
                        checks += end.send(framed(peer.check())) > 0
                task = asyncio.create_task(others())
                most, before = 0, (0, 0)
                async with asyncio.timeout(LIMIT_S):
                    while agent.checks < checks // 2:
                        await asyncio.sleep(0)
                        if turns > before[0]:
                            most = max(most, (agent.checks - before[1]) // (turns - before[0]))
                            before = turns, agent.checks
                task.cancel()
            assert checks > 500
            assert most < 150

    asyncio.run(run())


def test_a_silent_connection_is_closed_after_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_module, "FIRST_CHECK_S", 0.05)

    async def run() -> None:
        async with shared() as port:
            reader, writer = await connected(port)
            writer.write(b"\0")
            await ended(reader)
            assert port._tcp._unknown == {}
            writer.close()

    asyncio.run(run())


def test_a_thousand_idle_connections_keep_no_viewer_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_module, "FIRST_CHECK_S", 600.0)

    async def run() -> None:
        async with shared() as port:
            agent, peer = await viewer(port)
            with ExitStack() as stack:
                for number in range(1000):
                    idle = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                    idle.setblocking(False)
                    idle.connect_ex(("127.0.0.1", port.number))
                    if number % 50 == 0:
                        await asyncio.sleep(0.002)
                await until(lambda: len(port._tcp._unknown) == tcp_module.MAX_UNKNOWN)
                reader, writer = await connected(port)
                writer.write(framed(peer.check()))
                peer.verified(await packet(reader))
                assert agent.route is not None
                assert len(port._tcp._unknown) < tcp_module.MAX_UNKNOWN
                writer.close()

    asyncio.run(run())


def test_a_tcp_viewer_that_does_not_read_has_a_limited_queue() -> None:
    async def run() -> None:
        async with shared() as port:
            agent, peer = await viewer(port)
            reader, writer = await connected(port)
            writer.write(framed(peer.check()))
            peer.verified(await packet(reader))
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            assert agent.route is not None
            for _ in range(20_000):
                agent.route.send([bytes(1200)] * 10)
            assert 1 << 20 <= agent.route.waiting < (1 << 20) + 20_000
            writer.transport.abort()

    asyncio.run(run())
