"""Finds cameras in the local network by ONVIF's discovery: WS-Discovery 1.0 over UDP multicast.

A probe message asks for network video transmitters. Each of them answers with its addresses and scopes (name, hardware,
location). The answers are not trusted: the number and size of datagrams are limited, document types and therefore entities are
rejected, and only answers to our own message are accepted.

Specifications: Web Services Dynamic Discovery (WS-Discovery), April 2005; ONVIF Core Specification, section 7 (device discovery).
"""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit
from xml.parsers import expat

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import StreamError
from vision_infer.stream.redact import printable, redact

GROUP, PORT = "239.255.255.250", 3702
WAIT_S = 3.0
MAX_DEVICES, DATAGRAM_BYTES = 256, 65_507
MAX_PER_ADDRESS = 64
"""The maximum number of datagrams that are read of one address, so that a device cannot crowd out the others. A device answers
once for each of its interfaces and of ours, and a gateway answers for several cameras."""
_MAX_TEXT = 200
_SECOND = 1_000_000_000
_SCOPE = "onvif://www.onvif.org/"
_SOAP = "http://www.w3.org/2003/05/soap-envelope"
_ADDRESSING = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
_DISCOVERY = "http://schemas.xmlsoap.org/ws/2005/04/discovery"
_PROBE = (
    f'<?xml version="1.0" encoding="UTF-8"?><e:Envelope xmlns:e="{_SOAP}" xmlns:w="{_ADDRESSING}" xmlns:d="{_DISCOVERY}" '
    'xmlns:dn="http://www.onvif.org/ver10/network/wsdl"><e:Header><w:MessageID>{message}</w:MessageID>'
    f"<w:To>urn:schemas-xmlsoap-org:ws:2005:04:discovery</w:To><w:Action>{_DISCOVERY}/Probe</w:Action></e:Header>"
    "<e:Body><d:Probe><d:Types>dn:NetworkVideoTransmitter</d:Types></d:Probe></e:Body></e:Envelope>"
)


@dataclass(frozen=True, slots=True)
class DiscoveredDevice:
    """A device that answered."""

    address: str
    """The address that its answer came from."""
    name: str
    hardware: str
    location: str
    """Its name, hardware and location, each empty if it does not report it."""
    services: tuple[str, ...]
    """The addresses of its ONVIF service, without secrets."""
    id: str
    """Its endpoint reference, which does not change."""

    @property
    def own_service(self) -> str:
        """The first of its services on the address that answered; empty if it names none there.

        A device may not choose another one: the user's password is sent to the device that is shown.
        """
        return next((url for url in self.services if _host(url) == self.address), "")


def discover(
    wait_s: float = WAIT_S, place: tuple[str, int] = (GROUP, PORT), clock: Clock = SYSTEM_CLOCK, interfaces: bool = True
) -> list[DiscoveredDevice]:
    """Ask the local network for cameras, and wait for their answers.

    Args:
        wait_s: The time for which answers are collected, seconds.
        place: The address and port that the probe is sent to.
        clock: The monotonic clock.
        interfaces: Whether the probe is sent through every interface, or only through the system's default.

    Returns:
        The devices, sorted by address.

    Raises:
        StreamError: The probe cannot be sent.
    """
    message = f"urn:uuid:{uuid.uuid4()}"
    question = _PROBE.replace("{message}", message).encode()
    found: dict[str, DiscoveredDevice] = {}
    with ExitStack() as stack:
        sockets = [stack.enter_context(opened) for opened in _sockets(interfaces)]
        asked = [opened for opened in sockets if _sent(opened, question, place)]
        if not asked:
            raise StreamError("discovery failed: no message can be sent to the local network", "Check the network connection.")
        for data, address in _answers(asked, clock, wait_s):
            device = read_answer(data, address, message)
            if device is not None and len(found) < MAX_DEVICES:
                found.setdefault(device.id or address, device)
    return sorted(found.values(), key=lambda device: (_sortable(device.address), device.id))


def read_answer(data: bytes, address: str, message: str) -> DiscoveredDevice | None:
    """Return the device in a datagram; None if it holds none, or does not answer our message with this identifier."""
    reader = _AnswerReader()
    try:
        reader.parse(data)
    except (expat.ExpatError, ValueError):
        return None
    if reader.text("RelatesTo") != message or "ProbeMatches" not in reader.seen:
        return None
    scopes: dict[str, str] = {}
    for word in reader.text("Scopes").split():
        kind, _, value = word.removeprefix(_SCOPE).partition("/")
        if word.startswith(_SCOPE):
            scopes.setdefault(kind.lower(), printable(unquote(value))[:_MAX_TEXT])
    services = tuple(redact(url)[:_MAX_TEXT] for url in reader.text("XAddrs").split() if _host(url))
    endpoint = printable(reader.text("Address"))[:_MAX_TEXT]
    name, hardware, location = (scopes.get(kind, "") for kind in ("name", "hardware", "location"))
    return DiscoveredDevice(address, name, hardware, location, services[:8], endpoint)


class _AnswerReader:
    """Extracts the text of the relevant elements from an answer, whatever their namespace prefixes are."""

    _WANTED = frozenset({"RelatesTo", "Scopes", "XAddrs", "Address"})

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._texts: dict[str, list[str]] = {}
        self._open: list[str] = []

    def parse(self, data: bytes) -> None:
        """Parse a whole document.

        Raises:
            ValueError: It has a document type, or is nested too deep.
            ExpatError: It is not XML.
        """
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.StartDoctypeDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = lambda _: self._open.pop()
        parser.CharacterDataHandler = self._characters
        parser.Parse(data, True)

    def text(self, name: str) -> str:
        """Return the text of the first element of this name."""
        return "".join(self._texts.get(name, [])).strip()

    def _refuse(self, *_: object) -> None:
        raise ValueError("a document type is not allowed")

    def _start(self, name: str, _: object) -> None:
        local = name.rpartition(" ")[2]
        if len(self._open) > 32:
            raise ValueError("nested too deep")
        # Only the first of each element is used: not another device in the same answer, nor the sender's own address.
        counts = local in self._WANTED and local not in self.seen and (local != "Address" or "ProbeMatch" in self._open)
        self._open.append(local if counts or local not in self._WANTED else "")
        if local != "Address" or counts:
            self.seen.add(local)

    def _characters(self, text: str) -> None:
        if self._open and self._open[-1] in self._WANTED:
            self._texts.setdefault(self._open[-1], []).append(text)


def _sockets(interfaces: bool) -> Iterator[socket.socket]:
    """Yield a socket for the system's default interface, and one for each interface."""
    yield _socket(None)
    if not interfaces:
        return
    with suppress(OSError):
        for index, _ in socket.if_nameindex():
            with suppress(OSError):
                yield _socket(index)


def _socket(interface: int | None) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
        if interface is not None:
            # struct ip_mreqn: group, address, index (ip(7))
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), interface))
    except OSError:
        opened.close()
        raise
    return opened


def _sent(sender: socket.socket, question: bytes, place: tuple[str, int]) -> bool:
    try:
        return sender.sendto(question, place) == len(question)
    except OSError:
        return False


def _answers(sockets: list[socket.socket], clock: Clock, wait_s: float) -> Iterator[tuple[bytes, str]]:
    until = clock.monotonic_ns() + round(wait_s * _SECOND)
    counts: Counter[str] = Counter()
    while True:
        left = (until - clock.monotonic_ns()) / _SECOND
        readable = select.select(sockets, [], [], max(0.0, left))[0] if left > 0 else []
        if not readable:
            return
        for ready in readable:
            with suppress(OSError):
                data, (address, _) = ready.recvfrom(DATAGRAM_BYTES)
                counts[address] += 1
                if counts[address] <= MAX_PER_ADDRESS:
                    yield data, address


def _host(url: str) -> str:
    """Return the host of a web address; empty if it is not one."""
    try:
        parts = urlsplit(url)
        return (parts.hostname or "") if parts.scheme in ("http", "https") else ""
    except ValueError:
        return ""


def _sortable(address: str) -> int:
    try:
        return int(ipaddress.ip_address(address))
    except ValueError:
        return 0
