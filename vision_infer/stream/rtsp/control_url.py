"""The URLs of RTSP requests, from what a server returns (RFC 2326, appendix C.1.1).

A URL of a server is only text in a request on the connection that is already open: no host in it is resolved or connected to.
User names and passwords in it are removed.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from vision_infer.stream.rtsp.message import RtspHeaders

_ABSOLUTE = re.compile(r"(?i)rtsps?://[^\s]+")
_DOUBLED = re.compile(r"(?i)^rtsps?://(?=rtsps?://)")
_CREDENTIALS = re.compile(r"(?<=://)[^/?#]*@")
_USABLE = re.compile(r"[^\s\x00-\x1f\x7f]{1,2048}")


def without_credentials(url: str) -> str:
    """Return the URL without a user name and a password."""
    return _CREDENTIALS.sub("", url)


def split_credentials(url: str) -> tuple[str, str, str]:
    """Return a URL without its credentials, the user name, and the password."""
    credentials, at, _ = urlsplit(url).netloc.rpartition("@")
    user, _, password = credentials.partition(":") if at else ("", "", "")
    return without_credentials(url), unquote(user), unquote(password)


def redirect_target(location: str) -> str:
    """Return the URL of a ``Location`` header without credentials; empty if it is not an RTSP URL with a valid host and port."""
    url = without_credentials(location)
    if not _ABSOLUTE.fullmatch(url) or not _USABLE.fullmatch(url):
        return ""
    try:
        parts = urlsplit(url)
        return url if parts.hostname and parts.port != 0 else ""
    except ValueError:
        return ""


def base_url(headers: RtspHeaders, request_url: str) -> str:
    """Return the base of relative URLs: ``Content-Base``, ``Content-Location``, or the URL of the request, in this order.

    Args:
        headers: The headers of the response to ``DESCRIBE``.
        request_url: The URL of that request.
    """
    for name in ("content-base", "content-location"):
        value = headers.get(name)
        if value:
            # Some cameras write the scheme twice: https://github.com/AlexxIT/go2rtc/issues/208
            value = _DOUBLED.sub("", value)
            # Others leave it out: https://github.com/scottlamb/moonfire-nvr/issues/356
            if "://" not in value and not value.startswith("/"):
                value = f"{urlsplit(request_url).scheme}://{value}"
            if _ABSOLUTE.fullmatch(value) and _USABLE.fullmatch(value):
                return without_credentials(value)
    return request_url


def joined(base: str, control: str | None) -> str:
    """Return the URL of a control attribute.

    A relative one is appended to the base, as live555 and FFmpeg do and cameras expect, even if the base has a query or does not
    end with a slash. See https://github.com/scottlamb/retina/issues/9.

    Args:
        base: The base URL.
        control: The value of the attribute; None if it is missing.
    """
    if control is None or control in ("", "*") or not _USABLE.fullmatch(control):
        return base
    if _ABSOLUTE.fullmatch(control):
        return without_credentials(control)
    # Not two slashes: https://github.com/AlexxIT/go2rtc/issues/1236
    return f"{base.rstrip('/')}/{control.lstrip('/')}"
