"""HTTP requests to one device, which is not trusted: its time, its sizes and its addresses are limited.

The host name is resolved and checked once, and every request goes to the address that was found, so the user name and the
password reach no other host. Redirects are not followed. Digest authentication is supported (RFC 7616), which ONVIF devices
offer; Basic authentication is not, because any device that answers a search could ask for it and read the password. As for RTSP,
TLS certificates are not verified, since cameras sign their own.
"""

from __future__ import annotations

import http.client
import secrets
import time
from email.message import Message
from urllib.parse import urlsplit

from vision_infer.core.errors import RefusedError, StreamError
from vision_infer.stream.limited_http import request_target, send
from vision_infer.stream.live.allowed_networks import allowed_address
from vision_infer.stream.live.rtsp_sockets import unreachable
from vision_infer.stream.redact import redact
from vision_infer.stream.rtsp.authentication import Authenticator, challenges

EVERY_NETWORK = ("0.0.0.0/0", "::/0")
REQUEST_S = 5.0
"""The maximum time of one request, seconds."""
_MAX_SHOWN = 200


class WrongPasswordError(RefusedError):
    """A camera refused the user name or the password, or it needs them and none were given."""


class DeviceHttp:
    """Sends requests to one host.

    Args:
        url: A URL of the host, ``http`` or ``https``.
        user: The user name; empty to send none.
        password: The password.
        allowed: The networks that may be connected to, in CIDR notation. Empty: all.
        limit_s: The maximum time of all requests together, seconds.

    Raises:
        RefusedError: The host is outside the allowed networks.
        StreamError: The host name cannot be resolved.
    """

    def __init__(self, url: str, user: str, password: str, allowed: tuple[str, ...], limit_s: float) -> None:
        self.address = allowed_address(url, allowed or EVERY_NETWORK)
        self._host = urlsplit(url).hostname
        self._authenticator = Authenticator(user, password)
        self._request_s = min(limit_s, REQUEST_S)
        self._end = time.monotonic() + limit_s
        self._request_end = self._end

    @property
    def has_authenticated(self) -> bool:
        """Whether the user name and a digest of the password have been sent in answer to a challenge."""
        return self._authenticator.challenge is not None

    def send(self, url: str, max_bytes: int, body: bytes | None = None) -> tuple[int, bytes]:
        """Send a GET request, or a POST request with a SOAP 1.2 message, and return the status and the content of the response.

        Args:
            url: The URL, on the host.
            max_bytes: The maximum size of the content.
            body: The message; None for a GET request.

        Raises:
            WrongPasswordError: The status is 401 or 403.
            RefusedError: The device redirects, or offers Basic authentication only.
            StreamError: The device cannot be reached, its response is too large, or it took too long.
        """
        method, shown = "GET" if body is None else "POST", redact(url)
        if urlsplit(url).hostname != self._host:
            raise RefusedError(f"{shown}: is not on the device's host", "Use the address of the device itself.")
        status, content, headers = self._exchange(method, url, body, max_bytes)
        if status == 401 and self._may_answer(headers.get_all("WWW-Authenticate") or [], shown):
            status, content, headers = self._exchange(method, url, body, max_bytes)
        if status in (401, 403):
            raise WrongPasswordError(f"{shown}: authentication failed ({status})")
        if 300 <= status < 400:
            target = redact(headers.get("Location", ""))[:_MAX_SHOWN] or "another address"
            hint = "If that address is the camera, enter it instead."
            raise RefusedError(f"{shown}: the device redirects to {target}, which is not followed", hint)
        return status, content

    def _may_answer(self, asked: list[str], shown: str) -> bool:
        offered = challenges(asked)
        if offered and offered[0].scheme == "basic" and self._authenticator.user:
            hint = "Enable Digest authentication in the device's settings."
            raise RefusedError(f"{shown}: offers only Basic authentication, which reveals the password", hint)
        return self._authenticator.challenged(asked)

    def _exchange(self, method: str, url: str, body: bytes | None, max_bytes: int) -> tuple[int, bytes, Message]:
        shown = redact(url)
        headers = {"User-Agent": "vision-infer", "Connection": "close"}
        if body is not None:
            headers["Content-Type"] = "application/soap+xml; charset=utf-8"
        answer = self._authenticator.header(method, request_target(url), secrets.token_hex(16))
        if answer is not None:
            headers["Authorization"] = answer
        self._request_end = min(self._end, time.monotonic() + self._request_s)
        try:
            response, connection = send(url, self.address, self._left_s, headers, method, body)
            with connection:
                content = response.read(max_bytes + 1)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise unreachable(shown, error, self._request_s) from None
        if len(content) > max_bytes:
            raise StreamError(f"{shown}: the response is larger than {max_bytes} bytes", "Check that it is a camera.")
        return response.status, content, response.headers

    def _left_s(self) -> float:
        left = self._request_end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left
