"""Offers and packets of hostile viewers."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from tests.hostile.conftest import Serve, Spent, Target, bounded
from tests.support.ice_peer import IcePeer, framed, read_framed
from tests.support.waiting import wait_until

CAMERA = "model: clock\nstreams:\n  door: {url: 'test://?size=320x240&fps=10'}\n"
OFFER = Path(__file__).parents[1].joinpath("preview", "chromium_offer.sdp").read_text(encoding="ascii").replace("\n", "\r\n")
MALFORMED = struct.pack("!HHI12s", 0x0001, 8, 0x2112A442, b"x" * 12) + struct.pack("!HH4s", 0x0024, 3, b"abc\0")
"""A STUN request whose PRIORITY has three bytes."""


@pytest.fixture
def target(serve: Serve, request: pytest.FixtureRequest) -> Target:
    """Return a service with one camera that delivers video. The parameter is the preview port; default: a free one."""
    port = {"VISION_INFER_PREVIEW__PORT": request.param} if hasattr(request, "param") else {}
    running = serve(f"service: {{requests_per_second: 10000}}\n{CAMERA}", **port)
    wait_until(lambda: running.streams()["door"]["status"]["state"] == "live", lambda: running.log)
    wait_until(lambda: watch(running, OFFER)[0] == 201, lambda: running.log)
    return running


def watch(target: Target, sdp: str, stay: bool = False) -> tuple[int, str]:
    """Send an offer; return the status and text of the response. Unless the viewer is to stay, the session ends at once."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{target.port}/api/v1/streams/door/whep", sdp.encode(), {"Content-Type": "application/sdp"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            if not stay:
                assert target.ask("DELETE", answer.headers["Location"])[0] == 200
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def places(answer: str) -> list[tuple[str, int]]:
    """Return the IPv4 addresses and ports at which the service waits for the viewer."""
    found = re.findall(r"a=candidate:\S+ 1 udp \d+ ([\d.]+) (\d+) typ host", answer)
    return [(address, int(port)) for address, port in found]


@pytest.mark.parametrize("target", ["0"], indirect=True)
def test_the_addresses_in_an_offer_are_limited(target: Target) -> None:
    status, answer = watch(target, OFFER)
    assert status == 201
    own = places(answer)[0][0]
    with ExitStack() as stack:
        ears = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(200)]
        for ear in ears:
            ear.bind((own, 0))
            ear.setblocking(False)
        lines = [f"a=candidate:{n} 1 udp {2**31 - n} {own} {ear.getsockname()[1]} typ host" for n, ear in enumerate(ears)]
        offer = OFFER.replace("a=mid:0\r\n", "a=mid:0\r\n" + "\r\n".join(lines) + "\r\n", 1)
        status, _ = watch(target, offer, stay=True)
        assert status == 201
        heard: set[int] = set()

        def listen() -> bool:
            for number, ear in enumerate(ears):
                try:
                    ear.recv(2000)
                    heard.add(number)
                except BlockingIOError:
                    pass
            return len(heard) >= 16

        wait_until(listen)
        with pytest.raises(AssertionError):
            wait_until(lambda: listen() and len(heard) > 16, limit_s=3)
        assert heard == set(range(16))


@pytest.mark.parametrize("count", [500, pytest.param(20_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("target", ["0"], indirect=True)
def test_malformed_packets_write_little_log(target: Target, count: int) -> None:
    _, answer = watch(target, OFFER, stay=True)
    with bounded(target, Spent(memory_mb=30, log_bytes=2000)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(count):
            for place in places(answer):
                sender.sendto(MALFORMED if number % 2 else MALFORMED[:-1], place)
        wait_until(lambda: "unpack requires a buffer" in target.log)


def strays(target: Target) -> float:
    """Return the number of packets to the port that belonged to no viewer."""
    found = re.search(r"^vision_infer_preview_strays_total ([\d.]+)$", target.ask("GET", "/metrics")[1], re.MULTILINE)
    assert found is not None
    return float(found[1])


def junk(chance: random.Random, checks: Sequence[bytes]) -> bytes:
    """Return a random packet, or a changed check."""
    kind = chance.randrange(4)
    if kind == 0:
        return chance.randbytes(chance.randrange(1400))
    if kind == 1:
        return MALFORMED
    data = bytearray(chance.choice(checks))
    for _ in range(chance.randrange(1, 5)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data if kind == 2 else data[: chance.randrange(len(data))])


@pytest.mark.parametrize("count", [3000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_flood_of_packets_does_not_disturb_a_viewer(target: Target, count: int) -> None:
    """The sender knows the names in the answer of a viewer, but not its password."""

    async def play() -> tuple[int, float]:
        player = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        player.addTransceiver("video", direction="recvonly")
        await player.setLocalDescription(await player.createOffer())
        _, answer = await asyncio.to_thread(watch, target, player.localDescription.sdp, True)
        await player.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        track = player.getReceivers()[0].track
        for _ in range(10):
            await track.recv()
        flooding, frames, began = asyncio.create_task(asyncio.to_thread(flood, answer)), 0, time.monotonic()
        while not flooding.done() or frames < 10:
            await asyncio.wait_for(track.recv(), 5)
            frames += 1
        took_s = time.monotonic() - began
        await flooding
        await player.close()
        return frames, took_s

    def flood(answer: str) -> None:
        chance = random.Random(count)
        peer = IcePeer.of_answer(answer, "abcd", "a-guess")
        peer.password = "a guess"
        checks = [peer.check() for _ in range(20)]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in range(count):
                sender.sendto(junk(chance, checks), ("127.0.0.1", target.preview_port))
                if number % 100 == 0:
                    time.sleep(0.005)  # else the kernel drops most of them

    with bounded(target, Spent(memory_mb=30, log_bytes=2000)):
        frames, took_s = asyncio.run(play())
        assert frames > took_s * 10 * 0.8, "the stream has 10 frames per second"
        assert strays(target) > count / 2


@pytest.mark.parametrize("count", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_idle_connections_do_not_disturb_a_viewer(target: Target, count: int) -> None:
    _, answer = watch(target, OFFER, stay=True)
    peer = IcePeer.of_answer(answer, re.findall(r"a=ice-ufrag:(\S+)", OFFER)[0], "")
    with bounded(target, Spent(memory_mb=30, log_bytes=2000)), ExitStack() as stack:
        for number in range(count):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", target.preview_port), 10))
            idle.sendall((b"", b"\0", b"\x08\0abc")[number % 3])
        viewer = stack.enter_context(socket.create_connection(("127.0.0.1", target.preview_port), 10))
        viewer.sendall(framed(peer.check()))
        assert peer.verified(read_framed(viewer))
        assert target.descriptors < 128 + 200


def damaged(sdp: str, chance: random.Random) -> str:
    """Return an offer with up to three changes of its lines."""
    lines = sdp.split("\r\n")
    for _ in range(chance.randint(1, 3)):
        at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        kind = chance.randrange(5)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(at, lines[other])
        elif kind == 2:
            lines[at] = lines[at][: chance.randint(0, len(lines[at]))]
        elif kind == 3:
            lines[at] += chance.choice(["\0", " ", "9" * 40, "é", ":", "\t"])
        else:
            lines[at], lines[other] = lines[other], lines[at]
    return "\r\n".join(lines)


@pytest.mark.parametrize("count", [60, pytest.param(1200, marks=pytest.mark.slow)])
def test_damaged_offers_are_the_fault_of_the_client(target: Target, count: int) -> None:
    second = OFFER[OFFER.index("m=video") : OFFER.index("m=", OFFER.index("m=video") + 1)].replace("a=mid:0", "a=mid:7")
    offers = [OFFER.replace("a=mid:0\r\n", "a=mid:0\0\r\n"), OFFER + second]
    offers += [damaged(OFFER, random.Random(seed)) for seed in range(count)]
    before = target.descriptors
    with bounded(target, Spent(memory_mb=150, log_bytes=10_000)):
        answers = [watch(target, sdp) for sdp in offers]
        assert [answer for answer in answers if answer[0] >= 500] == []
    wait_until(lambda: target.descriptors <= before, limit_s=40)
