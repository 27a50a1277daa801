"""One request for a file, or for the rest of it, over HTTP; proxies are taken from the usual environment variables."""

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
_WAIT_MOST_S = 60.0


class FetchError(Exception):
    """Something went wrong on the way to a file.

    Args:
        message: what, without the name of the file.
        again: whether to try again is of use.
        offline: whether it was not reached at all.
        wait_s: what the server asks to be waited before.
    """

    def __init__(self, message: str, again: bool = False, offline: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.again = again
        self.offline = offline
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered; its body is read from ``body``, to be closed."""

    body: http.client.HTTPResponse
    start: int
    """the place in the file at which the body begins, bytes"""
    total: int | None
    """size of the whole file, bytes; None where it is not told"""
    validator: str
    """what tells this version of the file from others, for ``If-Range``; empty where nothing does"""

    def read(self) -> bytes:
        """What has come, at most 64 KiB, at the end nothing.

        Raises:
            FetchError: the connection broke, or nothing came within the time-out.
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
            raise FetchError(f"was sent on from {before}:// to {scheme}://, which is refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def ask(url: str, start: int, validator: str, timeout_s: float) -> Answer:
    """Ask for a file from a place on.

    Args:
        url: http or https.
        start: bytes that are there already; 0: all is asked for.
        validator: of the version that they are of; without one all is asked for.
        timeout_s: for connecting, and for each wait.

    Returns:
        The answer; it begins at 0 where the server does not resume, or has another version now.

    Raises:
        FetchError: says what went wrong, and whether trying again is of use.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise FetchError("is no address of the web")
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
        return _answer(response)
    except BaseException:
        response.close()
        raise


def shown(url: str) -> str:
    """A URL as it is shown: without user, password and parameters."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _answer(response: Any) -> Answer:
    headers = response.headers
    encoding = headers.get("Content-Encoding", "identity")
    if encoding not in ("identity", ""):
        raise FetchError(f"came compressed ({encoding}), though it was asked for as it is")
    if headers.get("Content-Type", "").startswith("text/html"):
        raise FetchError("a web page came in its place: a page to sign in perhaps, of its server or of your network")
    length = headers.get("Content-Length", "")
    size = int(length) if length.isdecimal() else None
    validator = headers.get("ETag", "")
    if not validator or validator.startswith("W/"):  # If-Range takes strong ones only
        validator = headers.get("Last-Modified", "")
    if response.status != 206:
        return Answer(response, 0, size, validator)
    match = _RANGE.fullmatch(headers.get("Content-Range", ""))
    if match is None:
        raise FetchError("the server sent a part, and does not say which", again=True)
    first, last, total = (int(number) for number in match.groups())
    if size not in (None, last + 1 - first):
        raise FetchError("the server contradicts itself: the part that it sends is not as long as it says", again=True)
    if last + 1 != total:
        raise FetchError("the server sent another part than was asked for", again=True)
    return Answer(response, first, total, validator)


def _refused(error: urllib.error.HTTPError) -> FetchError:
    status = error.code
    if 300 <= status < 400:
        return FetchError(f"was sent on more than {MAX_REDIRECTS} times, in a circle, or to what is no web address")
    if status in (404, 410):
        return FetchError(f"the server has no such file ({status}); it was moved perhaps")
    if status in (401, 403, 407):
        return FetchError(f"the {'proxy' if status == 407 else 'server'} refused it ({status})")
    if status == 416:
        return FetchError("the server's file is shorter than what is here (416)", again=True)
    if status in _AGAIN_STATUSES:
        asked = error.headers.get("Retry-After", "")
        wait_s = min(float(asked), _WAIT_MOST_S) if asked.isdecimal() else 0.0
        return FetchError(f"the server failed ({status})", again=True, wait_s=wait_s)
    return FetchError(f"the server refused it ({status})")


def _explained(error: Exception) -> FetchError:
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return FetchError(f"its server's certificate is not valid here ({reason.verify_message})")
    if isinstance(reason, socket.gaierror):
        return FetchError("its host is not known here", offline=True)
    if isinstance(reason, TimeoutError):
        return FetchError("nothing came within the time-out", again=True)
    if isinstance(reason, OSError) and reason.errno in _OFFLINE:
        return FetchError(f"its host cannot be reached ({(reason.strerror or '').lower()})", offline=True)
    if isinstance(reason, OSError) and "Tunnel connection failed" in str(reason):
        return FetchError(f"the proxy refused it ({str(reason).rpartition(': ')[2]})")
    if isinstance(error, OSError | http.client.HTTPException):
        return FetchError("the connection broke", again=True)
    return FetchError(f"its address cannot be meant ({reason})")
