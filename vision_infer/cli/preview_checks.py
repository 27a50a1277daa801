"""The checks of live video in ``vision-infer doctor``: whether packets of viewers reach the service. They never raise."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from vision_infer.cli.service_client import ServiceClient
from vision_infer.core.clock import SYSTEM_CLOCK
from vision_infer.core.errors import UsageError, VisionInferError
from vision_infer.core.finding import Finding

if TYPE_CHECKING:
    from vision_infer.config.serve import ServeSettings
    from vision_infer.preview.transport.reachability import Announced, ReachabilityCheck
    from vision_infer.preview.transport.sockets import Sockets

CHECKS_AT_ONCE = 16
ARRIVE_S = 0.5
"""The time in which a packet of this machine must arrive, in seconds."""

MAX_STRAYS = 100
"""The maximum number of packets and connections of other programs before that of the check."""


def check_port(settings: ServeSettings, token: str | None) -> Iterator[Finding]:
    """Check the preview port: that of the service that runs with these settings, or whether it can be bound and receives.

    Args:
        settings: The settings of the service.
        token: The token for a running service. Defaults to that of the settings.
    """
    from vision_infer.preview.transport.sockets import bind

    preview, service = settings.preview, settings.service
    if not preview.enabled:
        yield Finding("preview", "note", "live video is disabled (preview.enabled)")
        return
    if preview.port == 0:
        text = "each viewer uses a random UDP port, and browsers without UDP get no live video (preview.port is 0)"
        yield Finding("preview", "note", text, "Set preview.port to use one port, over UDP and TCP.")
        return
    with ExitStack() as bound:
        try:
            sockets = bound.enter_context(bind(preview, service.host))
        except UsageError as error:
            yield from _check_user_of_port(settings, token, error)
            return
        if sockets is not None:
            yield from _check_addresses(preview.addresses, sockets)


def _check_user_of_port(settings: ServeSettings, token: str | None, error: UsageError) -> Iterator[Finding]:
    service = settings.service
    if token is None and service.token is not None:
        token = service.token.get_secret_value()
    host = "127.0.0.1" if service.host in ("0.0.0.0", "::") else service.host
    if service.tls is not None:  # its certificate is not for this address
        hint = f"If it is the service: vision-infer doctor --preview https://HOST:{service.port}"
        yield Finding("preview", "note", f"port {settings.preview.port} is in use", hint)
        return
    client = ServiceClient(f"http://{f'[{host}]' if ':' in host else host}:{service.port}", token, "service.port")
    if client.is_alive():
        yield Finding("preview", "ok", f"port {settings.preview.port} is in use by the service at {client.url}")
        yield from check_service(client)
    else:
        yield Finding("preview", "error", error.message, error.hint)


def _check_addresses(configured: tuple[str, ...], sockets: Sockets) -> Iterator[Finding]:
    """Check the addresses that browsers would use: with packets of this machine, and for whom they are valid."""
    from vision_infer.preview.transport.addresses import Addresses

    found = [] if configured else asyncio.run(Addresses((), sockets.host, SYSTEM_CLOCK).current())
    for name in configured:
        addresses = _resolved(name)
        if not addresses:
            yield Finding(
                "preview", "error", f"preview.addresses: {name} cannot be resolved", "Correct the name, or use an address."
            )
        found += addresses
    kinds = {address: _kind(address) for address in found}
    for address, kind in kinds.items():
        missing = [name for name, arrives in (("UDP", _udp_arrives), ("TCP", _tcp_arrives)) if not arrives(address, sockets)]
        text = f"browsers would use {address}, port {sockets.number} ({kind})"
        facts = {"address": address, "port": sockets.number, "kind": kind, "missing": missing}
        if missing:
            hint = "This is normal for the public address of a NAT. Check that it forwards the port."
            yield Finding(
                "preview", "warning", f"{text}: no packet of this machine arrives over {' and '.join(missing)}", hint, facts
            )
        else:
            yield Finding("preview", "ok", f"{text}: packets of this machine arrive", facts=facts)
    if found and set(kinds.values()) == {"loopback"}:
        hint = "For other machines, set service.host to an address of this machine; this requires a token."
        yield Finding("preview", "note", "only browsers on this machine get live video", hint)
    elif found:
        text = "firewalls between this machine and browsers are not tested"
        if "public" not in kinds.values():
            text += ", and browsers in other networks cannot reach private addresses (see preview.addresses)"
        yield Finding("preview", "note", text, "On another machine, run: vision-infer doctor --preview http://SERVER:PORT")


def _resolved(name: str) -> list[str]:
    try:
        return [str(answer[4][0]) for answer in socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)]
    except (OSError, UnicodeError):
        return []


def _kind(address: str) -> str:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return "loopback" if parsed.is_loopback else "public" if parsed.is_global else "private"


def _udp_arrives(address: str, sockets: Sockets) -> bool:
    nonce = secrets.token_bytes(16)
    sockets.udp.settimeout(ARRIVE_S)
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(nonce, (address, sockets.number))
        return any(sockets.udp.recv(2048) == nonce for _ in range(MAX_STRAYS))
    except OSError:
        return False


def _tcp_arrives(address: str, sockets: Sockets) -> bool:
    sockets.tcp.settimeout(ARRIVE_S)
    try:
        with socket.create_connection((address, sockets.number), ARRIVE_S) as client:
            for _ in range(MAX_STRAYS):
                accepted, peer = sockets.tcp.accept()
                accepted.close()
                if peer[1] == client.getsockname()[1]:
                    return True
    except OSError:
        pass
    return False


def check_service(client: ServiceClient) -> Iterator[Finding]:
    """Open a session of a running service as a browser would, and send a request to each address that it announces."""
    from vision_infer.preview.transport.reachability import ReachabilityCheck

    viewer = ReachabilityCheck()
    try:
        streams = client.ask("/api/v1/streams")
        if not isinstance(streams, list):
            raise VisionInferError(f"{client.url}: is not a vision-infer service", f"Check {client.option}.")
        live = [stream["name"] for stream in streams if (stream["status"] or {}).get("state") == "live"]
        if not live:
            yield Finding("preview", "warning", f"{client.url}: no stream is live, so live video cannot be tested", "Try again.")
            return
        path = f"/api/v1/streams/{quote(live[0], safe='')}/whep"
        answer, headers = client.send("POST", path, viewer.offer().encode(), "application/sdp")
        session = f"{path}/{headers.get('Location', '').rpartition('/')[2]}"
        try:
            announced = viewer.read(answer.decode())
            results = _check_all(viewer, announced)
            arrived = client.ask(session).get("checks", 0) if announced else 0
        finally:
            client.send("DELETE", session)
    except VisionInferError as error:
        yield Finding("preview", "error", f"live video cannot be tested: {error.message}", error.hint)
        return
    for one, result in zip(announced, results, strict=True):
        text = f"{one.protocol.upper()} {one}"
        facts = {"protocol": one.protocol, "address": one.address, "port": one.port}
        if isinstance(result, float):
            facts["seconds"] = result
            yield Finding("preview", "ok", f"{text} answers after {result * 1000:.1f} ms", facts=facts)
        else:
            yield Finding("preview", "note", f"{text}: {result}", facts=facts)
    yield _verdict(client, announced, results, arrived)


def _check_all(viewer: ReachabilityCheck, announced: list[Announced]) -> list[float | str]:
    """Return for each address the time until its answer in seconds, or why there was none."""

    def check(one: Announced) -> float | str:
        try:
            return viewer.check(one)
        except OSError as error:
            return error.strerror or str(error)

    with ThreadPoolExecutor(CHECKS_AT_ONCE) as pool:
        return list(pool.map(check, announced))


def _verdict(client: ServiceClient, announced: list[Announced], results: list[float | str], arrived: int) -> Finding:
    working = {one.protocol for one, result in zip(announced, results, strict=True) if isinstance(result, float)}
    if "udp" in working:
        return Finding(
            "preview", "ok", "browsers on this machine can play video over UDP; other machines may have other firewalls"
        )
    ports = sorted({one.port for one in announced})
    port = f"port {ports[0]}" if len(ports) == 1 else "the UDP ports"
    if working:
        text = "UDP does not reach the service: video plays over TCP, and lost packets delay it"
        return Finding("preview", "warning", text, f"Open {port} for UDP in the firewall of the service.")
    text = "browsers on this machine get no video over WebRTC: no announced address answers"
    if arrived:
        hint = f"{arrived} requests reached the service, but no answer came back. Allow outgoing packets from {port}."
        return Finding("preview", "error", text, hint)
    host = urlsplit(client.url).hostname or ""
    if host not in {one.address for one in announced}:
        hint = f"If none of them is an address of the service for this machine, set preview.addresses, such as [{host}]; "
        return Finding("preview", "error", text, f"{hint}else open {port} for UDP and TCP in its firewall.")
    return Finding("preview", "error", text, f"Open {port} for UDP and TCP in the firewall of the service.")
