"""The sinks of results, events and states: brokers, message buses, webhooks and files. All streams share them."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vision_infer.config.actions.destination import Kind, SinkSettings
from vision_infer.config.actions.notify import NotifySettings
from vision_infer.config.actions.sample import SampleSettings, SampleStoreSettings
from vision_infer.config.service.result_files import ResultsSettings
from vision_infer.config.sinks import SinksSettings
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result, utc
from vision_infer.core.scene_event import SceneEvent
from vision_infer.pipeline.status import StreamState
from vision_infer.service.events import EngineEvent, ServiceEvent, kind_of, to_row, wall_ns_of
from vision_infer.service.results.event_image import EventImages
from vision_infer.service.results.hub import ResultHub
from vision_infer.service.results.row import is_found
from vision_infer.service.results.samples import Samples
from vision_infer.service.results.snapshot import NextImage
from vision_infer.service.views import StreamView
from vision_infer.sink.archive.jsonl_log import JsonlLog
from vision_infer.sink.archive.parquet_log import ParquetLog
from vision_infer.sink.archive.rotation import Rotation
from vision_infer.sink.delivery.carrier import Carrier, CarrierContext, SinkStatus, carrier_of
from vision_infer.sink.delivery.delivery_sink import GOODBYE_S, Delivery
from vision_infer.sink.delivery.stream_snapshot import StreamSnapshot
from vision_infer.sink.sink import Written
from vision_infer.stream.redact import redact

if TYPE_CHECKING:
    from vision_infer.sink.otlp.telemetry import Telemetry

FOLDER = "spool"

_log = logging.getLogger("vision_infer.sinks")


@dataclass(frozen=True, slots=True)
class _Sender:
    """A sink that sends over the network, with its settings."""

    settings: SinkSettings
    delivery: Delivery
    carrier: Carrier

    def takes(self, stream: str) -> bool:
        """Return whether the sink subscribes to this stream."""
        return self.settings.streams is None or stream in self.settings.streams

    def wants(self, kind: Kind) -> bool:
        """Return whether the sink subscribes to this kind of record."""
        return kind in self.settings.kinds


class SinkSet:
    """All sinks of a service. One thread writes results; events and status requests may come from any thread.

    Args:
        results: The settings of result files.
        sinks: The settings of brokers and webhooks.
        state_dir: The folder whose ``spool`` subfolder holds records that wait to be sent.
        clock: The source of time.
        worker: The name of the worker process; empty if the service has one process.
        samples: The settings of samples for labeling; None: there are none.
        telemetry: The traces of frames, running; closed with the sinks. None: none.
    """

    needs_images = False
    outputs: Sequence[Written] = ()

    def __init__(
        self,
        results: ResultsSettings,
        sinks: SinksSettings,
        state_dir: Path,
        clock: Clock = SYSTEM_CLOCK,
        worker: str = "",
        samples: SampleStoreSettings | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._folder = state_dir / FOLDER
        self._worker = worker
        self._telemetry = telemetry
        self._clock = clock
        self._streams: Callable[[], Iterable[StreamSnapshot]] = tuple
        self._hub: ResultHub | None = None
        rotation = Rotation(round(results.rotate_mb * 1e6), results.daily, results.keep, results.parquet_minutes * 60)
        self._jsonl = None if results.jsonl is None else JsonlLog(results.jsonl, rotation, clock)
        self._parquet: ParquetLog | None = None
        if results.parquet is not None:
            self._parquet = ParquetLog(results.parquet, rotation, clock)
        self._wanted_samples: Callable[[], Mapping[str, SampleSettings | None]] = dict
        self._samples: Samples | None = None
        if samples is not None and samples.dir is not None:
            limits = round(samples.max_mb * 1e6), round(samples.keep_free_mb * 1e6)
            self._samples = Samples(samples.dir, *limits, lambda: self._wanted_samples(), clock)
        self.stamps: Mapping[str, str] = {}
        """The first members of the records of each stream: the node of a cluster, and the epoch. Replaced as a whole."""
        self._senders: dict[tuple[str, str], _Sender] = {}
        """The senders by kind and name. The dict is replaced as a whole, so that the results thread needs no lock to read it."""
        self._images = EventImages(clock)
        self.reload(sinks)

    def connect(self, streams: Callable[[], Iterable[StreamView]], hub: ResultHub) -> None:
        """Set the function that returns the current streams, and the source of their images."""
        self._streams = lambda: [_snapshot(view) for view in streams()]
        self._hub = hub
        self._wanted_samples = lambda: {view.name: view.settings.sample for view in streams()}

    def _request_image(self, stream: str) -> NextImage:
        assert self._hub is not None  # without it there are no streams
        return NextImage(self._hub, stream, self._clock)

    def reload(self, sinks: SinksSettings) -> None:
        """Apply new settings. Unchanged sinks keep running; re-created sinks send what is still in their spools."""
        wanted = _by_name(sinks)
        kept = {key: sender for key, sender in self._senders.items() if wanted.get(key) == sender.settings}
        old = [sender for key, sender in self._senders.items() if key not in kept]
        self._senders = kept
        _close([sender.delivery for sender in old], self._clock)
        for kind, name in sorted({(one.delivery.kind, one.delivery.name) for one in old} - wanted.keys()):
            _log.info("%s: removed from the configuration file; its unsent records stay in %s", name, self._spool(kind, name))
        self._senders = kept | {key: self._sender(key, one) for key, one in wanted.items() if key not in kept}

    def _spool(self, kind: str, name: str) -> Path:
        return self._folder / f"{kind}-{name}"

    def _sender(self, key: tuple[str, str], settings: SinkSettings) -> _Sender:
        kind, name = key
        spool = self._spool(kind, name)
        size = round(settings.spool_mb * 1e6)
        context = CarrierContext(spool, partial(self._subscribed, settings), self._request_image, self._clock, self._worker)
        carrier = carrier_of(kind, settings, context)
        return _Sender(settings, Delivery(name, kind, spool, size, carrier, self._clock), carrier)

    def _subscribed(self, settings: SinkSettings) -> list[StreamSnapshot]:
        return [stream for stream in self._streams() if settings.streams is None or stream.name in settings.streams]

    # Input

    def write(self, frame: Frame, result: Result | None) -> None:
        """Pass a result to all sinks. Only writing the JSON Lines file can block."""
        if self._jsonl is not None:
            self._jsonl.write(frame, result)
        if self._parquet is not None:
            self._parquet.write(frame, result)
            for event in () if result is None else result.events:
                assert result is not None
                self._parquet.add_event(partial(event_row, result, event))
        if self._samples is not None and result is not None:
            self._samples.write(frame, result)
        if result is not None:
            for sender in self._senders.values():
                self._offer(sender, frame, result)
        if self._telemetry is not None:  # the last one, to see how long the others take
            self._telemetry.frames.write(frame, result)

    def compared(self, frame: Frame, result: Result, difference: tuple[float, float]) -> None:
        """Take a frame that the shadow model has seen too; a sample may be made of it."""
        if self._samples is not None:
            self._samples.compared(frame, result, difference)

    def _offer(self, sender: _Sender, frame: Frame, result: Result) -> None:
        name = result.stream
        if not sender.takes(name):
            return
        if sender.carrier.count is not None:
            sender.carrier.count(name, Counter(result.detections.labels))
        if sender.wants("detections") and (is_found(result) or not sender.settings.only_with_detections):
            sender.delivery.put("detections", name, self._stamped(name, result.to_json))
        if result.events and sender.wants("events"):
            with_image = isinstance(sender.settings, NotifySettings) and sender.settings.image
            for event in filter(sender.settings.takes, result.events):
                row = self._stamped(name, partial(event_row, result, event))
                image = self._images.of(frame, result) if with_image else None
                if image is None:
                    sender.delivery.put("events", name, row)
                elif not sender.delivery.put("events", name, partial(image.add_to, row)):
                    image.release()

    def publish(self, event: ServiceEvent) -> None:
        """Pass a change of a stream or of an engine to all sinks."""
        row = partial(to_row, event, wall_ns_of(event, self._clock))
        if self._parquet is not None:
            self._parquet.add_event(row)
        kind = kind_of(event)
        stream = "" if isinstance(event, EngineEvent) else event.stream
        stamped = self._stamped(stream, row)
        for sender in self._senders.values():
            if sender.wants("states") and (not stream or sender.takes(stream)):
                sender.delivery.put("states" if kind == "state" else kind, stream, stamped)

    def _stamped(self, stream: str, row: Callable[[], str]) -> Callable[[], str]:
        stamp = self.stamps.get(stream)
        return row if stamp is None else lambda: f"{{{stamp}{row()[1:]}"

    # Status

    def statuses(self) -> list[SinkStatus]:
        """Return the status of all sinks, files first."""
        files = [
            SinkStatus("results", one.kind, one.error is None, one.error, 0, 0, 0, None, one.written, one.drops)
            for one in (self._jsonl, self._parquet, self._samples)
            if one is not None
        ]
        senders = [sender for _, sender in sorted(self._senders.items())]
        return files + [replace(one.delivery.status(), rule=getattr(one.settings, "rule", None)) for one in senders]

    def close(self, complete: bool = True) -> None:
        """Close all sinks; what cannot be sent immediately stays in the spools for the next start."""
        senders, self._senders = self._senders, {}
        _close([sender.delivery for sender in senders.values()], self._clock)
        for file in (self._jsonl, self._parquet, self._samples):
            if file is not None:
                file.close(complete)
        telemetry, self._telemetry = self._telemetry, None
        if telemetry is not None:
            telemetry.close()


def _by_name(sinks: SinksSettings) -> Mapping[tuple[str, str], SinkSettings]:
    return {(kind, name): settings for kind, by_name in sinks for name, settings in by_name.items()}


def _close(deliveries: Sequence[Delivery], clock: Clock) -> None:
    """Close all deliveries concurrently, so that several hanging ones take no longer than one."""
    for one in deliveries:
        one.end()
    end_ns = clock.monotonic_ns() + round(GOODBYE_S * 1e9)
    for one in deliveries:
        one.close(max(0.1, (end_ns - clock.monotonic_ns()) / 1e9))


def event_row(result: Result, event: SceneEvent) -> str:
    """Return a zone or line event as one line of JSON. Its id is named ``event``, because the sent record has an ``id`` too."""
    at = {} if result.live is None else {"at": utc(result.live.captured_wall_ns)}
    row = event.to_dict()
    identity = {"event": row.pop("id")} if "id" in row else {}
    return json.dumps(
        {"type": "event", **identity, "stream": result.stream, "frame": result.frame, **at, **row}, ensure_ascii=False
    )


def _snapshot(view: StreamView) -> StreamSnapshot:
    status = view.status
    row = {"type": "state", "stream": view.name, "state": "disabled", "at": None, "reason": ""}
    if status is not None:
        row |= {"state": status.state.value, "at": utc(status.since_wall_ns), "reason": redact(status.reason)}
    settings = view.settings
    occupancy, crossings = ({}, {}) if status is None else (status.occupancy, status.counts)
    return StreamSnapshot(
        view.name,
        json.dumps(row, ensure_ascii=False),
        status is not None and status.state is StreamState.LIVE,
        settings.classes or (),
        {zone: occupancy.get(zone, 0) for zone in settings.zones},
        {line: crossings.get(line, (0, 0)) for line in settings.lines},
    )
