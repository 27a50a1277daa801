"""A carrier that sends events as messages to people, through the package apprise."""

from __future__ import annotations

import base64
import json
import socket
from collections import deque
from collections.abc import Sequence
from importlib import import_module
from typing import Any
from urllib.parse import quote, urlsplit

from vision_infer.config.actions.notify import NotifySettings, notifier_of
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.sink.delivery.carrier import CarrierContext, Record, UndeliveredError, UnwantedError

_MAX_TRIES = 4
"""The number of attempts at a receiver that refuses a message which others have accepted."""
_HOUR_NS = 3_600_000_000_000
_CHECK_S = 5.0
_SENTENCES = {
    "enter": "{label} entered {place}",
    "leave": "{label} left {place} after {seconds:.0f} s",
    "dwell": "{label} has been in {place} for {seconds:.0f} s",
    "cross": "{label} crossed {place} ({direction})",
}


def open_carrier(settings: NotifySettings, context: CarrierContext) -> NotifyCarrier:
    """Make the carrier of a rule."""
    return NotifyCarrier(settings, context.clock)


class NotifyCarrier:
    """Sends one message for each event to all URLs of a rule.

    Quiet hours and the rate limit use the time at which the event was put into the spool. If no URL accepts a message, the
    network may be down: the message is sent again later, until it is too old. If only some accept it, the others get a few more
    attempts, so that one wrong URL does not block the rule. No URL gets a message twice, except after a crash.
    """

    count = None
    max_records = 1

    def __init__(self, settings: NotifySettings, clock: Clock = SYSTEM_CLOCK) -> None:
        self._settings = settings
        self._clock = clock
        self._services = [notifier_of(url) for url in settings.urls]
        self._sent_ns: deque[int] = deque(maxlen=settings.max_per_hour)
        """The times of the last messages."""
        self._current = (-1, 0)
        """The present record: its number and time."""
        self._done: set[int] = set()
        """The URLs that have it, by their numbers from 0."""
        self._tries = 0

    def open(self, name: str) -> bool:  # noqa: ARG002
        """Return False: each message opens a connection."""
        return False

    def deliver(self, records: Sequence[Record]) -> None:
        """Send a message, or suppress it."""
        (record,) = records
        reason = self._suppressed(record.wall_ns)
        if reason is not None:
            raise UnwantedError(f"suppressed: {reason}", reason, expected=True)
        if (record.number, record.wall_ns) != self._current:
            self._current, self._done, self._tries = (record.number, record.wall_ns), set(), 0
        self._tries += 1
        row = json.loads(record.text)
        failed = [number for number in range(len(self._services)) if number not in self._done and not self._send(number, row)]
        if failed:
            text = f"no message to {', '.join(self._name(number) for number in failed)}"
            if not self._done or self._tries < _MAX_TRIES:
                raise UndeliveredError(text, "Check the URL, and the network with: vision-infer doctor FILE.")
            raise UnwantedError(f"{text} after {self._tries} attempts; other receivers have it", "failed")
        self._sent_ns.append(record.wall_ns)

    def _suppressed(self, wall_ns: int) -> str | None:
        """Return the reason why the message of a time is not sent; None if it is."""
        settings = self._settings
        if settings.is_quiet(wall_ns):
            return "quiet_hours"
        if self._clock.wall_ns() - wall_ns > settings.max_age_minutes * 60e9:
            return "too_old"
        last_hour = len(self._sent_ns) == settings.max_per_hour and wall_ns - self._sent_ns[0] < _HOUR_NS
        return "rate_limit" if last_hour else None

    def _send(self, number: int, row: dict[str, Any]) -> bool:
        apprise = import_module("apprise")
        text = _SENTENCES[row["kind"]].format(**row)
        at = self._settings.local(self._current[1])
        lines = [f"{text}, {at:%Y-%m-%d %H:%M:%S} {self._settings.time_zone}"]
        if self._settings.link is not None:
            lines.append(f"{self._settings.link}/#/stream/{quote(row['stream'])}")
        image = base64.b64decode(row["image"]) if "image" in row else None
        attached = image and apprise.AppriseAttachment(
            import_module("apprise.attachment.memory").AttachMemory(image, f"{row['stream']}.jpg", "image/jpeg")
        )
        messenger = apprise.Apprise()
        messenger.add(self._services[number])
        title = f"{row['stream']}: {text}"
        if messenger.notify("\n".join(lines), title, body_format=apprise.NotifyFormat.TEXT, attach=attached or None):
            self._done.add(number)
        return number in self._done

    def _name(self, number: int) -> str:
        """Return the name of a URL without its secrets."""
        return f"URL {number + 1} ({self._settings.urls[number].get_secret_value().partition(':')[0]})"

    def check(self) -> bool:
        """Connect to the host of each URL, send nothing, and return whether all have a host that is known without sending."""
        addresses = [_address(service) for service in self._services]
        for number, (host, port) in enumerate(addresses):
            try:
                if host:
                    socket.create_connection((host, port), _CHECK_S).close()
            except OSError as error:
                text = f"{self._name(number)}: {host}:{port} cannot be reached: {error.strerror or error}"
                raise UndeliveredError(text, "Check the host in the URL, and the network.") from error
        return all(host for host, _ in addresses)

    def poll(self) -> None:
        """Do nothing: there is no periodic work."""

    def close(self) -> None:
        """Do nothing: there is no connection between messages."""


def _address(service: Any) -> tuple[str, int]:
    """Return the host and the port of an apprise service; an empty host if it is not known."""
    cloud = getattr(service, "notify_url", None)
    if isinstance(cloud, str):
        parts = urlsplit(cloud)
        return "" if "{" in parts.netloc else parts.hostname or "", 443 if parts.scheme == "https" else 80
    if not all("{host}" in template for template in service.templates):
        return "", 0  # in other forms of the URL, its first part can be a token
    return getattr(service, "smtp_host", None) or service.host or "", service.port or (443 if service.secure else 80)
