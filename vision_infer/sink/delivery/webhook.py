"""A carrier that posts records as JSON to a URL."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.sink.delivery.carrier import Record, UndeliveredError, UnwantedError
from vision_infer.sink.delivery.certificates import tls_context, tls_problem

UNWANTED = (400, 413, 415, 422)
"""answers that mean the rows: sending them again would not help. All else may be mended: an address, a token, a server"""
_WAITS = (429, 503)
_REFUSED = (401, 403, 404, 405, 407, 410, 451)


class WebhookCarrier:
    """Posts up to ``most`` records in a request.

    The body is ``{"id": …, "rows": [ROW, …]}``, or with ``most`` 1 the row itself. Each row has an ``id``. Redirections are not
    followed, for the token would go there too, and proxies of the environment are not used.

    Args:
        url: where to.
        host: the URL without what may be secret in it, for messages.
        headers: sent with each request.
        key: requests are signed with it as Standard Webhooks has it; None: they are not.
        ca: certificates that are trusted, PEM; None: those of the system.
        most: rows in a request.
        timeout_s: how long the receiver may take for each step: connection, taking, answer.
        clock: tells the time.
    """

    def __init__(
        self,
        url: str,
        host: str,
        headers: Mapping[str, str],
        key: bytes | None,
        ca: Path | None,
        most: int,
        timeout_s: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.most = most
        self._url = url
        self._host = host
        self._headers = {**headers, "Content-Type": "application/json", "User-Agent": "vision-infer"}
        self._key = key
        self._ca = ca
        self._timeout_s = timeout_s
        self._clock = clock
        self._client: Any = None
        self._name = ""

    def open(self, name: str) -> bool:
        """Make a client; it connects with the first request."""
        import httpx

        self.close()
        self._name = name
        context = tls_context(self._host, self._ca) if self._url.startswith("https:") else False
        self._client = httpx.Client(
            verify=context, timeout=self._timeout_s, trust_env=False, follow_redirects=False, headers=self._headers
        )
        return False

    def deliver(self, records: Sequence[Record]) -> None:
        """Post them."""
        rows = [f'{{"id": "{record.id_in(self._name)}", {record.text[1:]}' for record in records]
        batch = f"{records[0].id_in(self._name)}-{len(records)}"
        body = rows[0] if self.most == 1 else f'{{"id": "{batch}", "rows": [{", ".join(rows)}]}}'
        status, after = self._post(batch, body.encode("utf-8", "backslashreplace"))
        if status < 300:
            return
        answer = f"{self._host} answers {status}"
        if status in UNWANTED:
            raise UnwantedError(answer, f"rejected_{status}")
        if status < 400:
            raise UndeliveredError(answer, "redirections are not followed: write the final URL", patient=True)
        if status in _REFUSED:
            raise UndeliveredError(answer, "check its URL and token", patient=True)
        raise UndeliveredError(answer, after_s=_seconds(after, self._clock.wall_ns) if status in _WAITS else None)

    def _post(self, batch: str, body: bytes) -> tuple[int, str | None]:
        """The status of the answer, and its Retry-After."""
        import httpx

        try:
            # What it answers besides is not read: it could have no end.
            with self._client.stream("POST", self._url, content=body, headers=self._signed(batch, body)) as response:
                length = response.headers.get("Content-Length", "")
                if length.isdecimal() and int(length) < 65_536:  # so that the connection can be used again
                    for _ in response.iter_raw():
                        pass
                return response.status_code, response.headers.get("Retry-After")
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise self._undelivered(error) from error

    def _undelivered(self, error: Exception) -> UndeliveredError:
        import httpx

        problem = tls_problem(self._host, error)
        if problem is not None:
            return problem
        if isinstance(error, httpx.TimeoutException):
            return UndeliveredError(f"{self._host} does not answer within {self._timeout_s:g} s")
        text = " ".join(str(error).split()).replace(self._url, self._host) or type(error).__name__
        return UndeliveredError(f"{self._host} cannot be reached: {text}")

    def _signed(self, batch: str, body: bytes) -> dict[str, str]:
        if self._key is None:
            return {}
        moment = str(self._clock.wall_ns() // 1_000_000_000)
        digest = hmac.digest(self._key, f"{batch}.{moment}.".encode() + body, hashlib.sha256)
        return {
            "webhook-id": batch,
            "webhook-timestamp": moment,
            "webhook-signature": "v1," + base64.b64encode(digest).decode(),
        }

    def look(self) -> None:
        """Nothing is ever due."""

    def close(self) -> None:
        """Close its connections."""
        client, self._client = self._client, None
        if client is not None:
            client.close()


def _seconds(after: str | None, wall_ns: Callable[[], int] = time.time_ns) -> float | None:
    """What a Retry-After says: seconds, or a date; None where it says nothing that can be read."""
    if after is None:
        return None
    if after.strip().isdecimal():
        return float(after.strip()[:9])
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - wall_ns() / 1e9)
    except (ValueError, TypeError, OverflowError):
        return None
