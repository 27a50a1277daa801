"""Where the service sends results: MQTT brokers and web hooks.

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

from pydantic import AfterValidator, Field, SecretStr, model_validator

from vision_infer.config.settings_base import SettingsBase

Kind = Literal["detections", "events", "states"]

_MQTT_URL = re.compile(r"mqtts?://(\[[0-9a-fA-F:.]+\]|[^\s/:@?#\[\]]+)(:\d{1,5})?/?")
_TOPIC = r"^[^\s/+#$]([^\s+#]*[^\s/+#])?$"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


def _has_port(url: str) -> bool:
    """Return whether the URL has a host and no invalid port."""
    try:
        return urlsplit(url).port != 0 and bool(urlsplit(url).hostname)
    except ValueError:
        return False


def _mqtt_url(url: str) -> str:
    if not _MQTT_URL.fullmatch(url) or not _has_port(url):
        raise ValueError(
            "must be mqtt://HOST:PORT or, with TLS, mqtts://HOST:PORT; use the fields username and password for those"
        )
    return url


def _hook_url(url: str) -> str:
    if not _has_port(url) or urlsplit(url).scheme not in ("http", "https") or urlsplit(url).username is not None:
        raise ValueError("must be http://HOST/… or https://HOST/… without a user and password; use `token` instead")
    return url


def _key(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    try:
        if text.startswith("whsec_") and len(base64.b64decode(text.removeprefix("whsec_"), validate=True)) >= 16:
            return secret
    except binascii.Error:
        pass
    raise ValueError("must be whsec_ and at least 16 bytes in base64; generate one with: echo whsec_$(openssl rand -base64 32)")


class SinkSettings(SettingsBase):
    """The common settings of destinations with a spool."""

    kinds: tuple[Kind, ...] = Field(
        default=("detections", "events", "states"),
        min_length=1,
        description="What is sent: result rows, events at zones and lines, state changes of streams and engines.",
    )
    streams: tuple[Annotated[str, Field(pattern=_NAME)], ...] | None = Field(
        default=None, description="The names of the streams to send. Defaults to all streams."
    )
    only_with_detections: bool = Field(default=False, description="Skip rows of frames without detections.")
    spool_mb: float = Field(
        default=256.0, ge=1, le=1_000_000, description="The maximum size of the spool, in megabytes. The oldest rows are dropped."
    )


class MqttSettings(SinkSettings):
    """An MQTT broker."""

    url: Annotated[str, AfterValidator(_mqtt_url)] = Field(
        max_length=4096, description="The URL: mqtt://HOST:PORT (default 1883) or, with TLS, mqtts://HOST:PORT (default 8883)."
    )
    username: str | None = Field(default=None, min_length=1, description="The user name. null: no authentication.")
    password: SecretStr | None = Field(default=None, description="The password of that user.")
    ca: Path | None = Field(default=None, description="The file of trusted certificates, PEM. Defaults to the system's.")
    prefix: str = Field(
        default="vision-infer",
        pattern=_TOPIC,
        max_length=200,
        description="The prefix of topics: PREFIX/STREAM/detections, events, state and counts, PREFIX/engine and "
        "PREFIX/availability.",
    )
    home_assistant: str | None = Field(
        default=None, pattern=_TOPIC, max_length=200, description="The discovery prefix, usually `homeassistant`. null: none."
    )

    image_s: float | None = Field(
        default=None,
        ge=1,
        le=86_400,
        description="The interval of images with detections (JPEG) at PREFIX/STREAM/image, in seconds. null: no images.",
    )

    @model_validator(mode="after")
    def _fits(self) -> MqttSettings:
        if self.password is not None and self.username is None:
            raise ValueError("password: requires a username")
        if self.ca is not None and not self.tls:
            raise ValueError("ca: is valid for mqtts:// only")
        return self

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.url.startswith("mqtts:")

    @property
    def host(self) -> str:
        """The host name or address of the broker."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port of the broker."""
        return urlsplit(self.url).port or (8883 if self.tls else 1883)


class WebhookSettings(SinkSettings):
    """A URL that receives rows as JSON by POST."""

    url: Annotated[str, AfterValidator(_hook_url)] = Field(
        min_length=1, max_length=4096, repr=False, description="The URL, http:// or https://. Logs show only its host."
    )
    token: SecretStr | None = Field(default=None, description="The token, sent as `Authorization: Bearer TOKEN`.")
    headers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")], SecretStr] = Field(
        default_factory=dict, max_length=16, description="Additional headers, such as `X-Api-Key`."
    )
    secret: Annotated[SecretStr, AfterValidator(_key)] | None = Field(
        default=None, description="The key (whsec_…) that signs requests (Standard Webhooks). null: unsigned requests."
    )
    ca: Path | None = Field(default=None, description="The file of trusted certificates, PEM. Defaults to the system's.")
    batch: int = Field(
        default=100, ge=1, le=10_000, description="The maximum number of rows per request. 1: a row instead of a list."
    )
    timeout_s: float = Field(default=10.0, gt=0, le=120, description="The maximum time to wait for the receiver, in seconds.")

    @property
    def host(self) -> str:
        """The URL without the parts that may be secret."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


class SinksSettings(SettingsBase):
    """Destinations of results, events and states. Rows that cannot be sent are spooled on disk."""

    mqtt: dict[Annotated[str, Field(pattern=_NAME)], MqttSettings] = Field(
        default_factory=dict, max_length=16, description="MQTT brokers by name."
    )
    webhook: dict[Annotated[str, Field(pattern=_NAME)], WebhookSettings] = Field(
        default_factory=dict, max_length=16, description="Receivers by name."
    )
