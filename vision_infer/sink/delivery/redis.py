"""A carrier that adds records to Redis Streams: one key for each stream of the service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from vision_infer.config.sinks import RedisSettings
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.sink.delivery.bus import BusCarrier
from vision_infer.sink.delivery.carrier import CarrierContext, Record, UndeliveredError
from vision_infer.sink.delivery.certificates import tls_context

POLL_NS = 1_000_000_000
"""The time after which an idle connection is checked, nanoseconds."""


def open_carrier(settings: RedisSettings, context: CarrierContext) -> RedisCarrier:
    """Make the carrier of a sink."""
    return RedisCarrier(settings, context.clock)


class RedisCarrier(BusCarrier[RedisSettings]):
    """Adds each record to the key ``PREFIX:STREAM`` with ``XADD``; records without a stream to ``PREFIX``.

    The fields of an entry are ``id``, ``kind``, ``stream``, ``content-type`` and ``row``. All records of a delivery are one
    transaction, so that Redis adds all of them or none. It does so even for a key of another type, because the types are checked
    before: Redis checks them while it runs the transaction, and does not undo the other commands.
    """

    def __init__(self, settings: RedisSettings, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(settings)
        self._clock = clock
        self._client: Any = None
        self._used_ns = 0
        self._checked: set[str] = set()
        """The keys whose type this connection has checked."""

    def open(self, name: str) -> bool:
        """Connect and log in."""
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        self.close()
        self._name = name
        self._checked.clear()
        settings = self._settings
        (host, port) = settings.hosts[0]
        tls: dict[str, Any] = {}
        if settings.tls:
            tls_context(self._where, settings.ca, settings.client_files)  # reports a file that cannot be read
            ca = None if settings.ca is None else str(settings.ca)
            tls = {"ssl": True, "ssl_cert_reqs": "required", "ssl_check_hostname": True, "ssl_ca_certs": ca}
            if settings.client_files is not None:
                tls["ssl_certfile"], tls["ssl_keyfile"] = map(str, settings.client_files)
        self._client = redis.Redis(
            host=host,
            port=port,
            db=int(settings.path or 0),
            username=settings.username,
            password=self._password,
            client_name="vision-infer",
            socket_connect_timeout=self.connect_s,
            socket_timeout=self.acknowledge_s,
            retry=Retry(NoBackoff(), 0),
            **tls,
        )
        self._call(self._client.ping)
        return True

    def deliver(self, records: Sequence[Record]) -> None:
        """Add the records."""
        with self._client.pipeline(transaction=True) as entries:
            for record in records:
                message = self._message(record)
                key = f"{self._settings.prefix}:{message.stream}" if message.stream else self._settings.prefix
                if key not in self._checked:
                    self._call(partial(self._client.xlen, key))
                    self._checked.add(key)
                fields = message.headers | {"content-type": message.content_type, "row": message.body}
                entries.xadd(key, fields, maxlen=self._settings.max_rows, approximate=True)
            self._call(entries.execute)

    def _call(self, command: Callable[[], object]) -> None:
        import redis.exceptions

        try:
            command()
        except redis.exceptions.RedisError as error:
            raise self._problem(error) from error
        self._used_ns = self._clock.monotonic_ns()

    def _problem(self, error: Exception) -> UndeliveredError:
        import redis.exceptions as problems

        text = " ".join(str(error).split()).rpartition("caused error: ")[2]  # without the rows
        if isinstance(error, problems.AuthenticationError):
            hint = "Check username and password."
            return UndeliveredError(f"{self._where}: Redis refused the connection: wrong user or password", hint, patient=True)
        if isinstance(error, problems.NoPermissionError):
            hint = f"Allow this user +xadd +xlen +multi +exec +@connection on the keys {self._settings.prefix}*."
            return UndeliveredError(f"{self._where}: Redis refused a command: {text}", hint, patient=True)
        if isinstance(error, problems.TimeoutError):
            return UndeliveredError(f"{self._where}: no answer in time", "Check host, port and TLS.")
        if isinstance(error, problems.ResponseError):
            hint = ""
            if "NOAUTH" in text or "uthentication required" in text:
                hint = "Set password."
            elif text.startswith("WRONGTYPE"):
                hint = "Choose another prefix."
            return UndeliveredError(f"{self._where}: Redis refused a command: {text}", hint, patient=bool(hint))
        return self._unreachable(error)

    def poll(self) -> None:
        """Check a connection that was not used for a second."""
        if self._clock.monotonic_ns() - self._used_ns >= POLL_NS:
            self._call(self._client.ping)

    def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(OSError):
                client.close()
