"""A carrier that posts records as JSON to a URL."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path

from vision_infer.config.sinks import WebhookSettings
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.sink.delivery.carrier import CarrierContext, Record, UndeliveredError, UnwantedError
from vision_infer.sink.delivery.poster import Poster

UNWANTED = (400, 413, 415, 422)
"""The answers that reject the rows themselves. All others may be temporary: an address, a token, a server can be fixed."""
_WAITS = (429, 503)
_REFUSED = (401, 403, 404, 405, 407, 410, 451)


def open_carrier(settings: WebhookSettings, context: CarrierContext) -> WebhookCarrier:
    """Make the carrier of a sink."""
    headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
    if settings.token is not None:
        headers["Authorization"] = f"Bearer {settings.token.get_secret_value()}"
    secret = settings.secret
    key = None if secret is None else base64.b64decode(secret.get_secret_value().removeprefix("whsec_"))
    return WebhookCarrier(
        settings.url, settings.host, headers, key, settings.ca, settings.batch, settings.timeout_s, context.clock
    )


class WebhookCarrier:
    """Posts up to ``max_records`` records in a request.

    The body is ``{"id": …, "rows": [ROW, …]}``, or the row itself if ``max_records`` is 1. Each row has an ``id``.

    Args:
        url: The URL of the receiver.
        host: The URL without its secret parts, for messages.
        headers: The headers of each request.
        key: The key with which requests are signed as Standard Webhooks specifies; None: they are not signed.
        ca: The file of trusted certificates, PEM; None: those of the system.
        max_records: The maximum number of rows in a request.
        timeout_s: The timeout of each step: connection, request, answer, seconds.
        clock: The clock.
    """

    count = None

    def __init__(
        self,
        url: str,
        host: str,
        headers: Mapping[str, str],
        key: bytes | None,
        ca: Path | None,
        max_records: int,
        timeout_s: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.max_records = max_records
        self._host = host
        self._poster = Poster(url, host, {**headers, "Content-Type": "application/json"}, ca, timeout_s)
        self._key = key
        self._clock = clock
        self._name = ""

    def open(self, name: str) -> bool:
        """Create a client; it connects with the first request."""
        self._name = name
        self._poster.open()
        return False

    def deliver(self, records: Sequence[Record]) -> None:
        """Post the records."""
        rows = [record.row_in(self._name) for record in records]
        batch = f"{records[0].id_in(self._name)}-{len(records)}"
        body = rows[0] if self.max_records == 1 else f'{{"id": "{batch}", "rows": [{", ".join(rows)}]}}'
        data = body.encode("utf-8", "backslashreplace")
        status, after = self._poster.post(data, self._signed(batch, data))
        if status < 300:
            return
        answer = f"{self._host} answered with status {status}"
        if status in UNWANTED:
            raise UnwantedError(answer, f"rejected_{status}")
        if status < 400:
            raise UndeliveredError(answer, "Redirects are not followed. Set url to the final URL.", patient=True)
        if status in _REFUSED:
            raise UndeliveredError(answer, "Check url and token.", patient=True)
        raise UndeliveredError(answer, after_s=_seconds(after, self._clock.wall_ns) if status in _WAITS else None)

    def _signed(self, batch: str, body: bytes) -> dict[str, str]:
        if self._key is None:
            return {}
        timestamp = str(self._clock.wall_ns() // 1_000_000_000)
        digest = hmac.digest(self._key, f"{batch}.{timestamp}.".encode() + body, hashlib.sha256)
        return {
            "webhook-id": batch,
            "webhook-timestamp": timestamp,
            "webhook-signature": "v1," + base64.b64encode(digest).decode(),
        }

    def check(self) -> bool:
        """Return False: only a request with rows shows whether the receiver accepts them."""
        return False

    def poll(self) -> None:
        """Do nothing: there is no periodic work."""

    def close(self) -> None:
        """Close the connections."""
        self._poster.close()


def _seconds(after: str | None, wall_ns: Callable[[], int] = time.time_ns) -> float | None:
    """Return the seconds of a Retry-After, which is a number or a date; None if it is invalid."""
    if after is None:
        return None
    if after.strip().isdecimal():
        return float(after.strip()[:9])
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - wall_ns() / 1e9)
    except (ValueError, TypeError, OverflowError):
        return None
