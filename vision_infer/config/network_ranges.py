"""Networks that URLs may lead to. Names of hosts are looked up by whoever connects; here stand the rules for addresses."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def address_of(host: str) -> Address | None:
    """The address that a host is written as, in every form that resolvers take: ``127.1``, ``0x7f000001``, ``2130706433``.

    Returns:
        None where it is a name. An IPv4 address that is written as IPv6 is the former.
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
    """Whether an address lies in one of the networks; always where there are none.

    Args:
        address: as :func:`address_of` gives it.
        networks: CIDR, as of ``service.allow_networks``.
    """
    return not networks or any(address in ipaddress.ip_network(network) for network in networks)
