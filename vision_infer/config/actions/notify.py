"""Rules for messages to people about events in zones and at lines.

sinks:
  notify:
    night:
      urls: [${file:/run/secrets/telegram}, "mailto://${MAIL}@mail.lan?to=guard@example.org"]
      places: [yard]
      labels: [person]
      link: https://cameras.example.org
      quiet: [07:00-19:00]
      time_zone: Europe/Berlin
"""

from __future__ import annotations

import logging
import re
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, SecretStr, model_validator

from vision_infer.config.actions.destination import Kind, SinkSettings
from vision_infer.core.packages import EXTRA_OF, install
from vision_infer.core.scene_event import EventKind, SceneEvent

_TIME = "([01][0-9]|2[0-3]):([0-5][0-9])"


def notifier_of(url: SecretStr) -> Any:
    """Return apprise's object for a URL; None if apprise does not understand it."""
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # it logs URLs with passwords
    return import_module("apprise").Apprise.instantiate(url.get_secret_value())


def _understood(url: SecretStr) -> SecretStr:
    if find_spec("apprise") is None:
        raise ValueError(f"needs the package apprise, which is not installed. {install(EXTRA_OF['apprise'])}")
    if notifier_of(url) is None:
        raise ValueError("is not a URL that apprise understands, such as mailto://…, tgram://… or ntfys://…")
    return url


def _period(text: str) -> str:
    if not re.fullmatch(f"{_TIME}-{_TIME}", text) or text[:5] == text[6:]:
        raise ValueError('must be two times, such as "22:00-06:30"')
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        raise ValueError("is not a known time zone, such as Europe/Berlin") from None
    return name


def _link(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must be http://HOST/PATH or https://HOST/PATH")
    return url.rstrip("/")


class NotifySettings(SinkSettings):
    """A rule: which events are sent as messages, to whom, and when."""

    kinds: tuple[Kind, ...] = Field(default=("events",), description="Always `events`.")
    urls: tuple[Annotated[SecretStr, AfterValidator(_understood)], ...] = Field(
        min_length=1,
        max_length=16,
        description="The receivers, as URLs of [apprise](https://github.com/caronc/apprise). They are never shown.",
    )
    events: tuple[EventKind, ...] = Field(
        default=("enter", "dwell", "cross"), min_length=1, description="The kinds of events: enter, leave, dwell, cross."
    )
    places: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        default=None, description="The names of zones and lines. Defaults to all."
    )
    labels: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        default=None, description="The labels of objects. Defaults to all."
    )
    image: bool = Field(default=True, description="Whether the frame of the event is attached, with its detections.")
    link: Annotated[str, AfterValidator(_link)] | None = Field(
        default=None,
        max_length=1000,
        description="The URL of the page; each message links to its camera. null: no link.",
    )
    quiet: tuple[Annotated[str, AfterValidator(_period)], ...] = Field(
        default=(), max_length=16, description='The local times in which nothing is sent, such as "22:00-06:30".'
    )
    time_zone: Annotated[str, AfterValidator(_zone)] = Field(
        default="UTC", description="The time zone of `quiet` and of the times in messages, such as Europe/Berlin."
    )
    max_per_hour: int = Field(default=20, ge=1, le=3600, description="The maximum number of messages in any hour.")
    max_age_minutes: float = Field(
        default=60.0, gt=0, le=10_080, description="The age of an event at which its message is no longer sent, in minutes."
    )

    @model_validator(mode="after")
    def _events_only(self) -> NotifySettings:
        if self.kinds != ("events",) or self.only_with_detections:
            raise ValueError("kinds: messages are sent for events only; leave out kinds and only_with_detections")
        return self

    def takes(self, event: SceneEvent) -> bool:
        """Return whether the rule is about this event."""
        return (
            event.kind in self.events
            and (self.places is None or event.place in self.places)
            and (self.labels is None or event.label in self.labels)
        )

    def local(self, wall_ns: int) -> datetime:
        """Return a time in the rule's time zone; ``wall_ns`` is in nanoseconds since 1970 (UTC)."""
        return datetime.fromtimestamp(wall_ns / 1e9, ZoneInfo(self.time_zone))

    def is_quiet(self, wall_ns: int) -> bool:
        """Return whether nothing is sent for an event at this time, nanoseconds since 1970 (UTC)."""
        now = self.local(wall_ns).strftime("%H:%M")
        periods = [(period[:5], period[6:]) for period in self.quiet]
        return any(start <= now < end if start < end else now >= start or now < end for start, end in periods)

    @property
    def rule(self) -> str:
        """The rule in words, without secrets."""
        schemes = ", ".join(url.get_secret_value().partition(":")[0] for url in self.urls)
        parts = [" or ".join(self.events), "of " + ", ".join(self.labels) if self.labels else ""]
        parts += ["at " + ", ".join(self.places) if self.places else "", "of " + ", ".join(self.streams) if self.streams else ""]
        quiet = f"; not {' and '.join(self.quiet)} {self.time_zone}" if self.quiet else ""
        return f"{' '.join(part for part in parts if part)} → {schemes}{quiet}; at most {self.max_per_hour} per hour"
