"""The protocols of streams, in one table, and the validation of stream URLs.

No message contains a part of the URL: any part of a mistyped URL may be its password.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import socket
from collections.abc import Collection
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Protocol:
    """What the URL checks, the live sources and the help texts need to know about a scheme."""

    kind: str
    """The name of the family: schemes of one kind are opened alike."""
    port: int = 0
    """The default port; 0 if there is none."""
    ffmpeg: str = ""
    """The FFmpeg protocols that the URL, its redirects and its playlists may use. Empty if FFmpeg does not open it."""
    tcp: bool = True
    """Whether the client connects over TCP, so that a probe can test the connection."""
    needs_host: bool = True
    """Whether the URL must name a host; an SRT listener has none."""
    live: bool = True
    """Whether a URL is always a camera, and never a file to download."""
    over_api: bool = True
    """Whether the service accepts it over the API by default."""


_WEB = "http,https,tcp,tls,crypto"

PROTOCOLS: dict[str, Protocol] = {
    "rtsp": Protocol("rtsp", 554, "rtp,udp,tcp"),
    "rtsps": Protocol("rtsp", 322, "rtp,srtp,udp,tcp,tls"),
    "http": Protocol("http", 80, _WEB, live=False),
    "https": Protocol("http", 443, _WEB, live=False),
    "rtmp": Protocol("rtmp", 1935, "rtmp,tcp"),
    "rtmps": Protocol("rtmp", 443, "rtmps,tls,tcp"),
    "srt": Protocol("srt", 9000, "srt,udp", tcp=False, needs_host=False),
    "test": Protocol("test", tcp=False, needs_host=False, live=False),
    "file": Protocol("file", tcp=False, needs_host=False, live=False, over_api=False),
}
"""By URL scheme. A stream can also be ``/dev/videoN`` or the path of a file."""


def schemes_over_api() -> tuple[str, ...]:
    """Return the schemes that the service accepts over the API by default."""
    return tuple(name for name, protocol in PROTOCOLS.items() if protocol.over_api)


def url_help() -> str:
    """Return the forms of a stream's URL, for help texts and errors."""
    return "".join(f"{name}://, " for name in PROTOCOLS if name != "file") + "/dev/video0, or a file"


_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>.*)", re.DOTALL)
_HOST = re.compile(r"(?:\[(?P<bracketed>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[^\[\]:@\s]*))(?::(?P<port>\d{1,5}))?")
_NO_SCHEME = re.compile(
    r"[^/\\:]+:[^/\\]*@|(?:rtsps?|https?|rtmps?|srt)/*[^/]*:.*@|\d{1,3}(\.\d{1,3}){3}(:\d+)?(/|$)|[\w.-]+:\d{2,5}(/|$)"
)
"""``user:password@…``, ``rtsp//user:password@…``, ``192.0.2.1/…``, ``camera:554/…``"""
_DEVICE = re.compile(r"/dev/video\d+")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f]")
_GENERIC = frozenset({"index", "playlist", "master", "stream", "live", "video", "media", "main", "sub", "mjpg"})
"""Last parts of URLs that many cameras share."""
_OBVIOUS_NAME = re.compile(r"(?![A-Za-z0-9]{16,}$)[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_MAX_NAME = 56
"""The maximum length of a name, which leaves space for a number. A longer part of a path may be a key."""


@dataclass(frozen=True, slots=True)
class UrlParts:
    """The parts of a URL, split as FFmpeg does it: the authority ends at the first ``/ ? #``, its user part at the last ``@``."""

    scheme: str
    """The scheme in lower case."""
    user: str = ""
    """``user:password`` as written; may be empty."""
    host: str = ""
    """The host without brackets; may be empty."""
    port: int | None = None
    rest: str = ""
    """The path, query and fragment."""

    def __repr__(self) -> str:
        return f"UrlParts({self.scheme})"


def split_url(url: str) -> UrlParts:
    """Split a URL. A path has the scheme ``file``, and ``/dev/videoN`` has the scheme ``dev``.

    Raises:
        ValueError: The host or the port is invalid.
    """
    match = _URL.fullmatch(url)
    if match is None:
        return UrlParts("dev" if _DEVICE.fullmatch(url) else "file", rest=url)
    scheme = match["scheme"].lower()
    if scheme in ("file", "test"):
        return UrlParts(scheme, rest=match["authority"] + match["rest"])
    user, _, place = match["authority"].rpartition("@")
    host = _HOST.fullmatch(place)
    if host is None or (host["port"] and not 0 < int(host["port"]) < 65_536):
        raise ValueError("has an invalid host or port; in a password, write @ as %40, / as %2F, : as %3A, # as %23, ? as %3F")
    port = int(host["port"]) if host["port"] else None
    return UrlParts(scheme, user, host["bracketed"] or host["host"], port, match["rest"])


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


def check_url(url: str) -> None:
    """Reject a URL that cannot be opened as a stream. Nothing is opened, and a file does not need to exist.

    Raises:
        ValueError: The URL is invalid; the message says why.
    """
    if _UNPRINTABLE.search(url) or not url.strip():
        raise ValueError("is empty or contains a control character")
    if url != url.strip():
        raise ValueError("begins or ends with a space")
    match = _URL.match(url)
    if match is None:
        before = url.partition(":")[0].lower()
        if ":" in url and before in PROTOCOLS:
            raise ValueError(f"needs two slashes after {before}:")
        if _NO_SCHEME.match(url):
            raise ValueError("looks like the address of a camera. Write rtsp:// before it.")
        if url.startswith("/dev/") and not _DEVICE.fullmatch(url):
            raise ValueError("is not the path of a camera. Write /dev/video0, /dev/video1 and so on.")
        return
    scheme = match["scheme"].lower()
    if scheme not in PROTOCOLS:
        near = [f"{name}://" for name in difflib.get_close_matches(scheme, PROTOCOLS, 3, 0.6)]
        raise ValueError(
            f"has an unknown scheme: did you mean {' or '.join(near)}?"
            if near
            else f"has an unknown scheme; the valid ones are {', '.join(PROTOCOLS)}"
        )
    parts = split_url(url)
    if " " in url and scheme not in ("file", "test"):
        raise ValueError("contains a space; write it as %20")
    if not parts.host and PROTOCOLS[scheme].needs_host:
        raise ValueError("has no host")
    if scheme == "file" and not parts.rest.startswith("/"):
        raise ValueError("is not a path. Write file:///path, or only the path.")


def is_camera(url: str) -> bool:
    """Return whether the URL is a camera or the test pattern, and never a file that has an end."""
    match = _URL.match(url)
    if match is None:
        return _DEVICE.fullmatch(url) is not None
    scheme = match["scheme"].lower()
    return scheme == "test" or (scheme in PROTOCOLS and PROTOCOLS[scheme].live)


def is_file(url: str) -> bool:
    """Return whether the URL is a file, which can be restarted at its end."""
    match = _URL.match(url)
    return _DEVICE.fullmatch(url) is None if match is None else match["scheme"].lower() == "file"


def name_of(url: str, taken: Collection[str] = ()) -> str:
    """Return a name for the stream of a URL: from the end of its path or from its host, and never from a possible secret."""
    try:
        parts = split_url(url)
    except ValueError:
        parts = UrlParts("stream")
    wanted = _names(parts)
    used = {name.casefold() for name in taken}
    for name in wanted:
        if name.casefold() not in used:
            return name
    number = 2
    while f"{wanted[0]}-{number}".casefold() in used:
        number += 1
    return f"{wanted[0]}-{number}"


def _names(parts: UrlParts) -> list[str]:
    if parts.scheme == "test":
        return ["test"]
    if parts.scheme in ("file", "dev"):
        leaf = parts.rest.replace("\\", "/").rstrip("/").rpartition("/")[2]
        # '@' or ':': a mistyped URL with a password
        return ["file" if re.search("[@:]", leaf) else _valid(leaf.rpartition(".")[0] or leaf) or "file"]
    host = _valid(parts.host) or parts.scheme
    path = re.split(r"[?#;]", parts.rest)[0].rstrip("/")
    leaf = path.rpartition("/")[2]
    stem = leaf.rpartition(".")[0] or leaf
    # Some cameras have user=…&password=… or a key in the path: only an obvious name is used. RTMP paths end with a stream key.
    if parts.scheme in ("rtmp", "rtmps") or not _OBVIOUS_NAME.fullmatch(stem) or "@" in parts.rest:
        return [host]
    both = _valid(f"{host}-{stem}") or host
    return [host, both] if stem.lower() in _GENERIC else [both] if stem.isdecimal() else [stem, both]


def _valid(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:_MAX_NAME]
