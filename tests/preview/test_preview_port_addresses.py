"""The addresses that the shared port announces to viewers."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import pytest
from aioice import ice
from pydantic import ValidationError

from tests.support.hand_clock import HandClock
from vision_infer.config.preview import PreviewSettings
from vision_infer.preview.transport.addresses import Addresses


def test_the_addresses_are_announced_and_names_are_resolved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"camera.example": ["198.51.100.1", "2001:db8::1"], "other.example": ["198.51.100.9"]}
    asked: list[str] = []

    async def run() -> None:
        async def resolve(name: str, *_: object, **__: object) -> list[Any]:
            asked.append(name)
            if not answers[name]:
                raise socket.gaierror(-2, "Name or service not known")
            return [(None, None, None, "", (address, 0)) for address in answers[name]]

        clock = HandClock()
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        names = ("203.0.113.7", "camera.example", "other.example")
        addresses = Addresses(names, "0.0.0.0", clock)
        assert await addresses.current() == ["203.0.113.7", "198.51.100.1", "2001:db8::1", "198.51.100.9"]
        answers["camera.example"], answers["other.example"] = ["198.51.100.2"], []
        clock.move(29)
        assert "198.51.100.1" in await addresses.current()
        clock.move(1)
        assert await addresses.current() == ["203.0.113.7", "198.51.100.2", "198.51.100.9"]
        assert asked == ["camera.example", "other.example"] * 2
        answers["camera.example"] = []
        assert await Addresses(("camera.example",), "0.0.0.0", clock).current() == []

    asyncio.run(run())


@pytest.mark.parametrize("address", ["203.0.113.7", "2001:db8::7", "camera.example", "localhost", "_under.score-1.local"])
def test_an_address_or_a_name_can_be_announced(address: str) -> None:
    assert PreviewSettings(addresses=(address,)).addresses == (address,)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "",
            "203.0.113",
            "203.0.113.7:8189",
            "[::1]",
            "http://camera.example",
            "a..b",
            "-a.example",
            "a b",
            "ä.example",
            "x" * 64,
        ),
        *("0.0.0.0", "::", "224.0.0.1", "fe80::1%eth0"),
    ],
)
def test_anything_else_is_rejected(address: str) -> None:
    with pytest.raises(ValidationError, match=r"without a port|without a zone"):
        PreviewSettings(addresses=(address,))


@pytest.mark.parametrize("bound", ["127.0.0.1", "192.0.2.5", "::1"])
def test_a_port_on_one_address_announces_it(bound: str) -> None:
    assert asyncio.run(Addresses((), bound, HandClock()).current()) == [bound]


def test_a_port_on_all_addresses_announces_those_of_the_interfaces() -> None:
    found = asyncio.run(Addresses((), "0.0.0.0", HandClock()).current())
    assert found
    assert not any(":" in address or address == "0.0.0.0" for address in found)


def test_a_system_that_hides_its_addresses_leaves_loopback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(**_: bool) -> list[str]:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(ice, "get_host_addresses", refused)
    assert asyncio.run(Addresses((), "0.0.0.0", HandClock()).current()) == ["127.0.0.1"]
    assert "set preview.addresses" in caplog.text
