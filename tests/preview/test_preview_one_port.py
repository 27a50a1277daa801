"""Real players on the port that all viewers share."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.preview.watching import LIMIT_S, Stream, Watcher, watch, watch_with_gstreamer
from tests.support.cameras import ClockMount, RtspServer
from tests.support.free_port import free_port
from tests.support.ice_peer import TcpBridge
from tests.support.turn_server import TURN_SECRET, turn_server
from vision_infer.config.preview import IceServer, PreviewSettings
from vision_infer.core.errors import UsageError
from vision_infer.preview.preview import NoPreviewError, Preview
from vision_infer.preview.transport import turn_relay
from vision_infer.preview.transport.datagrams import Datagrams
from vision_infer.preview.transport.sockets import bind

SIZES = {"door": (320, 180), "gate": (480, 270)}
H264 = "application/x-rtp,media=video,clock-rate=90000,payload=127,encoding-name=H264"


@pytest.fixture(scope="module")
def cameras() -> Iterator[RtspServer]:
    mounts = [ClockMount(f"/{name}", width=size[0], height=size[1], fps=15, key_interval=10) for name, size in SIZES.items()]
    with RtspServer(*mounts) as server:
        yield server


@asynccontextmanager
async def previews(
    cameras: RtspServer,
    *streams: str,
    host: str = "127.0.0.1",
    addresses: tuple[str, ...] = (),
    ice_servers: tuple[IceServer, ...] = (),
) -> AsyncIterator[Preview]:
    """Open a preview of streams on one port, and wait until they have video."""
    preview = Preview(settings := PreviewSettings(port=free_port(), addresses=addresses, ice_servers=ice_servers))
    with bind(settings, host) as sockets, ExitStack() as stack:
        assert sockets is not None
        await preview.open(sockets)
        for name in streams:
            stack.enter_context(Stream(preview, cameras.url(f"/{name}"), name))
        async with asyncio.timeout(LIMIT_S):
            for name in streams:
                while preview.relay(name).key is None:
                    await asyncio.sleep(0.02)
        try:
            yield preview
        finally:
            await preview.close()


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_aiortc_plays(cameras: RtspServer, protocol: str) -> None:
    async def run() -> None:
        async with previews(cameras, "door") as preview:
            with TcpBridge() as bridge:
                watcher = await watch(preview, answered=str if protocol == "udp" else bridge.redirected)
                await watcher.has(20)
                session = watcher.session
                assert "a=ice-lite\r\n" in session.answer.partition("m=")[0]
                assert session.route is not None
                assert (session.route.protocol, session.dtls_state, session.ice_state) == (protocol, "connected", "completed")
                assert session.checks > 0
                assert watcher.messages
                await watcher.peer.close()
                async with asyncio.timeout(LIMIT_S):
                    while preview.counts().viewers["door"]:
                        await asyncio.sleep(0.02)

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_gstreamer_plays(cameras: RtspServer, protocol: str) -> None:
    other = "tcp" if protocol == "udp" else "udp"

    async def run() -> None:
        async with previews(cameras, "door", host="0.0.0.0") as preview:
            session, frames = await watch_with_gstreamer(
                preview, H264, 10, answered=lambda answer: re.sub(rf"a=candidate:\S+ 1 {other} .*\r\n", "", answer)
            )
            assert frames >= 10
            assert session.checks > 0

    asyncio.run(run())


@pytest.mark.parametrize(("viewers", "turns"), [(4, 6), pytest.param(50, 60, marks=[pytest.mark.slow, pytest.mark.timing])])
def test_players_of_two_cameras_get_their_own_video(cameras: RtspServer, viewers: int, turns: int) -> None:
    """Players join and leave at random; the size of its frames shows which camera a player gets."""

    async def run() -> None:
        chance = random.Random(viewers)
        present: list[tuple[str, Watcher]] = []
        async with previews(cameras, *SIZES) as preview:
            for _ in range(turns):
                name = chance.choice(list(SIZES))
                present.append((name, await watch(preview, name, data=False)))
                if len(present) > viewers:
                    _, leaving = present.pop(chance.randrange(len(present)))
                    await leaving.session.end("it leaves")
                    await leaving.peer.close()
            await asyncio.gather(*(watcher.has(3) for _, watcher in present))
            for name, watcher in present:
                assert {frame[:2] for frame in watcher.frames} == {SIZES[name]}
            assert sum(preview.counts().viewers.values()) == len(present) == min(turns, viewers)
            await asyncio.gather(*(watcher.peer.close() for _, watcher in present))

    asyncio.run(run())


def test_a_turn_server_of_the_service_carries_the_video(cameras: RtspServer, tmp_path: Path) -> None:
    """The player knows the relayed address of the service only."""

    def relayed(answer: str) -> str:
        assert "typ relay" in answer
        return re.sub(r"a=candidate:.* typ host.*\r\n", "", answer)

    async def run(url: str) -> None:
        servers = (IceServer(url=url, secret=SecretStr(TURN_SECRET)), IceServer(url="stun:192.0.2.99:3478"))
        async with previews(cameras, "door", ice_servers=servers) as preview:
            watcher = await watch(preview, answered=relayed)
            await watcher.has(10)
            assert isinstance(watcher.session.route, Datagrams)
            assert str(preview.settings.port) in watcher.session.answer
            await watcher.peer.close()

    with turn_server(tmp_path) as url:
        asyncio.run(run(url))


def test_a_turn_server_that_does_not_respond_costs_time_only(
    cameras: RtspServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(turn_relay, "OPEN_S", 0.1)
    server = IceServer(url="turn:127.0.0.1:9", username="a", credential=SecretStr("geheim"))

    async def run() -> None:
        async with previews(cameras, "door", ice_servers=(server,)) as preview:
            watcher = await watch(preview)
            await watcher.has(2)
            await watcher.peer.close()

    asyncio.run(run())
    assert "preview.ice_servers: the TURN server assigns no address" in caplog.text
    assert "geheim" not in caplog.text


def test_the_connections_of_a_player_without_bundle_have_different_names(cameras: RtspServer) -> None:
    async def run() -> None:
        async with previews(cameras, "door") as preview:
            watcher = await watch(preview, change=lambda offer: re.sub("a=group:BUNDLE.*\r\n", "", offer))
            assert len(set(re.findall("a=ice-ufrag:.*", watcher.session.answer))) == 2
            await watcher.has(5)
            await watcher.peer.close()

    asyncio.run(run())


def test_an_offer_without_own_checks_is_refused(cameras: RtspServer) -> None:
    async def run() -> None:
        async with previews(cameras, "door") as preview:
            with pytest.raises(UsageError, match=r"the offer has a=ice-lite.*preview\.port"):
                await watch(preview, change=lambda offer: offer.replace("\r\nm=", "\r\na=ice-lite\r\nm=", 1))

    asyncio.run(run())


def test_a_name_that_cannot_be_resolved_is_a_clear_error(cameras: RtspServer) -> None:
    async def run() -> None:
        async with previews(cameras, "door", addresses=("camera.invalid",)) as preview:
            with pytest.raises(NoPreviewError, match=r"preview\.addresses: no name can be resolved"):
                await watch(preview)
            assert not any(preview.counts().viewers.values())

    asyncio.run(run())
