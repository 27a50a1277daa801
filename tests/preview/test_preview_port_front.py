"""The shared port of several worker processes."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import pytest

from tests.preview.shared_port import DTLS, LIMIT_S, RTP, Udp, connected, ended, packet, until, viewer
from tests.support.free_port import free_port
from tests.support.hand_clock import HandClock
from tests.support.ice_peer import framed
from vision_infer.config.preview import PreviewSettings
from vision_infer.core.errors import UsageError
from vision_infer.preview.transport.addresses import Addresses
from vision_infer.preview.transport.port import OWNED_NS, SharedPort
from vision_infer.preview.transport.port_front import PortFront, PortLink
from vision_infer.preview.transport.sockets import bind


@asynccontextmanager
async def fronted(folder: Path, clock: HandClock, workers: int = 2) -> AsyncIterator[tuple[PortFront, list[SharedPort]]]:
    """Open a port with workers, in one process."""
    async with AsyncExitStack() as stack:
        sockets = stack.enter_context(bind(PreviewSettings(port=free_port()), "127.0.0.1"))
        assert sockets is not None
        front = PortFront(sockets, folder / "front", clock)
        await front.open()
        stack.push_async_callback(front._close)
        ports = []
        for _ in range(workers):
            ports.append(await worker(folder, clock))
            stack.callback(ports[-1].close)
        yield front, ports


async def worker(folder: Path, clock: HandClock) -> SharedPort:
    link = await asyncio.to_thread(PortLink, folder / "front")
    port = SharedPort(link.sockets, Addresses((), link.sockets.host, clock), clock, link)
    await port.open()
    return port


def test_a_system_without_unix_sockets_for_packets_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with bind(PreviewSettings(port=free_port()), "127.0.0.1") as sockets:
        assert sockets is not None
        monkeypatch.setattr(socket, "SOCK_SEQPACKET", 99)
        with pytest.raises(UsageError, match=r"preview\.port: worker processes cannot share.*Set preview\.port to 0"):
            PortFront(sockets, tmp_path / "front", HandClock())


def test_packets_reach_the_worker_of_their_viewer_and_answers_leave_from_the_port(tmp_path: Path) -> None:
    async def run() -> None:
        clock = HandClock()
        async with fronted(tmp_path, clock) as (_, ports):
            for port in ports * 3:
                agent, peer = await viewer(port, clock)
                with closing(Udp(port)) as end:
                    end.socket.connect(end.service)  # the kernel drops packets from any other port
                    end.socket.send(peer.check())
                    peer.verified(await end.read())
                    end.socket.send(DTLS)
                    assert await asyncio.wait_for(agent.recv(), LIMIT_S) == DTLS
                    assert agent.route is not None
                    agent.route.send([RTP * 20, RTP])
                    assert [await end.read(), await end.read()] == [RTP * 20, RTP]
            assert ports[0].prefix != ports[1].prefix

    asyncio.run(run())


def test_a_worker_takes_over_the_tcp_connections_of_its_viewers(tmp_path: Path) -> None:
    async def run() -> None:
        clock = HandClock()
        async with fronted(tmp_path, clock) as (front, ports):
            for port in ports * 2:
                agent, peer = await viewer(port, clock)
                reader, writer = await connected(port)
                writer.write(framed(peer.check(), DTLS))
                peer.verified(await packet(reader))
                assert await asyncio.wait_for(agent.recv(), LIMIT_S) == DTLS
                writer.write(framed(RTP))
                assert await asyncio.wait_for(agent.recv(), LIMIT_S) == RTP
                assert agent.route is not None
                agent.route.send([RTP])
                assert await packet(reader) == RTP
                await agent.close()
                await ended(reader)
                writer.close()
            assert front._tcp._unknown == {}
            reader, writer = await connected(ports[0])
            writer.write(framed(peer.check(password="wrong")))
            await ended(reader)
            writer.close()

    asyncio.run(run())


def test_a_worker_cannot_take_an_address_from_another_and_its_end_frees_it(tmp_path: Path) -> None:
    async def run() -> None:
        clock = HandClock()
        async with fronted(tmp_path, clock) as (front, (first, second)):
            (agent, peer), (other, thief) = await viewer(first, clock), await viewer(second, clock)
            with closing(Udp(first)) as end:
                end.send(peer.check())
                peer.verified(await end.read())
                await until(lambda: front._claims)
                end.send(thief.check())
                thief.verified(await end.read())
                await asyncio.sleep(0.01)
                end.send(DTLS)
                assert await asyncio.wait_for(agent.recv(), LIMIT_S) == DTLS
                clock.now += OWNED_NS
                end.send(thief.check())
                thief.verified(await end.read())
                await until(lambda: front._claims[end.address][0] == second.prefix)
                end.send(DTLS)
                assert await asyncio.wait_for(other.recv(), LIMIT_S) == DTLS
                second.close()
                await until(lambda: not front._claims)
                end.send(thief.check())
                end.send(DTLS)
                third = await worker(tmp_path, clock)
                assert third.prefix not in (first.prefix, second.prefix)
                newest, player = await viewer(third, clock)
                end.send(player.check())
                player.verified(await end.read())
                assert newest.route is not None
                third.close()

    asyncio.run(run())


def test_a_worker_that_does_not_read_delays_no_other(tmp_path: Path) -> None:
    async def run() -> None:
        clock = HandClock()
        async with fronted(tmp_path, clock) as (front, (first, second)):
            asyncio.get_running_loop().remove_reader(second._link._socket)  # type: ignore[union-attr]
            (agent, peer), (_, silent) = await viewer(first, clock), await viewer(second, clock)
            with closing(Udp(first)) as end, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
                for _ in range(40):
                    for _ in range(50):
                        flood.sendto(silent.check(), end.service)
                    await asyncio.sleep(0.001)
                end.send(peer.check())
                peer.verified(await end.read())
                assert agent.route is not None
                assert len(front._links) == 2

    asyncio.run(run())


def test_a_service_that_stops_reports_no_error(tmp_path: Path) -> None:
    """Its main thread closes the port while the event loop of the web server is busy, and then the sockets."""
    loop, errors = asyncio.new_event_loop(), list[object]()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    with bind(PreviewSettings(port=free_port()), "127.0.0.1") as sockets:
        assert sockets is not None
        front = PortFront(sockets, tmp_path / "front", HandClock())
        asyncio.run_coroutine_threadsafe(front.open(), loop).result(LIMIT_S)
        loop.call_soon_threadsafe(time.sleep, 0.2)
        front.close()
    loop.call_soon_threadsafe(loop.stop)
    thread.join(LIMIT_S)
    loop.close()
    assert errors == []
