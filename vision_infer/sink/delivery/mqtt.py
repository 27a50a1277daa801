"""A carrier that publishes records to an MQTT broker, and the present states, counts and Home Assistant discovery with them."""

from __future__ import annotations

import json
import secrets
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vision_infer.config.sinks import MqttSettings
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.sink.delivery.carrier import CarrierContext, Record, UndeliveredError
from vision_infer.sink.delivery.certificates import tls_context, tls_problem
from vision_infer.sink.delivery.home_assistant import Topics, discovery
from vision_infer.sink.delivery.retained_topics import RetainedTopics
from vision_infer.sink.delivery.stream_images import StreamImages
from vision_infer.sink.delivery.stream_snapshot import PeakCounts, StreamSnapshot

CONNECT_S = 10.0
"""The timeout for the broker to answer, seconds."""
ACKNOWLEDGE_S = 20.0
"""The timeout for acknowledgments, seconds."""
KEEPALIVE_S = 30
MAX_IN_FLIGHT = 200
"""The maximum number of messages without acknowledgment."""
POLL_NS = 1_000_000_000
_TOPIC_OF = {"detections": "detections", "events": "events", "states": "state", "degraded": "degraded"}
_REFUSALS = {
    1: "it does not support MQTT 3.1.1",
    2: "it does not accept the client id",
    3: "it is not available",
    4: "wrong username or password",
    5: "this user is not authorized",
}


def open_carrier(settings: MqttSettings, context: CarrierContext) -> MqttCarrier:
    """Make the carrier of a sink."""
    password = None if settings.password is None else settings.password.get_secret_value()
    return MqttCarrier(
        *settings.hosts[0],
        settings.tls,
        settings.ca,
        None if settings.username is None else (settings.username, password),
        Topics(settings.prefix, context.worker),
        settings.home_assistant,
        RetainedTopics(context.folder / "retained_topics.json"),
        context.streams,
        "states" in settings.kinds,
        None if settings.image_s is None else StreamImages(context.request_image, settings.image_s, context.clock),
        context.clock,
        settings.client_files,
    )


class MqttCarrier:
    """Publishes with QoS 1: ``PREFIX/STREAM/detections``, ``events`` and, retained, ``state``; ``PREFIX/engine``.

    It also publishes, without the spool, because only the newest value counts: ``PREFIX/availability``, ``PREFIX/STREAM/counts``
    at most once a second, ``PREFIX/STREAM/image``, and the discovery messages of Home Assistant. All of these are retained, and
    deleted with their stream.

    Args:
        host: The host of the broker.
        port: The port of the broker.
        tls: Whether the connection is encrypted.
        ca: The file of trusted certificates, PEM; None: those of the system.
        user: The user name and password; None: no authentication.
        topics: The topics of the service.
        discovery_prefix: The prefix under which Home Assistant searches; None: no discovery.
        retained: The topics that the broker retains.
        streams: A function that returns the present streams.
        sends_states: Whether changes of state come as records.
        images: The images to publish; None: none.
        clock: The clock.
    """

    max_records = MAX_IN_FLIGHT

    def __init__(
        self,
        host: str,
        port: int,
        tls: bool,
        ca: Path | None,
        user: tuple[str, str | None] | None,
        topics: Topics,
        discovery_prefix: str | None,
        retained: RetainedTopics,
        streams: Callable[[], Iterable[StreamSnapshot]],
        sends_states: bool = True,
        images: StreamImages | None = None,
        clock: Clock = SYSTEM_CLOCK,
        client_files: tuple[Path, Path] | None = None,
    ) -> None:
        self._client_files = client_files
        self._host, self._port = host, port
        self._where = f"{host}:{port}"
        self._tls, self._ca = tls, ca
        self._user = user
        self._topics = topics
        self._discovery_prefix = discovery_prefix
        self._retained = retained
        self._streams = streams
        self._sends_states = sends_states
        self._images = images
        self._clock = clock
        self._client: Any = None
        self._name = ""
        self._online = False
        """Whether this connection published that the service is available."""
        # Guards the four attributes below. Callbacks on the network thread hold it to note an answer; the sender waits on it.
        self._lock = threading.Lock()
        self._change = threading.Condition(self._lock)
        self._answer: int | None = None
        self._lost: str | None = None
        self._acknowledged: set[int] = set()
        self._published: dict[str, str] = {}
        """The retained messages that this connection published, by topic."""
        self._polled_ns: int | None = None
        self._counts: dict[str, PeakCounts] = {}
        # Guards the counts: the thread of results adds to them, the sender reads them once a second.
        self._counts_lock = threading.Lock()

    def count(self, stream: str, labels: Mapping[str, int]) -> None:
        """Add the objects of an image, by label, on any thread."""
        with self._counts_lock:
            counts = self._counts.get(stream)
            if counts is None:
                counts = self._counts[stream] = PeakCounts()
            counts.add(labels)

    # The connection

    def open(self, name: str) -> bool:
        """Connect, and publish that the service is available."""
        self._connect(name, presence=True)
        self._online = True
        self._publish_all({self._topics.availability: "online"}, retain=True)
        return True

    def check(self) -> bool:
        """Connect with another client id, so that a running service stays connected and available."""
        try:
            self._connect(f"doctor-{secrets.token_hex(4)}", presence=False)
        finally:
            self.close()
        return True

    def _connect(self, name: str, presence: bool) -> None:
        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        self.close()
        self._name = name
        self._answer = self._lost = self._polled_ns = None
        self._acknowledged.clear()
        self._published.clear()
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"vision-infer-{name}",
            protocol=paho.MQTTv311,
            clean_session=True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_S
        client.max_inflight_messages_set(MAX_IN_FLIGHT)
        if presence:
            client.will_set(self._topics.availability, "offline", 1, retain=True)
        if self._user is not None:
            client.username_pw_set(*self._user)
        if self._tls:
            client.tls_set_context(tls_context(self._where, self._ca, self._client_files))
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        try:
            client.connect(self._host, self._port, KEEPALIVE_S)
        except (OSError, ValueError) as error:
            raise self._unreachable(error) from error
        self._client = client
        client.loop_start()
        answer, lost = self._answered()
        if answer:
            reason = _REFUSALS.get(answer, f"code {answer}")
            raise UndeliveredError(
                f"{self._where}: the broker refused the connection: {reason}", "Check username and password.", patient=True
            )
        if answer is None:
            problem = f"no answer within {CONNECT_S:g} s" if lost is None else "the connection was closed instead of an answer"
            raise UndeliveredError(f"{self._where}: {problem}", "Check that it is an MQTT broker and the right port.")

    def _answered(self) -> tuple[int | None, str | None]:
        """Return the answer of the broker, and why the connection was lost, if it was."""
        with self._change:
            self._change.wait_for(lambda: self._answer is not None or self._lost is not None, CONNECT_S)
            return self._answer, self._lost

    def _unreachable(self, error: Exception) -> UndeliveredError:
        problem = tls_problem(self._where, error)
        if problem is not None:
            return problem
        if isinstance(error, socket.gaierror):
            return UndeliveredError(f"{self._where}: unknown host")
        if isinstance(error, TimeoutError):
            return UndeliveredError(f"{self._where}: no answer within {CONNECT_S:g} s")
        reason = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
        hint = "Check that the port uses TLS." if self._tls and isinstance(error, ConnectionResetError) else ""
        return UndeliveredError(f"{self._where}: cannot be reached: {reason}", hint)

    def close(self) -> None:
        """Publish that the service is offline, and disconnect."""
        client, self._client = self._client, None
        online, self._online = self._online, False
        if client is None:
            return
        # RuntimeError: the connection is lost, and the callback has not been called yet.
        with suppress(OSError, ValueError, RuntimeError):
            if online and self._lost is None:
                client.publish(self._topics.availability, "offline", 1, retain=True).wait_for_publish(1.0)
        with suppress(OSError, ValueError, RuntimeError):
            client.disconnect()
        # The network thread may hang in a dead connection, so this does not wait for it.
        threading.Thread(target=client.loop_stop, name="mqtt-stop", daemon=True).start()

    def _on_connect(self, client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        with self._change:
            if client is self._client:
                self._answer = _code(reason)
                self._change.notify_all()

    def _on_disconnect(self, client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        with self._change:
            if client is self._client:
                self._lost = str(reason)
                self._change.notify_all()

    def _on_publish(self, client: Any, _data: Any, number: int, _reason: Any, _properties: Any) -> None:
        with self._change:
            if client is self._client:
                self._acknowledged.add(number)
                self._change.notify_all()

    # Publishing

    def deliver(self, records: Sequence[Record]) -> None:
        """Publish the records, and wait until the broker has them all."""
        # A state may come from the spool after its stream was removed.
        self._retained.add(self._topics.of(record.stream, "state") for record in records if record.kind == "states")
        self._publish([self._message(record) for record in records])

    def _message(self, record: Record) -> tuple[str, str, bool]:
        row = record.row_in(self._name)
        if record.kind == "engine":
            return f"{self._topics.prefix}/engine", row, False
        return self._topics.of(record.stream, _TOPIC_OF[record.kind]), row, record.kind == "states"

    def _publish_all(self, messages: dict[str, str], retain: bool) -> None:
        self._publish([(topic, payload, retain) for topic, payload in messages.items()])

    def _publish(self, messages: Sequence[tuple[str, str | bytes, bool]]) -> None:
        """Publish messages, and wait for the acknowledgments of the broker.

        Raises:
            UndeliveredError: They do not arrive.
        """
        for start in range(0, len(messages), MAX_IN_FLIGHT):
            wanted = set()
            for topic, payload, retain in messages[start : start + MAX_IN_FLIGHT]:
                data = payload if isinstance(payload, bytes) else payload.encode("utf-8", "backslashreplace")
                sent = self._client.publish(topic, data, 1, retain)
                if sent.rc:
                    raise UndeliveredError(f"{self._where}: the connection is lost", hung_up=True)
                wanted.add(sent.mid)
            with self._change:
                self._change.wait_for(lambda: wanted <= self._acknowledged or self._lost is not None, ACKNOWLEDGE_S)  # noqa: B023
                missing = len(wanted - self._acknowledged)
                self._acknowledged -= wanted
                lost = self._lost
            if missing:
                problem = f"the connection is lost: {lost}" if lost else f"no acknowledgment within {ACKNOWLEDGE_S:g} s"
                raise UndeliveredError(f"{self._where}: {problem}", hung_up=lost is not None)

    def poll(self) -> None:
        """Once a second, publish the present values that changed, and delete those of removed streams."""
        if self._lost is not None:
            raise UndeliveredError(f"{self._where}: the connection is lost: {self._lost}")
        now_ns = self._clock.monotonic_ns()
        if self._polled_ns is not None and now_ns - self._polled_ns < POLL_NS:
            return
        first = self._polled_ns is None
        self._polled_ns = now_ns
        streams = list(self._streams())
        wanted: dict[str, str] = {}
        with self._counts_lock:
            for gone in self._counts.keys() - {stream.name for stream in streams}:
                del self._counts[gone]
        for stream in streams:
            objects, labels = self._counted(stream.name)
            wanted[self._topics.of(stream.name, "counts")] = _counts_row(stream, objects, labels)
            if self._discovery_prefix is not None:
                wanted |= discovery(self._discovery_prefix, self._topics, stream, self._images is not None)
        states = {self._topics.of(stream.name, "state"): stream.state for stream in streams}
        if not self._sends_states:
            wanted |= states
        keep = {*wanted, *states}
        if self._images is not None:
            keep |= {self._topics.of(stream.name, "image") for stream in streams}
        # A restarted broker may have lost the states; later changes come as records.
        self._update_retained(wanted, keep, states if first else {})
        if self._images is not None:
            images = self._images.take([stream.name for stream in streams if stream.live])
            self._publish([(self._topics.of(name, "image"), image, True) for name, image in images.items()])

    def _update_retained(self, wanted: dict[str, str], keep: set[str], again: dict[str, str]) -> None:
        gone = [topic for topic in self._retained.topics if topic not in keep]
        self._retained.add(keep)  # before publishing: after a kill in between, the next start deletes them
        changed = {topic: payload for topic, payload in wanted.items() if self._published.get(topic) != payload}
        self._publish_all({**dict.fromkeys(gone, ""), **again, **changed}, retain=True)
        for topic in gone:
            self._published.pop(topic, None)
        self._published |= changed
        self._retained.remove(gone)

    def _counted(self, stream: str) -> tuple[int, dict[str, int]]:
        with self._counts_lock:
            counts = self._counts.get(stream)
            return (0, {}) if counts is None else counts.read()


def _counts_row(stream: StreamSnapshot, objects: int, labels: dict[str, int]) -> str:
    lines = {name: {"in": entered, "out": left} for name, (entered, left) in stream.lines.items()}
    row = {"objects": objects, "labels": labels, "zones": dict(stream.zones), "lines": lines}
    return json.dumps(row, ensure_ascii=False)


def _code(reason: Any) -> int:
    """Return the MQTT 3.1.1 code of an answer, which the library reports as an MQTT 5 reason."""
    names = {
        "Unsupported protocol version": 1,
        "Client identifier not valid": 2,
        "Server unavailable": 3,
        "Bad user name or password": 4,
        "Not authorized": 5,
    }
    return 0 if not reason.is_failure else names.get(str(reason), int(reason.value))
