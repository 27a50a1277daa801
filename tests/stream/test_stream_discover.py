"""Discovery of simulated devices on the loopback interface, some of them malicious."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from vision_infer.core.errors import StreamError
from vision_infer.stream.discovery import discover as module
from vision_infer.stream.discovery.discover import GROUP, DiscoveredDevice, discover, read_answer

OURS = "urn:uuid:11111111-2222-3333-4444-555555555555"
SCOPES = (
    "onvif://www.onvif.org/name/Front%20Door onvif://www.onvif.org/hardware/IPC-123 "
    "onvif://www.onvif.org/location/city/Kiel onvif://www.onvif.org/type/video_encoder http://example.org/name/Other"
)


def answer(
    relates: str = OURS,
    scopes: str = SCOPES,
    services: str = "http://192.0.2.7/onvif/device_service http://[2001:db8::7]/onvif/device_service",
    before: str = "",
    kind: str = "ProbeMatches",
    device: str = "urn:uuid:camera-7",
) -> bytes:
    """Return a camera's answer, with its own namespace prefixes."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>{before}<SOAP-ENV:Envelope '
        'xmlns:SOAP-ENV="http://www.w3.org/2003/05/soap-envelope" xmlns:wsa="http://schemas.xmlsoap.org/ws/2004/08/addressing" '
        'xmlns:wsdd="http://schemas.xmlsoap.org/ws/2005/04/discovery"><SOAP-ENV:Header>'
        f"<wsa:ReplyTo><wsa:Address>urn:anonymous</wsa:Address></wsa:ReplyTo><wsa:RelatesTo>{relates}</wsa:RelatesTo></SOAP-ENV:Header>"
        f"<SOAP-ENV:Body><wsdd:{kind}><wsdd:ProbeMatch><wsa:EndpointReference><wsa:Address>{device}</wsa:Address>"
        f"</wsa:EndpointReference><wsdd:Types>dn:NetworkVideoTransmitter</wsdd:Types><wsdd:Scopes>{scopes}</wsdd:Scopes>"
        f"<wsdd:XAddrs>{services}</wsdd:XAddrs></wsdd:ProbeMatch></wsdd:{kind}></SOAP-ENV:Body></SOAP-ENV:Envelope>"
    ).encode()


def asked_for(question: bytes) -> str:
    """Return the identifier of a probe message, which must ask for cameras."""
    assert b"<d:Types>dn:NetworkVideoTransmitter</d:Types>" in question
    found = re.search(rb"<w:MessageID>(urn:uuid:[0-9a-f-]{36})</w:MessageID>", question)
    assert found
    return found[1].decode()


@contextmanager
def devices(answers: Callable[[str], Iterable[bytes]], group: bool = False, port: int = 0) -> Iterator[tuple[str, int]]:
    """Answer each probe; yields the address to send it to."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as answering,
    ):
        answering.bind(("127.0.0.1", 0))  # a message to the group may come from another address of this machine
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("0.0.0.0" if group else "127.0.0.1", port))
        listening.settimeout(0.05)
        if group:
            member = struct.pack("4s4s", socket.inet_aton(GROUP), socket.inet_aton("127.0.0.1"))
            listening.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        over = threading.Event()

        def run() -> None:
            while not over.is_set():
                try:
                    question, place = listening.recvfrom(65_535)
                except TimeoutError:
                    continue
                for data in answers(asked_for(question)):
                    answering.sendto(data, place)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield (GROUP if group else "127.0.0.1", listening.getsockname()[1])
        finally:
            over.set()
            thread.join()


def test_a_device_reports_its_name_and_services() -> None:
    found = read_answer(answer(), "192.0.2.7", OURS)
    services = ("http://192.0.2.7/onvif/device_service", "http://[2001:db8::7]/onvif/device_service")
    assert found == DiscoveredDevice("192.0.2.7", "Front Door", "IPC-123", "city/Kiel", services, "urn:uuid:camera-7")


def test_devices_are_found_through_the_group_of_every_interface() -> None:
    with devices(lambda message: [answer(message)] * 2, group=True) as place:
        found = discover(0.4, place)
    assert [one.name for one in found] == ["Front Door"], "once, however often it answers"


def test_several_kinds_of_answers_together() -> None:
    def answers(message: str) -> list[bytes]:
        good = [answer(message, device=f"urn:uuid:{number}") for number in range(3)]
        return [
            b"",
            b"\xff\xfe",
            b"<a",
            answer("urn:uuid:another"),
            *good,
            answer(message, kind="Hello"),
            answer(message, device=""),
        ]

    with devices(answers) as place:
        found = discover(0.3, place, interfaces=False)
    assert [one.id for one in found] == ["", "urn:uuid:0", "urn:uuid:1", "urn:uuid:2"]


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    "data",
    [
        answer(before=BOMB, scopes="&c;"),
        answer(before=OUTSIDE, scopes="&b;"),
        answer(before="<!DOCTYPE html>"),
        answer(scopes="&undefined;"),
        answer("urn:uuid:another"),
        answer(kind="ProbeMatch"),
        answer()[:-9],
        b"<a>" * 40 + b"</a>" * 40,
        b"<a>" * 10_000,
        bytes(range(256)),
        b"",
    ],
)
def test_invalid_answers_are_ignored(data: bytes) -> None:
    assert read_answer(data, "192.0.2.7", OURS) is None


def test_texts_of_a_device_are_sanitized() -> None:
    scopes = "onvif://www.onvif.org/name/" + "x" * 5000 + " onvif://www.onvif.org/hardware/%1b%5B2J%00"
    services = "http://admin:geheim@192.0.2.7/x file:///etc/passwd javascript:alert(1) http:// ftp://192.0.2.7/ http://[::/"
    found = read_answer(answer(scopes=scopes, services=services), "192.0.2.7", OURS)
    assert found is not None
    assert len(found.name) == 200
    assert found.hardware == "\\x1b[2J\\x00"
    assert found.services == ("http://admin:***@192.0.2.7/x",)


def test_a_missing_network_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any) -> bool:
        return False

    monkeypatch.setattr(module, "_sent", unreachable)
    with pytest.raises(StreamError, match="no message can be sent to the local network"):
        discover(0.1)


def test_the_number_of_devices_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DEVICES", 5)
    with devices(lambda message: [answer(message, device=f"urn:uuid:{number}") for number in range(50)]) as place:
        assert len(discover(0.2, place, interfaces=False)) == 5


def test_a_device_that_answers_without_end_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PER_ADDRESS", 5)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.2", 0))
        asked: list[tuple[str, int]] = []

        def answers(message: str) -> Iterator[bytes]:
            for number in range(20_000):
                yield answer(message, device=f"urn:uuid:{number}")
                if number % 1000 == 999:
                    other.sendto(answer(message, device="urn:uuid:other"), asked[0])

        def sent(sender: socket.socket, question: bytes, place: tuple[str, int]) -> bool:
            sender.bind(("127.0.0.1", 0))
            asked.append(sender.getsockname())
            return sender.sendto(question, place) == len(question)

        monkeypatch.setattr(module, "_sent", sent)
        with devices(answers) as place:
            found = discover(1.0, place, interfaces=False)
    assert [one.address for one in found] == ["127.0.0.1"] * 5 + ["127.0.0.2"]
