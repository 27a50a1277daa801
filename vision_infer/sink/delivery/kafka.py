"""A carrier that produces records to a Kafka topic."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from vision_infer.config.sinks import KafkaSettings
from vision_infer.sink.delivery.bus import BusCarrier
from vision_infer.sink.delivery.carrier import CarrierContext, Record, UndeliveredError, UnwantedError
from vision_infer.sink.delivery.certificates import tls_context

_STEP_S = 0.1
_ADDED = re.compile(r"^\S+/(bootstrap|\d+): | \(after \d+ms in state .*$")
"""What the library adds to a reason. The time differs each time, and a problem is logged again if its text changes."""


def open_carrier(settings: KafkaSettings, _context: CarrierContext) -> KafkaCarrier:
    """Make the carrier of a sink."""
    return KafkaCarrier(settings)


class KafkaCarrier(BusCarrier[KafkaSettings]):
    """Produces each record with its stream as the key, so that all records of a stream are in one partition, in order.

    The producer is idempotent (``acks=all``), so that its own retries neither repeat nor reorder records. It is replaced after
    each failure; then records can arrive again, with the same ``id`` header.
    """

    max_records = 500
    ce_prefix = "ce_"

    def __init__(self, settings: KafkaSettings) -> None:
        super().__init__(settings)
        self._producer: Any = None
        self._reported: Any = None
        """The last error of a connection that the library reported."""
        self._all_down = False

    def open(self, name: str) -> bool:
        """Connect, and check that the topic exists."""
        from confluent_kafka import KafkaException, Producer

        self.close()
        self._name = name
        try:
            self._producer = Producer(self._options())
        except KafkaException as error:
            raise self._problem(error.args[0]) from error
        topic = self._described()
        if topic.error is not None:
            raise self._problem(topic.error)
        self._reported, self._all_down = None, False
        return True

    def _described(self) -> Any:
        """Return what the cluster answers about the topic."""
        from confluent_kafka import KafkaException

        deadline = time.monotonic() + self.connect_s
        while True:
            try:
                return self._producer.list_topics(self._settings.topic, timeout=_STEP_S).topics[self._settings.topic]
            except KafkaException as error:
                self._producer.poll(0)  # calls back with the reason
                if self._all_down or time.monotonic() > deadline:
                    raise self._problem(self._reported or error.args[0]) from error

    def _options(self) -> dict[str, object]:
        settings = self._settings
        options: dict[str, object] = {
            "bootstrap.servers": self._where,
            "client.id": "vision-infer",
            "security.protocol": f"{'sasl_' * (settings.username is not None)}{'ssl' if settings.tls else 'plaintext'}",
            "enable.idempotence": True,
            "message.timeout.ms": 0,  # this carrier limits the time itself: single records must not time out
            "batch.size": 65_536,  # smaller than the limits of topics: a batch that is too large would fail as a whole
            "partitioner": "murmur2_random",  # as the Java client, so that other producers choose the same partitions
            "socket.connection.setup.timeout.ms": round(self.connect_s * 1000),
            "reconnect.backoff.max.ms": 1000,
            "error_cb": self._on_error,
            "log_level": 0,  # the sink logs each problem once
        }
        if settings.tls:
            tls_context(self._where, settings.ca, settings.client_files)  # reports a file that cannot be read
            options["ssl.ca.location"] = "probe" if settings.ca is None else str(settings.ca)
            if settings.client_files is not None:
                options["ssl.certificate.location"], options["ssl.key.location"] = map(str, settings.client_files)
        if settings.username is not None:
            options |= {"sasl.mechanism": settings.sasl, "sasl.username": settings.username}
            options |= {"sasl.password": self._password or ""}
        return options

    def _on_error(self, error: Any) -> None:
        from confluent_kafka import KafkaError

        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._all_down = True
        else:
            self._reported = error

    def deliver(self, records: Sequence[Record]) -> None:
        """Produce the records, and wait until all replicas in sync have them."""
        from confluent_kafka import KafkaException

        failed: list[Any] = []
        missing = len(records)

        def note(error: Any, _message: Any) -> None:
            nonlocal missing
            missing -= 1
            if error is not None:
                failed.append(error)

        for record in records:
            message = self._message(record)
            headers = message.headers | {"content-type": message.content_type}
            try:
                self._producer.produce(
                    self._settings.topic, message.body, message.stream or None, headers=headers, on_delivery=note
                )
            except KafkaException as error:
                raise self._problem(error.args[0]) from error
            except BufferError as error:
                raise UndeliveredError(f"{self._where}: the queue of the producer is full") from error
        deadline = time.monotonic() + self.acknowledge_s
        while missing and not self._all_down and time.monotonic() < deadline:
            self._producer.poll(_STEP_S)
        if failed:
            raise self._problem(failed[0])
        if missing:
            raise self._lost() if self._all_down else self._unacknowledged()

    def _lost(self) -> Exception:
        """Return the reason why no broker can be reached."""
        if self._reported is not None:
            return self._problem(self._reported)
        return UndeliveredError(f"{self._where}: the connection is lost")

    def _problem(self, error: Any) -> Exception:
        from confluent_kafka import KafkaError

        code, text = error.code(), _ADDED.sub("", " ".join(str(error.str()).split()))
        if code in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG, KafkaError.INVALID_MSG_SIZE):
            return UnwantedError(f"{self._where}: {text}", "rejected_too_large")
        if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION):
            name = self._settings.topic
            return UndeliveredError(f"{self._where}: the topic {name} does not exist", "Create it.", patient=True)
        if code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED):
            hint = f"Allow this user to write to the topic {self._settings.topic}."
            return UndeliveredError(f"{self._where}: Kafka refused the rows: {text}", hint, patient=True)
        if code in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED):
            hint = "Check username, password and sasl."
            return UndeliveredError(f"{self._where}: Kafka refused the connection: {text}", hint, patient=True)
        if code == KafkaError._SSL:
            if "certificate" in text.lower():
                hint = "Set ca to the certificate of the authority that issued it, and check that it is for this host and valid."
                return UndeliveredError(f"{self._where}: the certificate is not accepted", hint, patient=True)
            hint = "Check that the port uses TLS."
            return UndeliveredError(f"{self._where}: the TLS handshake failed: {text}", hint, patient=True)
        return UndeliveredError(f"{self._where}: cannot be reached: {text}", "Check host, port and TLS.")

    def poll(self) -> None:
        """Notice that all brokers are down."""
        self._producer.poll(0)
        if self._all_down:
            raise self._lost()

    def close(self) -> None:
        """Disconnect, and drop what was not acknowledged; the spool still has it."""
        producer, self._producer = self._producer, None
        self._reported, self._all_down = None, False
        if producer is not None:
            with suppress(Exception):
                producer.purge()
                producer.flush(0.1)
