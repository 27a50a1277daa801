"""The live service without its web side: settings in, streams running; everything that the routes ask for."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from vision_infer.config.serve import ServeSettings, StreamSettings
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import UsageError, VisionInferError
from vision_infer.core.packet import PacketTap, Tappable, Taps
from vision_infer.core.result import Result
from vision_infer.engine.device import available_cpus
from vision_infer.model.catalogue import list_models
from vision_infer.pipeline.lanes.lane import Lane, make_selector
from vision_infer.pipeline.status import Flight, LaneStatus, StreamEvent, StreamState
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.preview.preview import Preview
from vision_infer.schedule.degradation import StreamLoad
from vision_infer.service.clips.clip_recorder import Clips
from vision_infer.service.errors import UnavailableError
from vision_infer.service.events import ServiceEvent
from vision_infer.service.operations.changes import Changes
from vision_infer.service.results import snapshot as snapshots
from vision_infer.service.results.hub import ResultHub
from vision_infer.service.results.requests import infer_image
from vision_infer.service.results.sinks import SinkSet
from vision_infer.service.streams.configured import StreamKeeper
from vision_infer.service.streams.cost import Cost, Machine, cost_of
from vision_infer.service.streams.degrading import Degrading, can_give_way, in_full, remember_in_full, seen_streams
from vision_infer.service.streams.lanes import Lanes, in_flight
from vision_infer.service.streams.running_streams import Streams
from vision_infer.service.streams.stream_files import state_folder
from vision_infer.service.views import ModelView, Snapshot, StreamView
from vision_infer.sink.delivery.carrier import SinkStatus
from vision_infer.sink.sink import Sink
from vision_infer.stream.find import open_source
from vision_infer.stream.source import Source, SourceSpec
from vision_infer.telemetry.histogram import Histogram

_log = logging.getLogger("vision_infer.service")


class Service:
    """Runs the streams of its settings. Use it as a context manager; :meth:`start` comes first.

    Reading is safe from any thread at any time; changes take turns.

    Args:
        settings: what to run.
        keep: keeps the settings of streams that are made over the API.
        sinks: files of results, beside the hub.
        on_event: called with each change of a stream's state; it must be quick.
        open_stream: opens sources; tests pass their own.
        sink_set: where results, events and states are sent; closed with the service.
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
    ) -> None:
        self.settings = settings
        self._sink_set = sink_set
        if sink_set is not None:
            sinks = (*sinks, sink_set)
            sink_set.set_streams(self.streams)
        self.hub = ResultHub(settings.service.max_clients, settings.service.max_streams, clock)
        self.preview = Preview(settings.preview, lambda name: self._streams.main_source(name), clock)
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
        )
        self._lanes = Lanes(settings, self._supervisor, self._changes.publish, clock)
        self._ended = threading.Event()
        self._streams = Streams(
            settings,
            keep,
            self._supervisor,
            self._lanes,
            self.clips,
            self.preview,
            lambda: self.cost(),
            self._changes.publish,
            clock,
            self._ended,
        )
        self._degrading = Degrading(self._see, self._streams.give_way, self._changes.publish, clock)
        self._error: VisionInferError | None = None

    # Life

    def start(self) -> None:
        """Load the default model's engine, then let all streams begin; returns at once, :meth:`ready` tells how far it is."""
        self._streams.read()
        threading.Thread(target=self._begin, name="service-start", daemon=True).start()

    @property
    def error(self) -> VisionInferError | None:
        """What broke for all, if anything did: the service cannot go on."""
        return self._error or self._supervisor.error

    def close(self) -> None:
        """Stop all streams; what was decoded is finished and written."""
        self._ended.set()
        self._degrading.end()
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

    # What there is

    def ready(self) -> tuple[bool, str]:
        """Whether it can infer, and why not."""
        error = self.error
        if error is not None:
            return False, str(error)
        if self._ended.is_set():
            return False, "stopping"
        for lane in self._supervisor.lane_statuses():
            if lane.failing:
                return False, f"the engine of {lane.name} fails: {lane.error}"
        return (True, "") if self._streams.begun else (False, f"loading {self.settings.model}")

    def streams(self) -> list[StreamView]:
        """All streams, in the order of their names."""
        return self._streams.views()

    def stream(self, name: str) -> StreamView:
        """One stream.

        Raises:
            UnknownStreamError: there is none of this name.
        """
        return self._streams.view(name)

    def flight(self, name: str) -> Flight:
        """What became of a stream's frames.

        Raises:
            UnknownStreamError: there is none of this name.
            UnavailableError: it is not enabled, or could not be started.
        """
        status = self.stream(name).status
        flight = self._supervisor.flight(name)
        if flight is None:
            state, reason = ("disabled", "") if status is None else (status.state.value, status.reason)
            raise UnavailableError(f"{name}: does not run: {state}", "see the stream's state", state, reason)
        return flight

    def lanes(self) -> list[LaneStatus]:
        """All engines that are loaded."""
        return self._supervisor.lane_statuses()

    def cost(self) -> Cost:
        """What each stream takes, as measured over the last ten seconds or so."""
        giving_way = in_full(self._streams.configured())
        return cost_of(self._supervisor.statuses(), self._supervisor.lane_statuses(), self._machine(), giving_way)

    def models(self) -> list[ModelView]:
        """All models that streams may use; a broken one is left out."""
        views: list[ModelView] = []
        for entry in list_models(self.settings.model_dir):
            card = entry.card
            if card is not None and not entry.error:
                size = (card.input_size.width, card.input_size.height)
                loaded = self._lanes.get(entry.name) is not None
                views.append(ModelView(entry.name, card.task, size, card.labels or (), card.license or "", loaded))
        return views

    def events(self) -> list[ServiceEvent]:
        """The last changes of streams and of engines, the newest last."""
        return self._changes.last()

    def sinks(self) -> list[SinkStatus]:
        """Where results, events and states are sent, and how that stands."""
        return [] if self._sink_set is None else self._sink_set.statuses()

    def stages(self) -> Mapping[str, Histogram]:
        """Durations by stage of the account, since the start."""
        return self._supervisor.account().histograms

    # Changes

    def create(self, name: str, settings: StreamSettings) -> StreamView:
        """Add a stream, and keep it: :meth:`Streams.create`."""
        return self._streams.create(name, settings)

    def replace(self, name: str, settings: StreamSettings) -> StreamView:
        """Give a stream other settings, and keep them: :meth:`Streams.replace`."""
        return self._streams.replace(name, settings)

    def delete(self, name: str) -> None:
        """Take a stream away, for good: :meth:`Streams.delete`."""
        self._streams.delete(name)

    def reload(self, settings: ServeSettings) -> None:
        """Take over the streams and sinks of a changed file; those that are the same go on untouched."""
        with self._streams.changing:
            self._streams.reload(settings.streams)
            self.settings = self.settings.model_copy(update={"streams": settings.streams, "sinks": settings.sinks})
            if self._sink_set is not None:
                self._sink_set.reload(settings.sinks)

    # Pictures

    def snapshot(self, name: str, annotated: bool, timeout_s: float) -> Snapshot:
        """A picture of the stream as it is now.

        Raises:
            UnknownStreamError: there is none of this name.
            UnavailableError: it gives no picture now, or gave none in this time.
        """
        view = self.stream(name)
        status = view.status
        if status is None or status.state is not StreamState.LIVE:
            state, reason = ("disabled", "") if status is None else (status.state.value, status.reason)
            raise UnavailableError(f"{name}: gives no picture now: {state}", "see the stream's state", state, reason)
        spec = self._streams.main_source(name)
        if spec is None:
            return snapshots.of_result(*snapshots.next_result(self.hub, name, timeout_s), annotated, self._clock)
        found = snapshots.next_result(self.hub, name, timeout_s)[1] if annotated else None
        return snapshots.of_view(spec, self._open_source, found, timeout_s, self._clock)

    def infer(self, image: bytes, model: str | None, confidence: float | None, classes: tuple[str, ...] | None) -> Result:
        """Infer one picture, given as JPEG, PNG or WebP.

        Raises:
            UsageError: it is no picture, is too large, or the model or a label is unknown.
            UnavailableError: the model is not loaded, or too many pictures wait.
        """
        if not self._streams.begun or self._ended.is_set() or self.error is not None:
            # An engine that fails is asked all the same: only so it can show that it works again.
            raise UnavailableError(self.ready()[1], "try again in a moment")
        name = model or self.settings.model
        lane = self._lane_for_image(name)
        selector = make_selector(lane.engine.card, confidence, None, classes)
        return infer_image(self._lanes.ask(name), image, selector, self._clock)

    # Inside

    def _begin(self) -> None:
        try:
            self._lanes.open(self.settings.model)
        except VisionInferError as error:
            if not self._ended.is_set():
                self._error = error
            return
        except Exception as error:  # noqa: BLE001 - a thread is a boundary: nothing may vanish there
            self._error = VisionInferError(f"unexpected {type(error).__name__} while loading: {error}", "please report this")
            return
        _log.info("ready: %s is loaded", self.settings.model)
        self._degrading.start()
        self._streams.begin()

    def _see(self) -> Mapping[str, StreamLoad]:
        streams = self._streams.configured()
        if not any(stream.settings.fps or can_give_way(stream.settings) for stream in streams.values()):
            return {}
        statuses, lanes = self._supervisor.statuses(), self._supervisor.lane_statuses()
        cost = cost_of(statuses, lanes, self._machine())
        remember_in_full(streams, statuses, cost)
        return seen_streams(streams, statuses, lanes, cost)

    def _machine(self) -> Machine:
        used, others = self._supervisor.cpu_cores
        return Machine(available_cpus(), used, others)

    def _lane_for_image(self, model: str) -> Lane:
        lane = self._lanes.get(model)
        if lane is None:
            known = {view.name for view in self.models()}
            if model in known:
                raise UnavailableError(f"{model} is not loaded", "use the model of a stream")
            raise UsageError(f"unknown model {model!r}", "see /api/v1/models")
        return lane

    def _open(self, spec: SourceSpec, decode_threads: int, stopping: threading.Event) -> Source:
        requests = self._lanes.source(spec.name)
        if requests is not None:
            return requests
        source = self._open_source(spec, decode_threads, stopping)
        if isinstance(source, Tappable):
            taps: list[PacketTap] = [self.clips.tap(spec.name)]
            if self.settings.preview.enabled:
                taps.append(self.preview.relay(spec.name))
            source.show(Taps(*taps))
        return source
