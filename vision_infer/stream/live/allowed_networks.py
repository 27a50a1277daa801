"""Which hosts a URL may lead to, where that is limited: so that whoever may add a camera cannot reach what is not for them.

A name is resolved here, once, and the connection goes to the address that was looked at: a name server cannot give another
answer later. Over the web every redirect and every entry of a playlist takes the same way
(``guarded_http``). FFmpeg itself connects for RTSP, RTMP and SRT; it is given the address in place of the
name. An RTSP server may still answer with a redirect, which FFmpeg follows without asking: a camera in an allowed network can so
make us send RTSP requests to another host.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit, urlunsplit

from vision_infer.config.protocols import PROTOCOLS
from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.stream.redact import redact


def allowed_address(url: str, networks: tuple[str, ...]) -> str:
    """The address of a URL's host, if it is in one of the networks.

    Args:
        url: with a host.
        networks: in CIDR notation, of IPv4 or IPv6.

    Raises:
        RefusedError: it is in none of them, or the URL has no host.
        StreamError: the host is not known.
    """
    shown = redact(url)
    try:
        parts = urlsplit(url)
        protocol = PROTOCOLS.get(parts.scheme.lower())
        host, port = parts.hostname, parts.port or (protocol.port if protocol else 0)
    except ValueError:
        host, port = None, 0
    if not host:
        raise RefusedError(f"{shown}: has no host, or one that cannot be read", "check the URL")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise StreamError(f"{shown}: its host is not known", "check the name, and the DNS of this machine") from None
    allowed = [ipaddress.ip_network(network, strict=False) for network in networks]
    for *_, address in found:
        if any(_plain(str(address[0])) in network for network in allowed):
            return str(address[0])
    raise RefusedError(f"{shown}: leads outside the networks that are allowed", f"allowed: {', '.join(networks)}")


def with_address(url: str, address: str) -> str:
    """The URL with an address in place of its host's name; all else stays."""
    parts = urlsplit(url)
    credentials, at, place = parts.netloc.rpartition("@")
    port = place[place.index("]") + 1 :] if place.startswith("[") else place[len(place.partition(":")[0]) :]
    host = f"[{address}]" if ":" in address else address
    return urlunsplit(parts._replace(netloc=f"{credentials}{at}{host}{port}"))


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An IPv4 address that is written as an IPv6 one is one."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed
