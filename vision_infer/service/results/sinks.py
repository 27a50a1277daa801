"""Where results, events and states go besides who listens: brokers, web hooks, files. A sink that all streams share."""

from __future__ import annotations

import base64
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vision_infer.config.serve import ResultsSettings
from vision_infer.config.sinks import Kind, MqttSettings, SinkSettings, SinksSettings, WebhookSettings
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result, utc
from vision_infer.core.scene_event import SceneEvent
from vision_infer.pipeline.status import StreamEvent
from vision_infer.service.backend import StreamView
from vision_infer.service.operations.engine_event import EngineEvent, engine_row
from vision_infer.service.results.hub import state_row
from vision_infer.service.streams.degrading import DegradeEvent, degrade_row
from vision_infer.sink.archive.jsonl_log import JsonlLog
from vision_infer.sink.archive.parquet_log import ParquetLog
from vision_infer.sink.delivery.carrier import Carrier, SinkStatus
from vision_infer.sink.delivery.delivery_sink import GOODBYE_S, Delivery
from vision_infer.sink.delivery.home_assistant import Topics
from vision_infer.sink.delivery.mqtt import MqttCarrier
from vision_infer.sink.delivery.retained_topics import RetainedTopics
from vision_infer.sink.delivery.stream_view import ShownStream
from vision_infer.sink.delivery.webhook import WebhookCarrier
from vision_infer.sink.sink import Written
from vision_infer.stream.redact import redact

FOLDER = "spool"

_log = logging.getLogger("vision_infer.sinks")


@dataclass(frozen=True, slots=True)
class _Sender:
    """A sink that sends, with what of all it wants."""

    settings: SinkSettings
    delivery: Delivery
    mqtt: MqttCarrier | None

    def takes(self, stream: str) -> bool:
        """Whether it wants to know of this stream."""
        return self.settings.streams is None or stream in self.settings.streams

    def wants(self, kind: Kind) -> bool:
        """Whether it wants what is of this kind."""
        return kind in self.settings.kinds


class SinkSet:
    """All sinks of a service. Results come on one thread; states, and whoever looks, on any.

    Args:
        results: which files of results.
        sinks: which receivers.
        state_dir: what waits for them is below it.
        clock: tells the time.
    """

    needs_images = False
    outputs: Sequence[Written] = ()

    def __init__(self, results: ResultsSettings, sinks: SinksSettings, state_dir: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        self._folder = state_dir / FOLDER
        self._clock = clock
        self._shown: Callable[[], Iterable[ShownStream]] = tuple
        rotate_bytes, daily, keep = round(results.rotate_mb * 1e6), results.daily, results.keep
        self._jsonl = None if results.jsonl is None else JsonlLog(results.jsonl, rotate_bytes, daily, keep, clock)
        self._parquet: ParquetLog | None = None
        if results.parquet is not None:
            self._parquet = ParquetLog(results.parquet, rotate_bytes, results.parquet_minutes * 60, daily, keep, clock)
        self._settings = sinks
        self._senders: dict[tuple[str, str], _Sender] = {}
        """by kind and name; replaced as a whole, so that the results thread needs no lock to go through it"""
        self.reload(sinks)

    def show(self, shown: Callable[[], Iterable[StreamView]]) -> None:
        """Say where the streams are asked for as they are now."""
        self._shown = lambda: [_shown(view) for view in shown()]

    def reload(self, sinks: SinksSettings) -> None:
        """Take other settings; sinks whose settings are the same go on untouched. What waits for others is sent by those anew."""
        wanted = _by_name(sinks)
        kept = {key: sender for key, sender in self._senders.items() if wanted.get(key) == sender.settings}
        old = [sender for key, sender in self._senders.items() if key not in kept]
        self._senders = kept
        _close([sender.delivery for sender in old], self._clock)
        for kind, name in sorted({(one.delivery.kind, one.delivery.name) for one in old} - wanted.keys()):
            _log.info("%s: removed from the file of settings; what waits for it stays in %s", name, self._place(kind, name))
        self._senders = kept | {key: self._sender(key, one) for key, one in wanted.items() if key not in kept}
        self._settings = sinks

    def _place(self, kind: str, name: str) -> Path:
        return self._folder / f"{kind}-{name}"

    def _sender(self, key: tuple[str, str], settings: SinkSettings) -> _Sender:
        kind, name = key
        place = self._place(kind, name)
        size = round(settings.spool_mb * 1e6)
        if isinstance(settings, MqttSettings):
            mqtt = self._mqtt(settings, place)
            return _Sender(settings, Delivery(name, "mqtt", place, size, mqtt, self._clock), mqtt)
        assert isinstance(settings, WebhookSettings)
        return _Sender(settings, Delivery(name, "webhook", place, size, _webhook(settings, self._clock), self._clock), None)

    def _mqtt(self, settings: MqttSettings, place: Path) -> MqttCarrier:
        password = None if settings.password is None else settings.password.get_secret_value()

        def shown() -> list[ShownStream]:
            return [one for one in self._shown() if settings.streams is None or one.name in settings.streams]

        return MqttCarrier(
            settings.host,
            settings.port,
            settings.tls,
            settings.ca,
            None if settings.username is None else (settings.username, password),
            Topics(settings.prefix),
            settings.home_assistant,
            RetainedTopics(place / "announced.json"),
            shown,
            "states" in settings.kinds,
            self._clock,
        )

    # What comes

    def write(self, frame: Frame, result: Result | None) -> None:
        """Take a result; it waits for nothing but the files of JSON lines."""
        if self._jsonl is not None:
            self._jsonl.write(frame, result)
        if self._parquet is not None:
            self._parquet.write(frame, result)
            for event in () if result is None else result.events:
                assert result is not None
                self._parquet.tell(partial(event_row, result, event))
        senders = self._senders
        if result is None or not senders:
            return
        for sender in senders.values():
            self._offer(sender, result)

    def _offer(self, sender: _Sender, result: Result) -> None:
        name = result.stream
        if not sender.takes(name):
            return
        if sender.mqtt is not None:
            sender.mqtt.count(name, Counter(result.detections.labels))
        if sender.wants("detections") and (holds(result) or not sender.settings.only_with_detections):
            sender.delivery.put("detections", name, result.to_json)
        if result.events and sender.wants("events"):
            for event in result.events:
                sender.delivery.put("events", name, partial(event_row, result, event))

    def tell(self, event: StreamEvent | EngineEvent | DegradeEvent) -> None:
        """Take a change of a stream, or of an engine."""
        wall_ns = self._clock.wall_ns() - (self._clock.monotonic_ns() - event.at_ns)
        row: Callable[[], str]
        if isinstance(event, EngineEvent):
            kind, stream, row = "engine", "", partial(engine_row, event, wall_ns)
        elif isinstance(event, DegradeEvent):
            kind, stream, row = "degraded", event.stream, partial(degrade_row, event, wall_ns)
        else:
            kind, stream, row = "states", event.stream, partial(state_row, event, wall_ns)
        if self._parquet is not None:
            self._parquet.tell(row)
        for sender in self._senders.values():
            if sender.wants("states") and (not stream or sender.takes(stream)):
                sender.delivery.put(kind, stream, row)

    # How it stands

    def statuses(self) -> list[SinkStatus]:
        """All of them, files first."""
        files = [
            SinkStatus("results", one.kind, one.error is None, one.error, 0, 0, 0, None, one.written, one.drops)
            for one in (self._jsonl, self._parquet)
            if one is not None
        ]
        return files + [sender.delivery.status() for _, sender in sorted(self._senders.items())]

    def close(self, complete: bool = True) -> None:
        """Leave what cannot be sent at once for the next start."""
        senders, self._senders = self._senders, {}
        _close([sender.delivery for sender in senders.values()], self._clock)
        for file in (self._jsonl, self._parquet):
            if file is not None:
                file.close(complete)


def _by_name(sinks: SinksSettings) -> Mapping[tuple[str, str], SinkSettings]:
    return {("mqtt", name): one for name, one in sinks.mqtt.items()} | {
        ("webhook", name): one for name, one in sinks.webhook.items()
    }


def _close(deliveries: Sequence[Delivery], clock: Clock) -> None:
    """Close them all at the same time, so that many that hang take no longer than one."""
    for one in deliveries:
        one.end()
    end_ns = clock.monotonic_ns() + round(GOODBYE_S * 1e9)
    for one in deliveries:
        one.close(max(0.1, (end_ns - clock.monotonic_ns()) / 1e9))


def _webhook(settings: WebhookSettings, clock: Clock) -> Carrier:
    headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
    if settings.token is not None:
        headers["Authorization"] = f"Bearer {settings.token.get_secret_value()}"
    secret = settings.secret
    key = None if secret is None else base64.b64decode(secret.get_secret_value().removeprefix("whsec_"))
    return WebhookCarrier(settings.url, settings.host, headers, key, settings.ca, settings.batch, settings.timeout_s, clock)


def holds(result: Result) -> bool:
    """Whether anything was found in a picture."""
    told = result.description
    return len(result.detections) > 0 or (told is not None and (bool(told.classes) or told.embedding is not None))


def event_row(result: Result, event: SceneEvent) -> str:
    """What happened in a scene, as one line of JSON; the event's own id is ``event``, for what is sent has one too."""
    at = {} if result.live is None else {"at": utc(result.live.captured_wall_ns)}
    told = event.to_dict()
    own = {"event": told.pop("id")} if "id" in told else {}
    return json.dumps({"type": "event", **own, "stream": result.stream, "frame": result.frame, **at, **told}, ensure_ascii=False)


def _shown(view: StreamView) -> ShownStream:
    status = view.status
    row = {"type": "state", "stream": view.name, "state": "disabled", "at": None, "reason": ""}
    if status is not None:
        row |= {"state": status.state.value, "at": utc(status.since_wall_ns), "reason": redact(status.reason)}
    settings = view.settings
    occupancy, crossings = ({}, {}) if status is None else (status.occupancy, status.counts)
    return ShownStream(
        view.name,
        json.dumps(row, ensure_ascii=False),
        settings.classes or (),
        {zone: occupancy.get(zone, 0) for zone in settings.zones},
        {line: crossings.get(line, (0, 0)) for line in settings.lines},
    )
