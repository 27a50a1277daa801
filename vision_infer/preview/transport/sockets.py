"""Binds the sockets of the shared port."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vision_infer.config.preview import PreviewSettings
from vision_infer.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Sockets:
    """A UDP socket and a listening TCP socket with the same port."""

    udp: socket.socket
    tcp: socket.socket

    @property
    def host(self) -> str:
        """The address; unspecified if they receive on all addresses of the machine."""
        return str(self.tcp.getsockname()[0])

    @property
    def own_machine(self) -> bool:
        """Whether UDP receives on all IPv4 addresses, but from this machine only; see :func:`bind`."""
        return str(self.udp.getsockname()[0]) == "0.0.0.0" != self.host

    @property
    def number(self) -> int:
        """The port."""
        return int(self.udp.getsockname()[1])

    @property
    def shown(self) -> str:
        """The address and port for people."""
        host = "all addresses of this machine" if self.host in ("0.0.0.0", "::") else self.host
        return f"port {self.number} (UDP and TCP) of {host}"


@contextmanager
def bind(settings: PreviewSettings, host: str) -> Iterator[Sockets | None]:
    """Bind the port until the context ends; return None if each viewer gets a separate port, or there is no preview.

    The port listens on the host of the web server. If that is a loopback address and ``preview.addresses`` is set, for example
    behind a reverse proxy, it listens on all addresses.

    On an IPv4 loopback address, UDP also receives what viewers on this machine send to its other addresses, for Firefox: it
    uses no loopback addresses, as RFC 8445 demands in section 5.1.1.1 (https://github.com/seemk/WebUDP/issues/16).

    Args:
        settings: The settings of the preview.
        host: The address or name that the web server listens on.

    Raises:
        UsageError: The port is in use or not allowed.
    """
    if not settings.enabled or settings.port == 0:
        yield None
        return
    sockets = _bind(settings, host)
    try:
        yield sockets
    finally:
        sockets.udp.close()
        sockets.tcp.close()


def _bind(settings: PreviewSettings, host: str) -> Sockets:
    where = f"preview.port: cannot listen on {host}, port {settings.port} (UDP and TCP)"
    family: int
    try:
        family, _, _, _, address = socket.getaddrinfo(host, settings.port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{where}: unknown host", "Set service.host to an address of this machine.") from error
    if settings.addresses and ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        family, address = _everywhere(settings.port)
    udp, tcp = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_STREAM)
    try:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            for one in (udp, tcp):
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        tcp.bind(address)
        # Linux reports the address that a packet was sent to, and drops packets from the network with a source on this machine.
        own_machine = sys.platform == "linux" and str(address[0]).startswith("127.")
        udp.bind(("0.0.0.0", settings.port) if own_machine else address)
        tcp.listen()
    except OSError as error:
        udp.close()
        tcp.close()
        why = {errno.EADDRINUSE: "the port is in use", errno.EACCES: "permission denied"}.get(error.errno or 0)
        raise UsageError(
            f"{where}: {why or error.strerror or error}",
            "Set preview.port to a free port above 1023, or to 0 for a random UDP port per viewer.",
        ) from error
    return Sockets(udp, tcp)


def _everywhere(port: int) -> tuple[int, tuple[str, int] | tuple[str, int, int, int]]:
    if socket.has_dualstack_ipv6():
        return socket.AF_INET6, ("::", port, 0, 0)
    return socket.AF_INET, ("0.0.0.0", port)
