"""A carrier that publishes records to an MQTT broker, and beside them what is so now: states, counts, who may find us."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.sink.delivery.carrier import Record, UndeliveredError
from vision_infer.sink.delivery.certificates import tls_context, tls_problem
from vision_infer.sink.delivery.home_assistant import Topics, discovery
from vision_infer.sink.delivery.retained_topics import RetainedTopics
from vision_infer.sink.delivery.stream_view import Counts, ShownStream

CONNECT_S = 10.0
"""how long the broker may take to answer"""
TAKEN_S = 20.0
"""how long it may take to acknowledge"""
KEEPALIVE_S = 30
MOST = 200
"""messages that are on their way at the same time"""
LOOK_NS = 1_000_000_000
_TOPIC_OF = {"detections": "detections", "events": "events", "states": "state", "degraded": "degraded"}
_REFUSALS = {
    1: "it does not speak MQTT 3.1.1",
    2: "it does not accept our client id",
    3: "it is not available",
    4: "wrong user or password",
    5: "this user may not connect",
}


class MqttCarrier:
    """Publishes with QoS 1: ``PREFIX/STREAM/detections``, ``events`` and, retained, ``state``; ``PREFIX/engine``.

    Beside the records, and not spooled, since only the newest counts: ``PREFIX/availability``, ``PREFIX/STREAM/counts`` at most
    once a second, and what Home Assistant is to find. All of these are retained, and taken away when their stream is.

    Args:
        host: of the broker.
        port: of the broker.
        tls: whether the connection is encrypted.
        ca: certificates that are trusted, PEM; None: those of the system.
        user: name and password; None: none.
        topics: where is published.
        found_under: prefix under which Home Assistant looks; None: it is told nothing.
        announced: remembers what is retained at the broker.
        shown: the streams as they are now.
        sends_states: changes of state come as records.
        clock: tells the time.
    """

    most = MOST

    def __init__(
        self,
        host: str,
        port: int,
        tls: bool,
        ca: Path | None,
        user: tuple[str, str | None] | None,
        topics: Topics,
        found_under: str | None,
        announced: RetainedTopics,
        shown: Callable[[], Iterable[ShownStream]],
        sends_states: bool = True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._host, self._port = host, port
        self._where = f"{host}:{port}"
        self._tls, self._ca = tls, ca
        self._user = user
        self._topics = topics
        self._found_under = found_under
        self._announced = announced
        self._shown = shown
        self._sends_states = sends_states
        self._clock = clock
        self._client: Any = None
        self._name = ""
        self._lock = threading.Lock()
        self._change = threading.Condition(self._lock)
        self._answer: int | None = None
        self._lost: str | None = None
        self._taken: set[int] = set()
        self._retained: dict[str, str] = {}
        """what this connection has published and the broker retains, by topic"""
        self._looked_ns: int | None = None
        self._counts: dict[str, Counts] = {}
        self._counting = threading.Lock()

    def count(self, stream: str, labels: Mapping[str, int]) -> None:
        """Take what a picture shows, on any thread: objects by label."""
        with self._counting:
            counts = self._counts.get(stream)
            if counts is None:
                counts = self._counts[stream] = Counts()
            counts.add(labels)

    # The connection

    def open(self, name: str) -> bool:
        """Connect, and say that we are there."""
        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        self.close()
        self._name = name
        self._answer = self._lost = self._looked_ns = None
        self._taken.clear()
        self._retained.clear()
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"vision-infer-{name}",
            protocol=paho.MQTTv311,
            clean_session=True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_S
        client.max_inflight_messages_set(MOST)
        client.will_set(self._topics.availability, "offline", 1, retain=True)
        if self._user is not None:
            client.username_pw_set(*self._user)
        if self._tls:
            client.tls_set_context(tls_context(self._where, self._ca))
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
            raise UndeliveredError(f"{self._where}: the broker refuses us: {reason}", "check username and password", patient=True)
        if answer is None:
            silent = f"does not answer within {CONNECT_S:g} s" if lost is None else "ends the connection instead of answering"
            raise UndeliveredError(f"{self._where}: {silent}", "is it a broker, and the right port?")
        self._publish_all({self._topics.availability: "online"}, retain=True)
        return True

    def _answered(self) -> tuple[int | None, str | None]:
        """What the broker answers, and why the connection is lost, where it is."""
        with self._change:
            self._change.wait_for(lambda: self._answer is not None or self._lost is not None, CONNECT_S)
            return self._answer, self._lost

    def _unreachable(self, error: Exception) -> UndeliveredError:
        problem = tls_problem(self._where, error)
        if problem is not None:
            return problem
        if isinstance(error, socket.gaierror):
            return UndeliveredError(f"{self._where}: there is no host of this name")
        if isinstance(error, TimeoutError):
            return UndeliveredError(f"{self._where}: does not answer within {CONNECT_S:g} s")
        reason = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
        hint = "is it a port with TLS?" if self._tls and isinstance(error, ConnectionResetError) else ""
        return UndeliveredError(f"{self._where}: cannot be reached: {reason}", hint)

    def close(self) -> None:
        """Say that we go, and disconnect."""
        client, self._client = self._client, None
        if client is None:
            return
        # RuntimeError: the connection is lost, and nobody has told us yet.
        with suppress(OSError, ValueError, RuntimeError):
            if self._lost is None and self._answer == 0:
                client.publish(self._topics.availability, "offline", 1, retain=True).wait_for_publish(1.0)
        with suppress(OSError, ValueError, RuntimeError):
            client.disconnect()
        # The network thread may hang in a dead connection: it is not waited for.
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
                self._taken.add(number)
                self._change.notify_all()

    # What is published

    def deliver(self, records: Sequence[Record]) -> None:
        """Publish them, and wait until the broker has them all."""
        # A state may come out of the spool when its stream is gone already.
        self._announced.add(self._topics.of(one.stream, "state") for one in records if one.kind == "states")
        self._publish([self._message(record) for record in records])

    def _message(self, record: Record) -> tuple[str, str, bool]:
        row = f'{{"id": "{record.id_in(self._name)}", {record.text[1:]}'
        if record.kind == "engine":
            return f"{self._topics.prefix}/engine", row, False
        return self._topics.of(record.stream, _TOPIC_OF[record.kind]), row, record.kind == "states"

    def _publish_all(self, messages: dict[str, str], retain: bool) -> None:
        self._publish([(topic, payload, retain) for topic, payload in messages.items()])

    def _publish(self, messages: Sequence[tuple[str, str, bool]]) -> None:
        """Publish, and wait for the broker's acknowledgements.

        Raises:
            UndeliveredError: it does not give them.
        """
        for start in range(0, len(messages), MOST):
            wanted = set()
            for topic, payload, retain in messages[start : start + MOST]:
                sent = self._client.publish(topic, payload.encode("utf-8", "backslashreplace"), 1, retain)
                if sent.rc:
                    raise UndeliveredError(f"{self._where}: the connection is lost", hung_up=True)
                wanted.add(sent.mid)
            with self._change:
                self._change.wait_for(lambda: wanted <= self._taken or self._lost is not None, TAKEN_S)  # noqa: B023
                missing = len(wanted - self._taken)
                self._taken -= wanted
                lost = self._lost
            if missing:
                said = f"the connection is lost: {lost}" if lost else f"does not acknowledge within {TAKEN_S:g} s"
                raise UndeliveredError(f"{self._where}: {said}", hung_up=lost is not None)

    def look(self) -> None:
        """Once a second: publish what has changed of what is so now, and take away what is of streams that are gone."""
        if self._lost is not None:
            raise UndeliveredError(f"{self._where}: the connection is lost: {self._lost}")
        now_ns = self._clock.monotonic_ns()
        if self._looked_ns is not None and now_ns - self._looked_ns < LOOK_NS:
            return
        first = self._looked_ns is None
        self._looked_ns = now_ns
        streams = list(self._shown())
        wanted: dict[str, str] = {}
        with self._counting:
            for gone in self._counts.keys() - {stream.name for stream in streams}:
                del self._counts[gone]
        for stream in streams:
            objects, labels = self._counted(stream.name)
            wanted[self._topics.of(stream.name, "counts")] = _counts_row(stream, objects, labels)
            if self._found_under is not None:
                wanted |= discovery(self._found_under, self._topics, stream)
        states = {self._topics.of(stream.name, "state"): stream.state for stream in streams}
        if not self._sends_states:
            wanted |= states
        # A broker that was started anew may have forgotten them; changes come as records.
        self._tell(wanted, {*wanted, *states}, states if first else {})

    def _tell(self, wanted: dict[str, str], keep: set[str], again: dict[str, str]) -> None:
        gone = [topic for topic in self._announced.topics if topic not in keep]
        self._announced.add(keep)  # before they are there: who is killed in between takes them away later
        changed = {topic: payload for topic, payload in wanted.items() if self._retained.get(topic) != payload}
        self._publish_all({**dict.fromkeys(gone, ""), **again, **changed}, retain=True)
        for topic in gone:
            self._retained.pop(topic, None)
        self._retained |= changed
        self._announced.remove(gone)

    def _counted(self, stream: str) -> tuple[int, dict[str, int]]:
        with self._counting:
            counts = self._counts.get(stream)
            return (0, {}) if counts is None else counts.taken()


def _counts_row(stream: ShownStream, objects: int, labels: dict[str, int]) -> str:
    lines = {name: {"in": entered, "out": left} for name, (entered, left) in stream.lines.items()}
    row = {"objects": objects, "labels": labels, "zones": dict(stream.zones), "lines": lines}
    return json.dumps(row, ensure_ascii=False)


def _code(reason: Any) -> int:
    """The code of MQTT 3.1.1 of an answer that the library gives as one of MQTT 5."""
    names = {
        "Unsupported protocol version": 1,
        "Client identifier not valid": 2,
        "Server unavailable": 3,
        "Bad user name or password": 4,
        "Not authorized": 5,
    }
    return 0 if not reason.is_failure else names.get(str(reason), int(reason.value))
