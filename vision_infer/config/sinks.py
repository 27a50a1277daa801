"""Where the service sends what it finds, beside files and who listens: brokers (MQTT) and web hooks.

sinks:
  mqtt:
    house:
      url: mqtts://broker.lan
      username: cameras
      password: file:/run/secrets/mqtt
      home_assistant: homeassistant
  webhook:
    alarm:
      url: https://example.net/hook
      token: file:/run/secrets/hook
      kinds: [events, states]
"""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

Kind = Literal["detections", "events", "states"]

_MQTT_URL = re.compile(r"mqtts?://(\[[0-9a-fA-F:.]+\]|[^\s/:@?#\[\]]+)(:\d{1,5})?/?")
_TOPIC = r"^[^\s/+#$]([^\s+#]*[^\s/+#])?$"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


def _has_port(url: str) -> bool:
    """Whether there is a host, and no port that cannot be."""
    try:
        return urlsplit(url).port != 0 and bool(urlsplit(url).hostname)
    except ValueError:
        return False


def _mqtt_url(url: str) -> str:
    if not _MQTT_URL.fullmatch(url) or not _has_port(url):
        raise ValueError("is mqtt://HOST:PORT or, with TLS, mqtts://HOST:PORT; user and password have fields of their own")
    return url


def _hook_url(url: str) -> str:
    if not _has_port(url) or urlsplit(url).scheme not in ("http", "https") or urlsplit(url).username is not None:
        raise ValueError("is http://HOST/… or https://HOST/…, without user and password: `token` is for those")
    return url


def _key(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    try:
        if text.startswith("whsec_") and len(base64.b64decode(text.removeprefix("whsec_"), validate=True)) >= 16:
            return secret
    except binascii.Error:
        pass
    raise ValueError("is whsec_ and at least 16 bytes in base64, such as: echo whsec_$(openssl rand -base64 32)")


class _Settings(BaseModel):
    # Errors of the library would show what was put in, a password perhaps.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class SinkSettings(_Settings):
    """What all that goes through a spool has in common."""

    kinds: tuple[Kind, ...] = Field(
        default=("detections", "events", "states"),
        min_length=1,
        description="what is sent: rows of results, what happens at zones and lines, changes of streams and engines",
    )
    streams: tuple[Annotated[str, Field(pattern=_NAME)], ...] | None = Field(
        default=None, description="only of these; null: of all"
    )
    only_with_detections: bool = Field(default=False, description="leave out rows of frames in which nothing was found")
    spool_mb: float = Field(
        default=256.0, ge=1, le=1_000_000, description="what waits on the disk at most, megabytes; then the oldest is dropped"
    )


class MqttSettings(SinkSettings):
    """A broker."""

    url: Annotated[str, AfterValidator(_mqtt_url)] = Field(
        max_length=4096, description="mqtt://HOST:PORT (1883 where it is left out), with TLS mqtts://HOST:PORT (8883)"
    )
    username: str | None = Field(default=None, min_length=1, description="null: none")
    password: SecretStr | None = Field(default=None, description="of that user")
    ca: Path | None = Field(default=None, description="certificates that are trusted, PEM; null: those of the system")
    prefix: str = Field(
        default="vision-infer",
        pattern=_TOPIC,
        max_length=200,
        description="topics are PREFIX/STREAM/detections, events, state and counts, PREFIX/engine and PREFIX/availability",
    )
    home_assistant: str | None = Field(
        default=None,
        pattern=_TOPIC,
        max_length=200,
        description="prefix under which Home Assistant finds streams by itself, usually `homeassistant`; null: nothing is told",
    )

    @model_validator(mode="after")
    def _fits(self) -> MqttSettings:
        if self.password is not None and self.username is None:
            raise ValueError("password: needs a username beside it")
        if self.ca is not None and not self.tls:
            raise ValueError("ca: is for mqtts:// only")
        return self

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.url.startswith("mqtts:")

    @property
    def host(self) -> str:
        """Name or address of the broker."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """Its port."""
        return urlsplit(self.url).port or (8883 if self.tls else 1883)


class WebhookSettings(SinkSettings):
    """A URL to which rows are posted as JSON."""

    url: Annotated[str, AfterValidator(_hook_url)] = Field(
        min_length=1, max_length=4096, repr=False, description="http:// or https://; shown nowhere but for its host"
    )
    token: SecretStr | None = Field(default=None, description="sent as `Authorization: Bearer TOKEN`")
    headers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")], SecretStr] = Field(
        default_factory=dict, max_length=16, description="more headers, such as `X-Api-Key`"
    )
    secret: Annotated[SecretStr, AfterValidator(_key)] | None = Field(
        default=None, description="whsec_…: requests are signed as Standard Webhooks has it; null: they are not"
    )
    ca: Path | None = Field(default=None, description="certificates that are trusted, PEM; null: those of the system")
    batch: int = Field(
        default=100, ge=1, le=10_000, description="most rows in a request; 1: a request has a row for its body, not a list"
    )
    timeout_s: float = Field(default=10.0, gt=0, le=120, description="how long the receiver may take, seconds")

    @property
    def host(self) -> str:
        """The address without what may be secret in it."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


class SinksSettings(_Settings):
    """Where results, events and states are sent; what cannot be sent now waits on the disk."""

    mqtt: dict[Annotated[str, Field(pattern=_NAME)], MqttSettings] = Field(
        default_factory=dict, max_length=16, description="brokers, by name"
    )
    webhook: dict[Annotated[str, Field(pattern=_NAME)], WebhookSettings] = Field(
        default_factory=dict, max_length=16, description="receivers, by name"
    )
