"""Where the service sends results: MQTT brokers, message buses and web hooks.

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
  kafka:
    lake:
      url: kafkas://kafka1.lan,kafka2.lan
      username: cameras
      password: ${KAFKA_PASSWORD}
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from vision_infer.config.actions.destination import NAME, SinkSettings
from vision_infer.config.actions.notify import NotifySettings
from vision_infer.config.settings_base import SettingsBase
from vision_infer.core.packages import EXTRA_OF, install

_PORTS = {"mqtt": 1883, "kafka": 9092, "nats": 4222, "redis": 6379, "amqp": 5672}
_TLS_PORTS = {"mqtts": 8883, "kafkas": 9093, "tls": 4222, "rediss": 6379, "amqps": 5671}
"""The default ports by the scheme of the URL, without and with TLS."""
_HOST = r"(?:\[[0-9a-fA-F:.]+\]|[^\s/:@?#,\[\]]+)(?::\d{1,5})?"
_PREFIX = r"^[A-Za-z0-9_-]+([.:][A-Za-z0-9_-]+)*$"
_TOPIC = r"^[^\s/+#$]([^\s+#]*[^\s/+#])?$"


def _has_port(url: str) -> bool:
    """Return whether the URL has a host and no invalid port."""
    try:
        return urlsplit(url).port != 0 and bool(urlsplit(url).hostname)
    except ValueError:
        return False


def _broker_url(plain: str, tls: str, several: bool = False, path: str = "") -> Callable[[str], str]:
    """Return a validator of URLs without a user and password.

    Args:
        plain: The scheme without TLS.
        tls: The scheme with TLS.
        several: Whether further hosts may follow, separated by commas.
        path: The name of the optional path; empty: none is allowed.
    """
    pattern = re.compile(f"(?:{plain}|{tls})://{_HOST}{f'(?:,{_HOST})*' if several else ''}{'(?:/[^/?#]*)?' if path else '/?'}")
    form = "HOST:PORT" + ",HOST:PORT" * several + f"/{path}" * bool(path)

    def check(url: str) -> str:
        parts = url.partition("://")[2].partition("/")[0].split(",")
        if not pattern.fullmatch(url) or not all(_has_port(f"//{part}") for part in parts):
            raise ValueError(
                f"must be {plain}://{form} or, with TLS, {tls}://{form}; use the fields username and password for those"
            )
        return url

    return check


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


class BrokerSettings(SinkSettings):
    """A broker with a URL, a user and a certificate."""

    user_optional: ClassVar[bool] = False
    """Whether a password is valid without a user name."""

    url: str = Field(max_length=4096)
    username: str | None = Field(default=None, min_length=1, description="The user name. null: no authentication.")
    password: SecretStr | None = Field(default=None, description="The password of that user.")
    ca: Path | None = Field(default=None, description="The file of trusted certificates, PEM. Defaults to the system's.")
    certificate: Path | None = Field(default=None, description="The file of the client's certificate chain, PEM. null: none.")
    key: Path | None = Field(default=None, description="The file of its private key, PEM. Defaults to `certificate`.")

    @model_validator(mode="after")
    def _fits(self) -> BrokerSettings:
        if self.password is not None and self.username is None and not self.user_optional:
            raise ValueError("password: requires a username")
        for name in ("ca", "certificate"):
            if getattr(self, name) is not None and not self.tls:
                raise ValueError(f"{name}: is valid for {self._scheme_with_tls}:// only")
        if self.key is not None and self.certificate is None:
            raise ValueError("key: requires a certificate")
        return self

    @property
    def _scheme_with_tls(self) -> str:
        plain = urlsplit(self.url).scheme
        return "tls" if plain == "nats" else f"{plain}s"

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return urlsplit(self.url).scheme in _TLS_PORTS

    @property
    def client_files(self) -> tuple[Path, Path] | None:
        """The files of the client's certificate and of its key; None if it has none."""
        return None if self.certificate is None else (self.certificate, self.key or self.certificate)

    @property
    def hosts(self) -> list[tuple[str, int]]:
        """The host names or addresses and the ports of the URL."""
        parts = urlsplit(self.url)
        port = (_PORTS | _TLS_PORTS)[parts.scheme]
        split = [urlsplit(f"//{one}") for one in parts.netloc.split(",")]
        return [(one.hostname or "", one.port or port) for one in split]

    @property
    def path(self) -> str:
        """The path of the URL without its first slash."""
        return unquote(urlsplit(self.url).path.removeprefix("/"))


class MqttSettings(BrokerSettings):
    """An MQTT broker."""

    url: Annotated[str, AfterValidator(_broker_url("mqtt", "mqtts"))] = Field(
        max_length=4096, description="The URL: mqtt://HOST:PORT (default 1883) or, with TLS, mqtts://HOST:PORT (default 8883)."
    )
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


class BusSettings(BrokerSettings):
    """A message bus: each row is one message with its id, ordered within its stream."""

    module: ClassVar[str]
    """The module of the client library, which an extra installs."""

    cloudevents: Literal["binary", "structured"] | None = Field(
        default=None,
        description="The CloudEvents 1.0 envelope: binary (attributes as headers), or structured (JSON). null: none.",
    )

    @model_validator(mode="after")
    def _is_installed(self) -> BusSettings:
        if find_spec(self.module) is None:
            raise ValueError(f"needs the package {self.module}, which is not installed. {install(EXTRA_OF[self.module])}")
        return self


class KafkaSettings(BusSettings):
    """A Kafka cluster."""

    module = "confluent_kafka"

    url: Annotated[str, AfterValidator(_broker_url("kafka", "kafkas", several=True))] = Field(
        max_length=4096,
        description="The bootstrap brokers: kafka://HOST:PORT,HOST:PORT (default 9092) or, with TLS, kafkas:// (default 9093).",
    )
    sasl: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="PLAIN", description="The SASL mechanism of the user."
    )
    topic: str = Field(
        default="vision-infer", pattern=r"^[A-Za-z0-9._-]{1,249}$", description="The topic. The key of a message is its stream."
    )


class NatsSettings(BusSettings):
    """A NATS server with JetStream."""

    module = "nats"

    url: Annotated[str, AfterValidator(_broker_url("nats", "tls", several=True))] = Field(
        max_length=4096, description="The URL: nats://HOST:PORT,HOST:PORT (default 4222) or, with TLS, tls://HOST:PORT."
    )
    token: SecretStr | None = Field(default=None, description="The token, in place of a user name and password.")
    prefix: str = Field(
        default="vision-infer", pattern=_PREFIX, max_length=200, description="The prefix of subjects: PREFIX.KIND.STREAM."
    )
    cloudevents: Literal["structured"] | None = Field(
        default=None, description="The CloudEvents 1.0 envelope: structured (JSON). null: none."
    )

    @model_validator(mode="after")
    def _has_one_login(self) -> NatsSettings:
        if self.token is not None and self.username is not None:
            raise ValueError("token: is valid without a username only")
        return self


class RedisSettings(BusSettings):
    """Redis Streams."""

    module = "redis"
    user_optional = True

    url: Annotated[str, AfterValidator(_broker_url("redis", "rediss", path="DB"))] = Field(
        max_length=4096, description="The URL: redis://HOST:PORT/DB (default 6379, 0) or, with TLS, rediss://HOST:PORT/DB."
    )
    prefix: str = Field(default="vision-infer", pattern=_PREFIX, max_length=200, description="The prefix of keys: PREFIX:STREAM.")
    max_rows: int | None = Field(
        default=100_000,
        ge=1,
        le=1_000_000_000,
        description="The approximate maximum number of rows per key; Redis deletes the oldest. null: no maximum.",
    )
    cloudevents: Literal["structured"] | None = Field(
        default=None, description="The CloudEvents 1.0 envelope: structured (JSON). null: none."
    )

    @model_validator(mode="after")
    def _has_number(self) -> RedisSettings:
        if self.path and not (self.path.isdecimal() and int(self.path) < 10_000):
            raise ValueError("url: the path must be the number of a database")
        return self


class AmqpSettings(BusSettings):
    """An AMQP 0.9.1 broker such as RabbitMQ."""

    module = "aio_pika"

    url: Annotated[str, AfterValidator(_broker_url("amqp", "amqps", path="VHOST"))] = Field(
        max_length=4096,
        description="The URL: amqp://HOST:PORT/VHOST (default 5672, /) or, with TLS, amqps://HOST:PORT/VHOST (default 5671).",
    )
    username: str | None = Field(default=None, min_length=1, description="The user name. null: guest, with its default password.")
    exchange: str = Field(
        default="amq.topic", min_length=1, max_length=127, description="An existing exchange. A queue must be bound to it."
    )
    prefix: str = Field(
        default="vision-infer", pattern=_PREFIX, max_length=80, description="The prefix of routing keys: PREFIX.KIND.STREAM."
    )


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

    mqtt: dict[Annotated[str, Field(pattern=NAME)], MqttSettings] = Field(
        default_factory=dict, max_length=16, description="MQTT brokers by name."
    )
    webhook: dict[Annotated[str, Field(pattern=NAME)], WebhookSettings] = Field(
        default_factory=dict, max_length=16, description="Receivers by name."
    )
    kafka: dict[Annotated[str, Field(pattern=NAME)], KafkaSettings] = Field(
        default_factory=dict, max_length=16, description="Kafka clusters by name."
    )
    nats: dict[Annotated[str, Field(pattern=NAME)], NatsSettings] = Field(
        default_factory=dict, max_length=16, description="NATS servers with JetStream by name."
    )
    redis: dict[Annotated[str, Field(pattern=NAME)], RedisSettings] = Field(
        default_factory=dict, max_length=16, description="Redis servers by name."
    )
    amqp: dict[Annotated[str, Field(pattern=NAME)], AmqpSettings] = Field(
        default_factory=dict, max_length=16, description="AMQP 0.9.1 brokers by name."
    )
    notify: dict[Annotated[str, Field(pattern=NAME)], NotifySettings] = Field(
        default_factory=dict, max_length=64, description="Rules for messages to people, by name."
    )
