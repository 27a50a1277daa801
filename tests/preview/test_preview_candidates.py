"""The addresses that the service probes for a viewer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import aioice
import pytest

from tests.support.hand_clock import HandClock
from vision_infer.preview.codecs.matching import Codec
from vision_infer.preview.offer import Offer
from vision_infer.preview.transport.aiortc_private import RandomPortAgent
from vision_infer.preview.transport.candidates import MAX_CANDIDATES, MAX_PEERS, CheckRate, too_many_peers, usable


def candidate(address: str, port: int | str = 50_000, transport: str = "udp") -> str:
    return f"a=candidate:1 1 {transport} 2130706431 {address} {port} typ host"


@pytest.mark.parametrize("address", ["192.168.1.20", "10.0.0.5", "203.0.114.9", "2a00:1450::5", "fd12::7", "::ffff:10.0.0.5"])
def test_addresses_of_machines_are_probed(address: str) -> None:
    assert usable(candidate(address), local=False)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "169.254.169.254", "fe80::1", "fe80::1%eth0"),
        *("::ffff:169.254.1.1", "224.0.0.251", "ff02::fb", "255.255.255.255", "240.0.0.1", "4f9c.local", "camera.example", "1"),
    ],
)
def test_other_addresses_are_not(address: str) -> None:
    assert not usable(candidate(address), local=False)
    assert usable(candidate(address), local=True) == (address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"))


@pytest.mark.parametrize("port", [0, 53, 1023, 65_536, -1, "x", "", "٣٣٣٣"])
def test_privileged_and_invalid_ports_are_not_probed(port: int | str) -> None:
    assert not usable(candidate("10.0.0.5", port), local=True)


def test_only_udp_is_probed() -> None:
    assert not usable(candidate("10.0.0.5", transport="tcp"), local=True)
    assert not usable("a=candidate:", local=True)


def test_an_offer_keeps_sixteen_candidates_at_most() -> None:
    video = ("m=video 9 UDP/TLS/RTP/SAVPF 96", *(candidate("10.0.0.5", 2000 + number) for number in range(900)))
    data = ("m=application 9 UDP/DTLS/SCTP webrtc-datachannel", candidate("10.0.0.5", 9000))
    reduced = Offer((("v=0",), video, data), 1, (), "0").only(Codec(96, "VP8", {}))
    assert reduced.count("a=candidate:") == MAX_CANDIDATES


def test_checks_of_all_viewers_share_one_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = HandClock()
    rate = CheckRate(clock)
    started: list[Any] = []
    monkeypatch.setattr(aioice.Connection, "check_start_task", lambda _, pair: started.append(pair))
    agents: list[Any] = [RandomPortAgent(rate, clock) for _ in range(10)]
    pairs = [SimpleNamespace(task=None) for _ in range(200)]
    for number, pair in enumerate(pairs):
        agents[number % 10].check_start_task(pair)
    assert len(started) == 100
    clock.move(1)
    for pair in pairs:
        agents[0].check_start_task(pair)
    assert len(started) == 150
    clock.move(1)
    agents[0].check_start_task(SimpleNamespace(task="started"))
    assert len(started) == 150


def test_a_session_has_a_limited_number_of_peers() -> None:
    peers = [SimpleNamespace(host="10.0.0.5", port=2000 + number) for number in range(MAX_PEERS)]
    full = SimpleNamespace(remote_candidates=peers)
    assert too_many_peers(full, ("10.0.0.6", 2000))
    assert not too_many_peers(full, ("10.0.0.5", 2000))
    assert not too_many_peers(SimpleNamespace(remote_candidates=peers[1:]), ("10.0.0.6", 2000))
