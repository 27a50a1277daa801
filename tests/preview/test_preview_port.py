"""The port that all viewers share: each packet reaches its viewer, and no other."""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import ExitStack, closing
from typing import Any, cast

import pytest
from aioice import Candidate, stun, turn

from tests.preview.shared_port import (
    DTLS,
    LIMIT_S,
    OWN,
    RTP,
    Udp,
    connected,
    nothing,
    packet,
    selected,
    shared,
    until,
    viewer,
)
from tests.support.hand_clock import HandClock
from tests.support.ice_peer import IcePeer, framed
from vision_infer.preview.transport.agent import MAX_ROUTES, LiteAgent
from vision_infer.preview.transport.port import OWNED_NS
from vision_infer.preview.transport.turn_relay import TurnRelay


@pytest.mark.skipif(not OWN, reason="this machine has loopback addresses only")
def test_on_loopback_only_viewers_on_this_machine_get_an_answer() -> None:
    """A packet from another machine has another source than destination, and its source is not a loopback address."""

    async def run() -> None:
        async with shared() as port:
            agent, peer = await viewer(port)
            with closing(Udp(port, OWN[0])) as near, closing(Udp(port, OWN[0])) as far:
                far.service = ("127.0.0.1", port.number)
                far.send(peer.check())
                await until(lambda: port.strays)
                await nothing(far)
                near.send(peer.check())
                peer.verified(await near.read())
                assert (agent.checks, port.strays) == (1, 1)

    asyncio.run(run())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_check_connects_and_packets_go_both_ways(host: str) -> None:
    async def run() -> None:
        async with shared(None, host) as port:
            agent, peer = await viewer(port)
            others = OWN if host == "127.0.0.1" else []
            assert [(one.host, one.port, one.transport, one.tcptype) for one in agent.local_candidates] == [
                *((one, port.number, "udp", None) for one in (host, *others)),
                (host, port.number, "tcp", "passive"),
            ]
            with closing(Udp(port, host)) as end:
                assert agent.route is None
                end.send(peer.check())
                answer = peer.verified(await end.read())
                assert answer.attributes["XOR-MAPPED-ADDRESS"] == end.address
                await agent.connect()
                end.send(DTLS)
                assert await agent.recv() == DTLS
                await agent.send(RTP)
                assert await end.read() == RTP
                assert (agent.checks, agent.route is not None, port.strays) == (1, True, 0)
            closed = asyncio.create_task(agent.get_event())
            await agent.close()
            await closed
            with pytest.raises(ConnectionError):
                await agent.recv()
            with pytest.raises(ConnectionError):
                await agent.send(RTP)

    asyncio.run(run())


def test_only_the_viewers_own_checks_are_answered() -> None:
    async def run() -> None:
        async with shared() as port:
            agent, peer = await viewer(port)
            _, other = await viewer(port)
            with closing(Udp(port)) as end:
                stranger = IcePeer(peer.ufrag, peer.password)
                wrong = [
                    peer.check(password="wrong"),
                    peer.check(password=other.password),
                    peer.check(password=""),
                    stranger.check(),
                    IcePeer("unknown", peer.password).check(),
                    DTLS,
                    RTP,
                    b"",
                    b"\xff",
                    bytes(2049),
                ]
                for data in wrong:
                    end.send(data)
                await until(lambda: port.strays == len(wrong) - 1)  # a packet that is too large is not even looked at
                await nothing(end)
                assert (agent.route, agent.checks) == (None, 0)
                end.send(peer.check(controlled=True))
                answer = peer.verified(await end.read())
                assert answer.attributes["ERROR-CODE"][0] == 487
                assert agent.route is None

    asyncio.run(run())


def test_a_check_that_is_repeated_from_elsewhere_does_not_redirect_the_video() -> None:
    async def run() -> None:
        async with shared() as port:
            agent, peer = await viewer(port)
            with closing(Udp(port)) as end, closing(Udp(port)) as forger, closing(Udp(port)) as moved:
                check = peer.check()
                end.send(check)
                await end.read()
                first = agent.route
                for data in (check, peer.check()):  # the second one is stolen before it arrives
                    forger.send(data)
                    peer.verified(await forger.read())
                    question = await forger.read()
                    forger.send(IcePeer(peer.ufrag, peer.password, peer.own_ufrag, "a guess").guess(question))
                    forger.send(question)
                    await agent.send(RTP)
                    assert await end.read() == RTP
                assert agent.route is first
                # The player itself changes its address.
                moved.send(peer.check())
                peer.verified(await moved.read())
                moved.send(peer.answer(await moved.read()))
                await until(lambda: agent.route is not first)
                await agent.send(RTP)
                assert await moved.read() == RTP
                await nothing(end, forger)

    asyncio.run(run())


def test_an_alternative_address_without_nomination_gets_no_video() -> None:
    async def run() -> None:
        async with shared() as port:
            agent, peer = await viewer(port)
            with closing(Udp(port)) as end, closing(Udp(port)) as other:
                end.send(peer.check())
                await end.read()
                first = agent.route
                other.send(peer.check(nominate=False))
                peer.verified(await other.read())
                await nothing(other)
                assert agent.route is first

    asyncio.run(run())


def test_the_video_of_a_lost_connection_goes_only_where_the_viewer_has_verified_it() -> None:
    async def run() -> None:
        async with shared() as port:
            agent, peer = await viewer(port)
            reader, writer = await connected(port)
            writer.write(framed(peer.check()))
            peer.verified(await packet(reader))
            with closing(Udp(port)) as victim, closing(Udp(port)) as end:
                victim.send(peer.check(nominate=False))  # as a repeated check
                peer.verified(await victim.read())
                writer.transport.abort()
                await until(lambda: agent.route is None or agent.route.protocol == "udp")
                assert agent.route is None
                victim.send(peer.check())
                peer.verified(await victim.read())
                assert agent.route is None
                end.send(peer.check())
                peer.verified(await end.read())
                end.send(peer.answer(await end.read()))
                await selected(agent, end)

    asyncio.run(run())


def test_a_viewer_that_is_connected_needs_no_turn_server() -> None:
    """With many candidates of many viewers, the rate of own checks would delay the start of its video."""

    async def run() -> None:
        async with shared() as port:
            agent, peer = await viewer(port)
            while agent._rate.take():
                pass
            agent._relay = TurnRelay(lambda *_: None, lambda: None)
            candidate = Candidate("1", 1, "udp", 1, "192.0.2.1", 5000, "host")
            adding = asyncio.create_task(agent.add_remote_candidate(candidate))
            connecting = asyncio.create_task(agent.connect())
            with closing(Udp(port)) as end:
                end.send(peer.check())
                async with asyncio.timeout(LIMIT_S):
                    await asyncio.gather(adding, connecting)

    asyncio.run(run())


def test_an_address_in_use_is_kept_when_another_route_with_it_is_dropped() -> None:
    async def run() -> None:
        async with shared() as port:
            agent, peer = await viewer(port)
            with closing(Udp(port)) as end:
                end.send(peer.check())
                await end.read()
                port._from_udp(peer.check(nominate=False), end.address, socket.inet_aton("127.0.0.2"))
                for number in range(MAX_ROUTES):
                    port._from_udp(peer.check(nominate=False), ("127.0.0.3", 2000 + number), b"")
                assert agent.route is not None
                assert agent.route.remote == end.address
                end.send(DTLS)
                assert await asyncio.wait_for(agent.recv(), 2) == DTLS

    asyncio.run(run())


class _Allocation:
    """The client side of a TURN server over a TCP connection."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self.transport = transport

    async def send_data(self, data: bytes, _: tuple[str, int]) -> None:
        self.transport.write(data)


def test_a_turn_server_that_does_not_read_pauses_the_video() -> None:
    async def run() -> None:
        async with shared() as port:
            agent, peer = await viewer(port)
            with socket.create_server(("127.0.0.1", 0)) as server:
                _, writer = await asyncio.open_connection(*server.getsockname())
                agent._relay = TurnRelay(lambda *_: None, lambda: None)
                agent._relay.connection_made(turn.TurnTransport(cast(Any, _Allocation(writer.transport))))
                agent._relayed(peer.check(), ("192.0.2.1", 5000))
                assert agent.route is not None
                for _ in range(8000):
                    agent.route.send((bytes(1200),))
                await asyncio.sleep(0.05)
                assert agent.route.waiting > 64 * 1024
                writer.transport.abort()

    asyncio.run(run())


def test_an_address_belongs_to_one_viewer_until_it_is_silent() -> None:
    async def run() -> None:
        clock = HandClock()
        async with shared(clock) as port:
            (first, peer), (second, thief) = await viewer(port), await viewer(port)
            with closing(Udp(port)) as end:
                end.send(peer.check())
                await end.read()
                clock.now += OWNED_NS - 1
                end.send(thief.check())
                await until(lambda: port.strays == 1)
                end.send(DTLS)
                assert await first.recv() == DTLS
                assert second.route is None
                clock.now += 1
                end.send(thief.check())
                thief.verified(await end.read())
                end.send(DTLS)
                assert await second.recv() == DTLS

    asyncio.run(run())


def test_a_viewer_has_a_limited_number_of_routes_and_of_packets_that_wait() -> None:
    async def run() -> None:
        async with shared() as port:
            agent, peer = await viewer(port)
            with ExitStack() as stack:
                ends = [stack.enter_context(closing(Udp(port))) for _ in range(MAX_ROUTES + 5)]
                for end in ends:
                    end.send(peer.check(nominate=False))
                    await end.read()
                assert len(agent._routes) == len(port._owners) == MAX_ROUTES
                ends[0].send(DTLS)  # the selected route is kept
                assert await agent.recv() == DTLS
                for _ in range(20):
                    for _ in range(50):
                        ends[0].send(DTLS)
                    await asyncio.sleep(0.002)
                assert len(agent._received) == 256
                await agent.close()
                assert (port._owners, port._agents) == ({}, {})

    asyncio.run(run())


@pytest.mark.parametrize("joins", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_viewer_never_gets_the_video_of_another_camera(joins: int) -> None:
    """Random joins, leaves, changes of address and reused addresses, over UDP and TCP."""

    async def run() -> None:
        chance = random.Random(18)
        clock = HandClock()
        seen = 0
        async with shared(clock) as port:
            loop = asyncio.get_running_loop()
            ends = [Udp(port) for _ in range(60)]
            free = list(ends)
            viewers: list[tuple[bytes, LiteAgent, IcePeer, Udp]] = []
            for number in range(joins):
                clock.now += OWNED_NS
                camera = chance.choice((b"A", b"B"))
                agent, peer = await viewer(port, clock)
                end = free.pop(chance.randrange(len(free)))
                end.rest()
                end.send(peer.check())
                assert peer.verified(await end.read()).attributes["XOR-MAPPED-ADDRESS"] == end.address
                viewers.append((camera, agent, peer, end))
                if chance.random() < 0.2 and free:  # the network of a player changes
                    at = chance.randrange(len(viewers))
                    name, moving, its, old = viewers[at]
                    new = free.pop(chance.randrange(len(free)))
                    new.rest()
                    new.send(its.check())
                    its.verified(await new.read())
                    new.send(its.answer(await new.read()))
                    await selected(moving, new)
                    viewers[at] = (name, moving, its, new)
                    old.rest()
                    free.append(old)
                while len(viewers) > 50 or (viewers and chance.random() < 0.4):
                    _, leaving, _, end = viewers.pop(chance.randrange(len(viewers)))
                    await leaving.close()
                    end.rest()
                    free.append(end)
                for name, watching, _, _ in viewers:
                    await watching.send(b"\x80" + name + watching.local_username.encode())
                for name, watching, _, end in viewers:
                    got = await asyncio.wait_for(loop.sock_recv(end.socket, 4096), LIMIT_S)
                    assert got == b"\x80" + name + watching.local_username.encode(), number
                    seen += 1
                for name, watching, _, end in chance.sample(viewers, min(3, len(viewers))):
                    end.send(b"\x80" + name + watching.local_username.encode())
                    assert await watching.recv() == b"\x80" + name + watching.local_username.encode()
                assert [end.rest() for end in free] == [[] for _ in free]
            assert max(len(port._agents), len(port._owners)) <= 60
            for end in ends:
                end.close()
        assert seen > joins

    asyncio.run(run())


def test_an_answer_leaves_from_the_address_that_the_player_uses() -> None:
    async def run() -> None:
        async with shared(None, "0.0.0.0") as port:
            agent, peer = await viewer(port)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
                end.setblocking(False)
                end.connect(("127.0.0.7", port.number))  # the kernel drops packets from any other address
                end.send(peer.check())
                peer.verified(await asyncio.wait_for(asyncio.get_running_loop().sock_recv(end, 2000), LIMIT_S))
                assert agent.route is not None
                agent.route.send([b"\x80" * 1200] * 3 + [b"\x80 end"])
                for length in (1200, 1200, 1200, 5):
                    data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(end, 9000), LIMIT_S)
                    assert len(data) == length

    asyncio.run(run())


def test_both_versions_of_ip_use_the_port_if_addresses_are_set() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("IPv6 is not available")

    async def run() -> None:
        async with shared(None, "127.0.0.1", "203.0.113.7", "2001:db8::7") as port:
            for host in ("127.0.0.1", "::1"):
                agent, peer = await viewer(port)
                assert [one.host for one in agent.local_candidates] == ["203.0.113.7", "2001:db8::7"] * 2
                with closing(Udp(port, host)) as end:
                    end.send(peer.check())
                    assert peer.verified(await end.read()).attributes["XOR-MAPPED-ADDRESS"] == end.address
                    assert agent.route is not None
                    assert agent.route.remote == end.address
                    agent.route.send([RTP * 20, RTP])
                    assert [await end.read(), await end.read()] == [RTP * 20, RTP]

    asyncio.run(run())


def test_a_slow_viewer_delays_no_other() -> None:
    async def run() -> None:
        async with shared() as port:
            (slow, peer), (quick, other) = await viewer(port), await viewer(port)
            with closing(Udp(port)) as end, closing(Udp(port)) as second:
                for one, its in ((end, peer), (second, other)):
                    one.send(its.check())
                    await one.read()
                full = _Full(port._udp.socket, end.address)
                port._udp.socket, bound = full, port._udp.socket  # type: ignore[assignment]
                assert slow.route is not None
                for number in range(2000):
                    slow.route.send([b"\x80" + number.to_bytes(2, "big") + bytes(1197)])
                assert 0 < slow.route.waiting <= 1 << 20
                await quick.send(RTP)
                assert await second.read() == RTP
                full.open = True
                await until(lambda: slow.route is not None and slow.route.waiting == 0)
                numbers = [int.from_bytes(data[1:3], "big") for data in end.rest()]  # the last ones overflow its own buffer
                assert len(numbers) > 50
                assert numbers == list(range(len(numbers)))
                port._udp.socket = bound

    asyncio.run(run())


class _Full:
    """A socket whose buffer is full for one address."""

    def __init__(self, bound: socket.socket, address: tuple[str, int]) -> None:
        self._bound = bound
        self._address = address
        self.open = False

    def sendmsg(self, parts: list[bytes], options: list[Any], flags: int, address: tuple[str, int]) -> int:
        if address == self._address and not self.open:
            raise BlockingIOError(11, "full")
        return self._bound.sendmsg(parts, options, flags, address)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bound, name)


def test_random_packets_change_nothing() -> None:
    """Also cut and changed STUN messages, whose attributes can have any length and type."""

    async def run() -> None:
        chance = random.Random(8189)
        async with shared() as port:
            agent, peer = await viewer(port)
            with closing(Udp(port)) as end, closing(Udp(port)) as other:
                end.send(peer.check())
                await end.read()
                for number in range(4000):
                    data = bytearray(peer.check(nominate=False, password=chance.choice([None, "", "wrong"])))
                    if chance.random() < 0.3:
                        data = bytearray(chance.randbytes(chance.randrange(1300)))
                    else:
                        for _ in range(chance.randrange(1, 4)):
                            data[chance.randrange(len(data))] = chance.randrange(256)
                        if chance.random() < 0.5:
                            del data[chance.randrange(len(data)) :]
                            data[2:4] = max(0, len(data) - 20).to_bytes(2, "big")
                    if data[:1] and not 20 <= data[0] <= 191:
                        (end if number % 2 else other).send(bytes(data))
                    if number % 50 == 0:
                        await asyncio.sleep(0.001)
                end.rest()
                end.send(peer.check())
                answers = [await end.read()]
                await agent.send(RTP)
                while answers[-1] != RTP:
                    answers.append(await end.read())
                assert stun.parse_message(answers[0]).message_class == stun.Class.RESPONSE
                assert port.strays > 2000

    asyncio.run(run())
