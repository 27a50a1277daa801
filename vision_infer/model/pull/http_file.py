"""One HTTP request for a file or the rest of it; proxies come from the standard environment variables."""

from __future__ import annotations

import email.message
import errno
import http.client
import re
import socket
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

MAX_REDIRECTS = 5
_AGAIN_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_OFFLINE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ECONNREFUSED})
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_MAX_WAIT_S = 60.0


class FetchError(Exception):
    """A failed request.

    Args:
        message: The reason, without the name of the file.
        again: Whether another attempt may succeed.
        offline: Whether the server was not reached.
        wait_s: The time that the server asks to wait, in seconds.
    """

    def __init__(self, message: str, again: bool = False, offline: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.again = again
        self.offline = offline
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class HttpBody:
    """The response of a server, whose ``body`` the caller closes."""

    body: http.client.HTTPResponse
    start: int
    """The position in the file at which the body begins, in bytes."""
    total: int | None
    """The size of the complete file, in bytes; None if unknown."""
    validator: str
    """The validator of this version of the file, for ``If-Range``; empty if there is none."""

    def read(self) -> bytes:
        """Return the next bytes, at most 64 KiB; empty at the end.

        Raises:
            FetchError: The connection broke, or no data arrived within the time-out.
        """
        try:
            return self.body.read1(65536)
        except (OSError, http.client.HTTPException) as error:
            raise _explained(error) from None


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS
    max_repeats = 2

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: email.message.Message
    ) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)  # type: ignore[arg-type]
        except BaseException:
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: email.message.Message, newurl: str
    ) -> urllib.request.Request | None:
        scheme, before = urlsplit(newurl).scheme, urlsplit(req.full_url).scheme
        if scheme not in ("http", "https") or (before == "https" and scheme != "https"):
            raise FetchError(f"redirected from {before}:// to {scheme}://, which is refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def ask(url: str, start: int, validator: str, timeout_s: float) -> HttpBody:
    """Request a file from a position on.

    Args:
        url: The URL, http or https.
        start: The number of bytes that exist already.
        validator: The validator of their version; without one, the complete file is requested.
        timeout_s: The time-out for connecting and for each read, in seconds.

    Returns:
        The response; it begins at 0 if the server cannot resume, or has another version.

    Raises:
        FetchError: The request failed.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise FetchError("not an http or https URL")
    headers = {"User-Agent": "vision-infer", "Accept-Encoding": "identity"}
    if start and validator:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    opener = urllib.request.build_opener(_Redirects())
    try:
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        raise _refused(error) from None
    except FetchError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _explained(error) from None
    try:
        return _parse_response(response)
    except BaseException:
        response.close()
        raise


def shown(url: str) -> str:
    """Return a URL for display, without user, password and parameters."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _parse_response(response: Any) -> HttpBody:
    headers = response.headers
    encoding = headers.get("Content-Encoding", "identity")
    if encoding not in ("identity", ""):
        raise FetchError(f"the server sent compressed data ({encoding}), which was not requested")
    if headers.get("Content-Type", "").startswith("text/html"):
        raise FetchError("the server sent a web page instead of the file, perhaps a sign-in page")
    length = headers.get("Content-Length", "")
    size = int(length) if length.isdecimal() else None
    validator = headers.get("ETag", "")
    if not validator or validator.startswith("W/"):  # If-Range accepts strong validators only
        validator = headers.get("Last-Modified", "")
    if response.status != 206:
        return HttpBody(response, 0, size, validator)
    match = _RANGE.fullmatch(headers.get("Content-Range", ""))
    if match is None:
        raise FetchError("the server sent a part without saying which", again=True)
    first, last, total = (int(number) for number in match.groups())
    if size not in (None, last + 1 - first):
        raise FetchError("the length of the part differs from the range that the server announced", again=True)
    if last + 1 != total:
        raise FetchError("the server sent another part than requested", again=True)
    return HttpBody(response, first, total, validator)


def _refused(error: urllib.error.HTTPError) -> FetchError:
    status = error.code
    if 300 <= status < 400:
        return FetchError(f"more than {MAX_REDIRECTS} redirects, a redirect loop, or an invalid redirect")
    if status in (404, 410):
        return FetchError(f"the file does not exist on the server ({status}); it may have been moved")
    if status in (401, 403, 407):
        return FetchError(f"the {'proxy' if status == 407 else 'server'} refused the request ({status})")
    if status == 416:
        return FetchError("the server's file is shorter than the existing part (416)", again=True)
    if status in _AGAIN_STATUSES:
        asked = error.headers.get("Retry-After", "")
        wait_s = min(float(asked), _MAX_WAIT_S) if asked.isdecimal() else 0.0
        return FetchError(f"the server failed ({status})", again=True, wait_s=wait_s)
    return FetchError(f"the server refused the request ({status})")


def _explained(error: Exception) -> FetchError:
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return FetchError(f"the server's certificate is not valid ({reason.verify_message})")
    if isinstance(reason, socket.gaierror):
        return FetchError("the host name cannot be resolved", offline=True)
    if isinstance(reason, TimeoutError):
        return FetchError("no data arrived within the time-out", again=True)
    if isinstance(reason, OSError) and reason.errno in _OFFLINE:
        return FetchError(f"the host cannot be reached ({(reason.strerror or '').lower()})", offline=True)
    if isinstance(reason, OSError) and "Tunnel connection failed" in str(reason):
        return FetchError(f"the proxy refused the request ({str(reason).rpartition(': ')[2]})")
    if isinstance(error, OSError | http.client.HTTPException):
        return FetchError("the connection broke", again=True)
    return FetchError(f"the URL is invalid ({reason})")
