"""The live service without its HTTP server: runs the configured streams and implements what the routes need."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.analyze.zones import Zones
from vision_infer.config.secrets.credentials import credentials_for
from vision_infer.config.serve import ServeSettings, StreamSettings
from vision_infer.core.card import ModelCard
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.core.packet import PacketTap, Tappable, Taps
from vision_infer.core.result import Result
from vision_infer.engine.device import devices_of
from vision_infer.pipeline.lanes.lane import Lane, make_selector
from vision_infer.pipeline.status import Flight, LaneStatus, StreamEvent, StreamState, StreamStatus
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.preview.preview import Preview
from vision_infer.preview.transport.sockets import Sockets
from vision_infer.service.clips.clip_recorder import Clips
from vision_infer.service.errors import UnavailableError, UnknownModelError
from vision_infer.service.events import ServiceEvent
from vision_infer.service.operations.changes import Changes
from vision_infer.service.operations.file_watch import RELOADED_FIELDS
from vision_infer.service.results import snapshot as snapshots
from vision_infer.service.results.hub import ResultHub
from vision_infer.service.results.requests import infer_image, infer_tensors
from vision_infer.service.results.sinks import SinkSet
from vision_infer.service.shadow.shadow import Shadow, ShadowFile
from vision_infer.service.streams.configured import StreamKeeper
from vision_infer.service.streams.cost import Cost
from vision_infer.service.streams.degradation import DegradationMonitor, LoadMeter
from vision_infer.service.streams.lanes import Lanes, in_flight
from vision_infer.service.streams.running_streams import Streams
from vision_infer.service.streams.stream_files import state_folder
from vision_infer.service.views import ModelView, Origin, Snapshot, StreamView, model_views
from vision_infer.sink.delivery.carrier import SinkStatus
from vision_infer.sink.sink import Sink
from vision_infer.stream.find import open_source
from vision_infer.stream.source import Source, SourceSpec
from vision_infer.telemetry.histogram import Histogram

_log = logging.getLogger("vision_infer.service")


class Service:
    """Runs the configured streams. Use it as a context manager and call :meth:`start` first.

    Reading is safe from any thread at any time; changes are serialized.

    Args:
        settings: The settings of the service.
        keep: Stores the settings of streams created over the API.
        sinks: Additional sinks of results.
        on_event: Called with each change of a stream's state; it must return quickly.
        open_stream: Opens sources; tests pass their own.
        sink_set: The sinks of results, events and states; closed with the service.
        shadow_file: The file of the shadow model's state; None: it is not stored.
        alone: Whether all streams run in this process.
    """

    def __init__(
        self,
        settings: ServeSettings,
        keep: StreamKeeper | None = None,
        sinks: Sequence[Sink] = (),
        on_event: Callable[[StreamEvent], None] | None = None,
        clock: Clock = SYSTEM_CLOCK,
        open_stream: Callable[[SourceSpec, int, threading.Event], Source] = open_source,
        sink_set: SinkSet | None = None,
        shadow_file: Path | None = None,
        alone: bool = True,
    ) -> None:
        self.settings = settings
        self.nodes = None
        """This process runs on one machine; see :class:`Backend`."""
        self._sink_set = sink_set
        self.hub = ResultHub(settings.service.max_clients, settings.service.max_streams, clock)
        if sink_set is not None:
            sinks = (*sinks, sink_set)
            sink_set.connect(self.streams, self.hub)
        self.preview = Preview(settings.preview, self._main_source, clock)
        self.clips = Clips(settings.clips, state_folder(settings.state_dir, os.environ) / "clips", clock)
        self._clock = clock
        self._open_source = open_stream
        self._changes = Changes(self.hub, sink_set, on_event)
        self._supervisor = Supervisor(
            shared=[self.hub, self.clips, *sinks],
            decode_threads=settings.decode_threads,
            clock=clock,
            open_stream=self._open,
            in_flight=in_flight(settings),
            keep_going=True,
            on_event=self._changes.publish,
            devices=len(devices_of(settings.device)),
            on_removed=lambda removal: self._lanes.report_removed(removal),
        )
        self._lanes = Lanes(settings, self._supervisor, self._changes.publish, clock)
        self._ended = threading.Event()
        publish = self._changes.publish
        self._streams = Streams(
            settings, keep, self._supervisor, self._lanes, self.clips, self.preview, self.cost, publish, clock, self._ended, alone
        )
        self._load = LoadMeter(self._supervisor, self._streams.configured)
        self._degradation = DegradationMonitor(self._load.observe, self._streams.degrade, self._changes.publish, clock)
        file = ShadowFile(shadow_file, settings.shadow)
        compared = None if sink_set is None else sink_set.compared
        self.shadow = Shadow(settings, file, self._streams, self._lanes, self._supervisor, self._load, clock, compared)
        self._error: VisionInferError | None = None

    # Start and stop

    def start(self) -> None:
        """Load the default model's engine, then start all streams. Returns immediately; :meth:`ready` reports the progress."""
        self._streams.read()
        threading.Thread(target=self._begin, name="service-start", daemon=True).start()

    def share_port(self, sockets: Sockets) -> Callable[[], Coroutine[object, object, None]]:
        """Give a port to the preview; return the function that starts to receive, to be called on the event loop."""
        return lambda: self.preview.open(sockets)

    @property
    def error(self) -> VisionInferError | None:
        """The fatal error that stops the whole service, if any."""
        return self._error or self._supervisor.error

    def close(self) -> None:
        """Stop all streams; decoded frames are finished and written."""
        self._ended.set()
        self._degradation.end()
        self.shadow.close()
        self.preview.stop()
        self._lanes.stop_upgrading()
        with self._streams.changing:
            self._lanes.end_requests()
            self._supervisor.close()
            self._lanes.close()
            if self._sink_set is not None:
                self._sink_set.close()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # Status

    def ready(self) -> tuple[bool, str]:
        """Return whether inference is possible, and if not, the reason."""
        error = self.error
        if error is not None:
            return False, str(error)
        if self._ended.is_set():
            return False, "stopping"
        for lane in self._supervisor.lane_statuses():
            if lane.failing:
                return False, f"the engine of {lane.name} is failing: {lane.error}"
        return (True, "") if self._streams.begun else (False, f"loading {self.settings.model}")

    def streams(self) -> list[StreamView]:
        """Return all streams, sorted by name."""
        return self._streams.views()

    def stream(self, name: str) -> StreamView:
        """Return one stream; see :meth:`Streams.view`."""
        return self._streams.view(name)

    def flight(self, name: str) -> Flight:
        """Return the recorded outcomes of a stream's frames; see :meth:`Backend.flight`."""
        status = self.stream(name).status
        flight = self._supervisor.flight(name)
        if flight is None:
            raise _unavailable(name, "the stream is not running", status)
        return flight

    def zones(self, name: str) -> Zones | None:
        """Return the zones and lines of a stream; see :meth:`Backend.zones`."""
        view = self.stream(name)
        zones = self._supervisor.zones(name)
        if zones is None and (view.settings.zones or view.settings.lines):
            raise _unavailable(name, "the stream is not running", view.status)
        return zones

    def lanes(self) -> list[LaneStatus]:
        """Return all loaded engines."""
        return self._supervisor.lane_statuses()

    def cost(self) -> Cost:
        """Return the resources that each stream uses, measured over about ten seconds."""
        return self._load.cost()

    def models(self) -> list[ModelView]:
        """Return all models that streams can use, without damaged ones."""
        return model_views(self.settings.model_dir, lambda model: self._lanes.get(model) is not None)

    def events(self) -> list[ServiceEvent]:
        """Return the latest changes of streams and engines, oldest first."""
        return self._changes.last()

    def sinks(self) -> list[SinkStatus]:
        """Return the status of all sinks."""
        return [] if self._sink_set is None else self._sink_set.statuses()

    def stages(self) -> Mapping[str, Histogram]:
        """Return the durations of each stage since the start."""
        return self._supervisor.account().histograms

    # Changes

    def create(self, name: str, settings: StreamSettings) -> StreamView:
        """Add a stream and store its settings; see :meth:`Streams.create`."""
        return self._streams.create(name, settings)

    def replace(self, name: str, settings: StreamSettings) -> StreamView:
        """Replace the settings of a stream; see :meth:`Streams.replace`."""
        return self._streams.replace(name, settings)

    def adopt(self, name: str, settings: StreamSettings, origin: Origin) -> None:
        """Run a stream that another process has accepted; see :meth:`Streams.adopt`."""
        self._streams.adopt(name, settings, origin)

    def stamp(self, stamps: Mapping[str, str]) -> None:
        """Begin the records that sinks send with these members, by stream."""
        if self._sink_set is not None:
            self._sink_set.stamps = {**self._sink_set.stamps, **stamps}

    def give_up(self, name: str) -> None:
        """Stop a stream that another process runs from now on; see :meth:`Streams.give_up`."""
        self._streams.give_up(name)

    def delete(self, name: str) -> None:
        """Remove a stream permanently; see :meth:`Streams.delete`."""
        self._streams.delete(name)

    def reload(self, settings: ServeSettings) -> None:
        """Apply the streams, sinks and credentials of a changed configuration file; unchanged streams and sinks keep running."""
        with self._streams.changing:
            self._streams.reload({name: one for name, one in settings.streams.items() if name not in settings.url_streams})
            before = self.settings.credentials
            self.settings = self.settings.model_copy(update={name: getattr(settings, name) for name in RELOADED_FIELDS})
            if settings.credentials != before:
                self._streams.try_again(lambda url: credentials_for(url, before) != credentials_for(url, settings.credentials))
            if self._sink_set is not None:
                self._sink_set.reload(settings.sinks)

    # Images

    def snapshot(self, name: str, annotated: bool, timeout_s: float) -> Snapshot:
        """Return the current image of the stream; see :meth:`Backend.snapshot`."""
        view = self.stream(name)
        status = view.status
        if status is None or status.state is not StreamState.LIVE:
            raise _unavailable(name, "the stream delivers no frames", status)
        spec = self._main_source(name)
        if spec is None:
            return snapshots.of_result(*snapshots.next_result(self.hub, name, timeout_s), annotated, self._clock)
        result = snapshots.next_result(self.hub, name, timeout_s)[1] if annotated else None
        return snapshots.of_view(spec, self._open_source, result, timeout_s, self._clock)

    def infer(
        self,
        image: bytes,
        model: str | None,
        confidence: float | None,
        classes: tuple[str, ...] | None,
        deadline_ns: int | None = None,
    ) -> Result:
        """Run inference on one image; see :meth:`Backend.infer`."""
        name = self._lanes.runs(model or self.settings.model)
        selector = make_selector(self.card(name), confidence, None, classes)
        return infer_image(self._lanes.requests(name), image, selector, self._clock, deadline_ns)

    def infer_tensors(self, images: NDArray[np.uint8], model: str, deadline_ns: int | None = None) -> Mapping[str, NDArray[Any]]:
        """Run the deployment graph on images; see :meth:`Backend.infer_tensors`."""
        return infer_tensors(self._lanes.requests(model), images, self._clock, deadline_ns)

    def card(self, model: str) -> ModelCard:
        """Return the card of a loaded model; see :meth:`Backend.card`."""
        if not self._streams.begun or self._ended.is_set() or self.error is not None:
            # A failing engine is used nevertheless: this is how it can show that it works again.
            raise UnavailableError(self.ready()[1], "Try again in a moment.")
        return self._lane_for_image(model).engine.card

    # Internals

    def _begin(self) -> None:
        try:
            model = self._lanes.runs(self.settings.model)
            self._lanes.open(model)
            _log.info("ready: %s is loaded", model)
            self._degradation.start()
            self._streams.begin()
            self.shadow.begin()
        except VisionInferError as error:
            if not self._ended.is_set():
                self._error = error
        except Exception as error:  # noqa: BLE001 - errors must not end the thread silently
            self._error = VisionInferError(f"unexpected {type(error).__name__} while starting: {error}", "Please report this.")

    def _lane_for_image(self, model: str) -> Lane:
        lane = self._lanes.get(model)
        if lane is None:
            known = {view.name for view in self.models()}
            if model in known:
                raise UnavailableError(f"{model} is not loaded", "Use a model that a stream uses.")
            raise UnknownModelError(f"unknown model {model!r}", "See /api/v1/models.")
        return lane

    def _open(self, spec: SourceSpec, decode_threads: int, stopping: threading.Event) -> Source:
        requests = self._lanes.source(spec.name)
        if requests is not None:
            return requests
        source = self._open_source(self._with_credentials(spec), decode_threads, stopping)
        if isinstance(source, Tappable):
            taps: list[PacketTap] = [self.clips.tap(spec.name)]
            if self.settings.preview.enabled:
                taps.append(self.preview.relay(spec.name))
            source.show(Taps(*taps))
        return source

    def _main_source(self, name: str) -> SourceSpec | None:
        spec = self._streams.main_source(name)
        return None if spec is None else self._with_credentials(spec)

    def _with_credentials(self, spec: SourceSpec) -> SourceSpec:
        """Return a source with the present credentials; it is opened once, so that the next connection gets changed ones."""
        return replace(spec, live=replace(spec.live, credentials=self.settings.credentials))


def _unavailable(name: str, what: str, status: StreamStatus | None) -> UnavailableError:
    state, reason = ("disabled", "") if status is None else (status.state.value, status.reason)
    return UnavailableError(f"{name}: {what} (state: {state})", "See the stream's state.", state, reason)
