"""The user names and passwords of cameras by host, so that URLs need none.

credentials:
  - match: 10.0.5.0/24
    user: viewer
    password: file:/run/secrets/cameras
  - match: "*.gate.example.org"
    user: viewer
    password: ${GATE_PASSWORD}

The host of a URL is compared as it is written: names are not resolved, so a network matches addresses only, and a name server
cannot choose the receiver of a password.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import quote

from pydantic import AfterValidator, Field, SecretStr

from vision_infer.config.settings_base import SettingsBase
from vision_infer.config.stream_url import PROTOCOLS, address_of, split_url

_HOST_NAME = re.compile(r"(?:\*\.)?(?!-)(?:[a-z0-9_-]+\.)*[a-z0-9_-]*[a-z_][a-z0-9_-]*")
"""The last label contains a letter: otherwise it is an invalid address."""
_NETWORK = re.compile(r"[0-9A-Fa-f:.]+/\d+")
_SHORT_ADDRESS = re.compile(r"\w+(?:\.\w+){0,2}")
"""``10.0.5`` is an address for resolvers, but here more probably an incomplete network."""
_KINDS = frozenset({"rtsp", "http"})
"""The kinds of protocols with authentication that all our clients support."""


def _host_or_network(text: str) -> str:
    """Return the canonical form."""
    if _NETWORK.fullmatch(text):
        try:
            return str(ipaddress.ip_network(text))
        except ValueError:
            raise ValueError("is not a valid network; write CIDR with zero host bits, such as 10.0.5.0/24") from None
    name = text.lower().removeprefix("[").removesuffix("]").removesuffix(".")
    address = address_of(name)
    if address is not None and not _SHORT_ADDRESS.fullmatch(name):
        return str(address).partition("%")[0]
    if address is not None or not _HOST_NAME.fullmatch(name):
        raise ValueError("must be a host name, *.DOMAIN, an address or a network, without a scheme, port or path")
    return name


class CameraCredentials(SettingsBase):
    """The user name and password for the cameras of one host, domain or network."""

    match: Annotated[str, AfterValidator(_host_or_network)] = Field(
        min_length=1,
        max_length=255,
        description="The host in the URL: a name such as `gate.example.org`, all names of a domain (`*.example.org`), an "
        "address, or a network (CIDR) such as 10.0.5.0/24. Names are not resolved: a network matches addresses only.",
    )
    user: str = Field(min_length=1, max_length=255, description="The user name.")
    password: SecretStr = Field(min_length=1, max_length=1024, description="The password.")

    def matches(self, host: str) -> bool:
        """Return whether the host of a URL matches."""
        address = address_of(host)
        if address is not None:
            try:
                return address in ipaddress.ip_network(self.match)
            except ValueError:  # a name
                return False
        name = host.lower().removesuffix(".")
        return name.endswith(self.match[1:]) if self.match.startswith("*.") else name == self.match


def _without_duplicates(entries: tuple[CameraCredentials, ...]) -> tuple[CameraCredentials, ...]:
    first: dict[str, int] = {}
    for number, entry in enumerate(entries):
        if first.setdefault(entry.match, number) != number:
            raise ValueError(f"{number}.match: is the same as in entry {first[entry.match]}; only the first would be used")
    return entries


CredentialList = Annotated[tuple[CameraCredentials, ...], AfterValidator(_without_duplicates)]


def credentials_for(url: str, entries: Sequence[CameraCredentials]) -> CameraCredentials | None:
    """Return the first entry for the host of a URL.

    Returns:
        None if there is none, if the URL contains a user name itself, or if its protocol is not RTSP or HTTP.
    """
    try:
        parts = split_url(url)
    except ValueError:
        return None
    protocol = PROTOCOLS.get(parts.scheme)
    if parts.user or not parts.host or protocol is None or protocol.kind not in _KINDS:
        return None
    return next((entry for entry in entries if entry.matches(parts.host)), None)


def with_login(url: str, entries: Sequence[CameraCredentials]) -> str:
    """Return a URL with the user name and password of the entry for its host, for a client that reads them from the URL.

    The result contains a secret, and is only passed to the client that opens the connection.
    """
    entry = credentials_for(url, entries)
    if entry is None:
        return url
    scheme, _, rest = url.partition("://")
    user, password = quote(entry.user, safe=""), quote(entry.password.get_secret_value(), safe="")
    return f"{scheme}://{user}:{password}@{rest.removeprefix('@')}"
