"""Limits the hosts that a URL may lead to, so that a user who may add cameras cannot reach other hosts through this service.

A host name is resolved once, here, and the connection goes to the address that was checked; so a name server cannot return
another address later (DNS rebinding). Over HTTP, each redirect and each entry of a playlist is checked in the same way
(:mod:`vision_infer.stream.live.guarded_http`). For RTSP, RTMP and SRT, FFmpeg connects itself, and receives the address in place
of the host name. The redirects of an RTSP server are checked as well; if FFmpeg reads the camera (``ingest``), they are refused,
because RTSP is not in the list of protocols that FFmpeg may open.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit, urlunsplit

from vision_infer.config.stream_url import PROTOCOLS
from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.stream.redact import redact


def allowed_address(url: str, networks: tuple[str, ...]) -> str:
    """Return the address of a URL's host if it is in one of the networks.

    Args:
        url: A URL with a host.
        networks: The allowed networks in CIDR notation, IPv4 or IPv6.

    Raises:
        RefusedError: The address is in none of them, or the URL has no host.
        StreamError: The host name cannot be resolved.
    """
    shown = redact(url)
    try:
        parts = urlsplit(url)
        protocol = PROTOCOLS.get(parts.scheme.lower())
        host, port = parts.hostname, parts.port or (protocol.port if protocol else 0)
    except ValueError:
        host, port = None, 0
    if not host:
        raise RefusedError(f"{shown}: no host, or an invalid one", "Check the URL.")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise unknown_host(url) from None
    allowed = [ipaddress.ip_network(network, strict=False) for network in networks]
    for *_, address in found:
        if any(_plain(str(address[0])) in network for network in allowed):
            return str(address[0])
    raise RefusedError(f"{shown}: the host is outside the allowed networks", f"allowed: {', '.join(networks)}")


def unknown_host(url: str) -> StreamError:
    """Return the error for a host name that cannot be resolved."""
    hint = "Check the host name and the DNS settings of this machine."
    return StreamError(f"{redact(url)}: the host name cannot be resolved", hint)


def with_address(url: str, address: str) -> str:
    """Return the URL with an address in place of its host name."""
    parts = urlsplit(url)
    credentials, at, place = parts.netloc.rpartition("@")
    port = place[place.index("]") + 1 :] if place.startswith("[") else place[len(place.partition(":")[0]) :]
    host = f"[{address}]" if ":" in address else address
    return urlunsplit(parts._replace(netloc=f"{credentials}{at}{host}{port}"))


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Convert an IPv4-mapped IPv6 address to IPv4."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed
