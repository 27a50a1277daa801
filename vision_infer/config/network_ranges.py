"""Rules for the addresses that URLs may lead to. The code that connects resolves host names."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def address_of(host: str) -> Address | None:
    """Return the address of a numeric host, in every form that resolvers accept: ``127.1``, ``0x7f000001``, ``2130706433``.

    Returns:
        None if the host is a name. An IPv4-mapped IPv6 address becomes IPv4.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if not re.fullmatch(r"(?:0[xX][0-9a-fA-F]*|\d+)(?:\.(?:0[xX][0-9a-fA-F]*|\d+)){0,3}\.?", host):
            return None
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(host.rstrip(".")))
        except OSError:
            return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_allowed(address: Address, networks: Sequence[str]) -> bool:
    """Return whether an address is in one of the networks. Without networks, every address is allowed."""
    return not networks or any(address in ipaddress.ip_network(network) for network in networks)
