"""A client that posts to one receiver. Its errors name the host and the reason, and no secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vision_infer.sink.delivery.carrier import UndeliveredError
from vision_infer.sink.delivery.certificates import tls_context, tls_problem


class Poster:
    """Posts bodies. Redirections are not followed, because they would receive the token, and proxies of the environment are not
    used.

    Args:
        url: The URL of the receiver.
        host: The URL without its secret parts, for messages.
        headers: The headers of each request.
        ca: The file of trusted certificates, PEM; None: those of the system.
        timeout_s: The timeout of each step: connection, request, answer, seconds.
    """

    def __init__(self, url: str, host: str, headers: Mapping[str, str], ca: Path | None, timeout_s: float) -> None:
        self._url = url
        self._host = host
        self._headers = {**headers, "User-Agent": "vision-infer"}
        self._ca = ca
        self._timeout_s = timeout_s
        self._client: Any = None

    def open(self) -> None:
        """Create a client; it connects with the first request.

        Raises:
            UndeliveredError: The certificates cannot be read, or a header is invalid.
        """
        import httpx

        self.close()
        context = tls_context(self._host, self._ca) if self._url.startswith("https:") else False
        try:
            self._client = httpx.Client(
                verify=context, timeout=self._timeout_s, trust_env=False, follow_redirects=False, headers=self._headers
            )
        except UnicodeEncodeError:  # its text contains a part of the value
            raise self._invalid_header() from None

    def post(self, body: bytes, headers: Mapping[str, str], path: str = "") -> tuple[int, str | None]:
        """Post a body; return the status of the answer, and its Retry-After.

        Args:
            body: The body.
            headers: Additional headers.
            path: Appended to the URL.

        Raises:
            UndeliveredError: The receiver cannot be reached, or does not answer in time.
        """
        import httpx

        try:
            # A longer body is not read: it could be endless.
            with self._client.stream("POST", self._url + path, content=body, headers=headers) as response:
                length = response.headers.get("Content-Length", "")
                if length.isdecimal() and int(length) < 65_536:  # so that the connection can be reused
                    for _ in response.iter_raw():
                        pass
                return response.status_code, response.headers.get("Retry-After")
        except httpx.LocalProtocolError:  # its text contains the header
            raise self._invalid_header() from None
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise self._undelivered(error) from error

    def _invalid_header(self) -> UndeliveredError:
        hint = "Check token and headers for spaces, line breaks and characters that are not ASCII."
        return UndeliveredError(f"{self._host}: a header has an invalid value", hint, patient=True)

    def _undelivered(self, error: Exception) -> UndeliveredError:
        import httpx

        problem = tls_problem(self._host, error)
        if problem is not None:
            return problem
        if isinstance(error, httpx.TimeoutException):
            return UndeliveredError(f"{self._host} did not answer within {self._timeout_s:g} s")
        text = re.sub(r"^\[Errno -?\d+\] ", "", " ".join(str(error).split())).replace(self._url, self._host)
        return UndeliveredError(f"{self._host} cannot be reached: {text or type(error).__name__}")

    def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
