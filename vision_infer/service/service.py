"""The live service without its web side: settings in, streams running; everything that the routes ask for."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from vision_infer.config.serve import ServeSettings, StreamSettings
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import ModelError, UsageError, VisionInferError
from vision_infer.core.packet import PacketTap, Tappable, Taps
from vision_infer.core.result import Result
from vision_infer.engine.device import available_cpus
from vision_infer.model.catalogue import list_models
from vision_infer.pipeline.lane import Lane, make_selector
from vision_infer.pipeline.status import Flight, LaneStatus, StreamEvent, StreamState
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.preview.preview import Preview
from vision_infer.schedule.degradation import Seen, Step
from vision_infer.service import snapshot as snapshots
from vision_infer.service.backend import ConflictError, ModelView, Snapshot, StreamView, UnavailableError, UnknownStreamError
from vision_infer.service.clips import Clips
from vision_infer.service.configured import ConfiguredStream, Origin, StreamKeeper, view_of
from vision_infer.service.cost import Cost, Machine, cost_of, room_for
from vision_infer.service.degrading import DegradeEvent, Degrading, can_give_way, seen_streams, settings_at
from vision_infer.service.engine_event import EngineEvent
from vision_infer.service.hub import ResultHub
from vision_infer.service.lanes import Lanes, in_flight, second_name
from vision_infer.service.requests import PREFIX, Answers, LiveOnly, infer_picture
from vision_infer.service.sinks import SinkSet
from vision_infer.service.stream_command import check_second, live_source, stream_command
from vision_infer.service.stream_files import state_folder
from vision_infer.sink.carrier import SinkStatus
from vision_infer.sink.sink import Sink
from vision_infer.stream.find import open_source
from vision_infer.stream.redact import redact
from vision_infer.stream.source import Source, SourceSpec
from vision_infer.telemetry.histogram import Histogram

EVENTS_KEPT = 1024

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
            sink_set.show(self.streams)
        self.hub = ResultHub(settings.service.max_clients, settings.service.max_streams, clock)
        self.preview = Preview(settings.preview, self._view, clock)
        self.clips = Clips(settings.clips, state_folder(settings.state_dir, os.environ) / "clips", clock)
        self._keep = keep
        self._clock = clock
        self._open_source = open_stream
        self._tell = on_event
        self._events: deque[StreamEvent | EngineEvent | DegradeEvent] = deque(maxlen=EVENTS_KEPT)
        self._answers = Answers()
        self._supervisor = Supervisor(
            shared=[LiveOnly(self.hub), LiveOnly(self.clips), *(LiveOnly(sink) for sink in sinks), self._answers],
            decode_threads=settings.decode_threads,
            clock=clock,
            open_stream=self._open,
            in_flight=in_flight(settings),
            keep_going=True,
            on_event=self._event,
        )
        self._lanes = Lanes(settings, self._supervisor, self._answers, self._engine_event, clock)
        self._streams: dict[str, ConfiguredStream] = {}
        self._degrading = Degrading(self._see, self._give_way, self._engine_event, clock)
        self._changing = threading.RLock()
        self._warm = False
        self._ended = threading.Event()
        self._error: VisionInferError | None = None

    # Life

    def start(self) -> None:
        """Load the default model's engine, then let all streams begin; returns at once, :meth:`ready` tells how far it is."""
        for name, settings in self.settings.streams.items():
            self._streams[name] = ConfiguredStream(settings, "file")
        for name, settings in ({} if self._keep is None else self._keep.read()).items():
            if name in self._streams:
                _log.warning("%s: the file of settings has a stream of this name: that made over the API is left out", name)
            else:
                self._streams[name] = ConfiguredStream(settings, "api")
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
        with self._changing:
            for requests in list(self._answers.requests.values()):
                requests.end()
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
        return (True, "") if self._warm else (False, f"loading {self.settings.model}")

    def streams(self) -> list[StreamView]:
        """All streams, in the order of their names."""
        statuses = {status.name: status for status in self._supervisor.statuses()}
        return [view_of(name, stream, statuses.get(name)) for name, stream in sorted(self._streams.items())]

    def stream(self, name: str) -> StreamView:
        """One stream.

        Raises:
            UnknownStreamError: there is none of this name.
        """
        stream = self._known(name)
        return view_of(name, stream, self._supervisor.status(name))

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
        return cost_of(self._supervisor.statuses(), self._supervisor.lane_statuses(), self._machine())

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

    def events(self) -> list[StreamEvent | EngineEvent | DegradeEvent]:
        """The last changes of streams and of engines, the newest last."""
        return list(self._events)

    def sinks(self) -> list[SinkStatus]:
        """Where results, events and states are sent, and how that stands."""
        return [] if self._sink_set is None else self._sink_set.statuses()

    def stages(self) -> Mapping[str, Histogram]:
        """Durations by stage of the account, since the start."""
        return self._supervisor.account().histograms

    # Changes

    def create(self, name: str, settings: StreamSettings) -> StreamView:
        """Add a stream, and keep it.

        Raises:
            ConflictError: the name is taken, or there are as many streams as may be.
            UsageError: the settings cannot be used, such as those of an unknown model.
            OutputError: they cannot be kept.
        """
        self._check_open()
        with self._changing:
            if name in self._streams:
                raise ConflictError(f"there is a stream {name} already", "choose another name, or replace it")
            self._check_room(name, settings, joins=True)
            most = self.settings.service.max_streams
            if len(self._streams) >= most:
                raise ConflictError(f"there are {most} streams already", "remove one, or raise service.max_streams")
            return self._put(name, ConfiguredStream(settings, "api"), None)

    def replace(self, name: str, settings: StreamSettings) -> StreamView:
        """Give a stream other settings, and keep them.

        Raises:
            UnknownStreamError: there is none of this name.
            ConflictError: it belongs to the file of settings.
            UsageError: the settings cannot be used; it goes on as it was.
            OutputError: they cannot be kept; it goes on as it was.
        """
        self._check_open()
        with self._changing:
            old = self._owned(name)
            before = None if old.settings.best_effort else old.settings.fps
            more = settings.fps is not None and (before is None or settings.fps > before)
            if more or not old.settings.enabled:
                self._check_room(name, settings, joins=not old.settings.enabled)
            return self._put(name, ConfiguredStream(settings, "api"), old)

    def delete(self, name: str) -> None:
        """Take a stream away, for good.

        Raises:
            UnknownStreamError: there is none of this name.
            ConflictError: it belongs to the file of settings.
            OutputError: its settings cannot be removed.
        """
        self._check_open()
        with self._changing:
            self._owned(name)
            if self._keep is not None:
                self._keep.remove(name)
            self._take_away(name, self._streams.pop(name).settings)
            self.preview.forget(name)
            self.clips.forget(name)
            self._close_unused()

    def reload(self, settings: ServeSettings) -> None:
        """Take over the streams and sinks of a changed file; those that are the same go on untouched.

        What is wrong with one stream is its state, and costs the others nothing.
        """
        with self._changing:
            before = {name: stream for name, stream in self._streams.items() if stream.origin == "file"}
            for name in before.keys() - settings.streams.keys():
                _log.info("%s: removed from the file of settings", name)
                self._take_away(name, self._streams.pop(name).settings)
                self.preview.forget(name)
                self.clips.forget(name)
            for name, wanted in settings.streams.items():
                old = self._streams.get(name)
                if old is not None and old.origin == "api":
                    _log.warning("%s: a stream of this name was made over the API: that of the file is left out", name)
                elif old is None or old.settings != wanted or old.problem is not None:
                    _log.info(
                        "%s: %s", name, "added by the file of settings" if old is None else "changed by the file of settings"
                    )
                    stream = self._streams[name] = ConfiguredStream(wanted, "file")
                    self.preview.changed(name)
                    if self._warm:  # else it is started with the others
                        self._run_or_note(name, stream)
            self.settings = self.settings.model_copy(update={"streams": settings.streams, "sinks": settings.sinks})
            if self._sink_set is not None:
                self._sink_set.reload(settings.sinks)
            self._close_unused()

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
        if view.settings.view is None:
            return snapshots.of_result(*snapshots.next_result(self.hub, name, timeout_s), annotated, self._clock)
        found = snapshots.next_result(self.hub, name, timeout_s)[1] if annotated else None
        spec = live_source(name, view.settings.view, view.settings, self._allowed(view.origin))
        return snapshots.of_view(spec, self._open_source, found, timeout_s, self._clock)

    def infer(self, picture: bytes, model: str | None, confidence: float | None, classes: tuple[str, ...] | None) -> Result:
        """Infer one picture, given as JPEG, PNG or WebP.

        Raises:
            UsageError: it is no picture, is too large, or the model or a label is unknown.
            UnavailableError: the model is not loaded, or too many pictures wait.
        """
        if not self._warm or self._ended.is_set() or self.error is not None:
            # An engine that fails is asked all the same: only so it can show that it works again.
            raise UnavailableError(self.ready()[1], "try again in a moment")
        name = model or self.settings.model
        lane = self._lane_for_picture(name)
        selector = make_selector(lane.engine.card, confidence, None, classes)
        return infer_picture(self._lanes.ask(name), picture, selector)

    # Inside

    def _check_open(self) -> None:
        if self._ended.is_set():  # at once: who closes holds the lock until all is finished
            raise UnavailableError("the service is stopping", "try again when it is back")

    def _check_room(self, name: str, settings: StreamSettings, joins: bool) -> None:
        """Refuse what the machine cannot carry, as far as that has been measured."""
        wanted = settings.fps
        if wanted is None or settings.best_effort or not settings.enabled:
            return
        promised = {
            other: stream.settings.fps
            for other, stream in self._streams.items()
            if other != name and stream.settings.enabled and stream.settings.fps is not None and not stream.settings.best_effort
        }
        room = room_for(self.cost(), promised, joins)
        if room is not None and room.fps < wanted:
            raise ConflictError(
                f"{name}: needs {wanted:g} fps; {room.fps:.1f} are left, limited by the {room.binding}",
                "lower its fps or that of other streams, or set best_effort: true",
            )

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
        self._warm = True
        _log.info("ready: %s is loaded", self.settings.model)
        self._degrading.start()
        with self._changing:
            for name, stream in list(self._streams.items()):
                if self._ended.is_set():
                    return
                self._run_or_note(name, stream)

    def _put(self, name: str, stream: ConfiguredStream, old: ConfiguredStream | None) -> StreamView:
        models = (stream.settings.model, stream.settings.then, stream.settings.degrade_model)
        if any(model is not None and model.endswith(".onnx") for model in models):
            raise UsageError("a stream over the API names a model, not a file", "see /api/v1/models")
        if self._ended.is_set():
            raise UnavailableError("the service stops", "try again when it is back")
        try:
            if self._warm:
                self._run(name, stream)
            if self._keep is not None:
                try:
                    self._keep.write(name, stream.settings)
                except VisionInferError:
                    if old is None:
                        self._supervisor.remove(name)
                    elif self._warm:
                        self._run_or_note(name, old)
                    raise
            self._streams[name] = stream
            self.preview.changed(name)
        finally:
            self._close_unused()
        return self.stream(name)

    def _run_or_note(self, name: str, stream: ConfiguredStream) -> None:
        try:
            self._run(name, stream)
        except Exception as raised:  # noqa: BLE001 - what is wrong with one stream must not cost the others theirs
            if isinstance(raised, VisionInferError):
                error = raised
            else:
                error = VisionInferError(
                    f"{name}: unexpected {type(raised).__name__}: {redact(str(raised))}", "please report this"
                )
                error.__cause__ = raised
            stream.problem = error
            stream.problem_ns = (self._clock.monotonic_ns(), self._clock.wall_ns())
            self._supervisor.remove(name)
            self._event(StreamEvent(name, StreamState.FAILED, stream.problem_ns[0], redact(str(error)), stream.problem_ns[1]))

    def _run(self, name: str, stream: ConfiguredStream) -> None:
        """Let a stream run by its settings, whatever it did before.

        Raises:
            UsageError: the settings cannot be used; it goes on as it was.
        """
        settings = settings_at(stream.settings, stream.step)
        if not settings.enabled:
            self._supervisor.remove(name)
            self.clips.configure(name, None)
            return
        try:
            lane = self._lanes.open(settings.model or self.settings.model)
            if settings.then is not None:
                check_second("then", lane.engine.card)
            then = None if settings.then is None else self._lanes.open_second(settings.then)
        except ModelError as error:
            raise UsageError(error.message, error.hint) from error
        command = stream_command(name, settings, lane, then, self._allowed(stream.origin))
        try:
            self._supervisor.change(command)
        except KeyError:  # it does not run, or has just ended
            self._take_away(name, settings)
            if self._supervisor.status(name) is not None:
                held = f"{name}: frames of the stream that had this name do not come back from an engine"
                raise UnavailableError(held, "choose another name, or restart the service") from None
            self._supervisor.add(command)
        self.clips.configure(name, settings.clips)

    def _take_away(self, name: str, settings: StreamSettings) -> None:
        """Let a stream run no longer. An engine from which its frames do not come back is told; they are waited for no longer."""
        began = self._clock.monotonic_ns()
        self._supervisor.remove(name)
        if self._supervisor.status(name) is None:
            return
        model = settings.model or self.settings.model
        seconds = (self._clock.monotonic_ns() - began) / 1e9
        for lane in self._supervisor.lane_statuses():
            its_own = lane.name == model or lane.name.startswith(f"{model}@")
            if lane.flying and (its_own or (settings.then is not None and lane.name == second_name(settings.then))):
                self._lanes.tell_hanging(lane.name, lane.engine, seconds, f"{name} is removed without its last frames")

    def _see(self) -> Mapping[str, Seen]:
        streams = dict(self._streams)
        if not any(stream.settings.fps or can_give_way(stream.settings) for stream in streams.values()):
            return {}
        statuses, lanes = self._supervisor.statuses(), self._supervisor.lane_statuses()
        return seen_streams(streams, statuses, lanes, cost_of(statuses, lanes, self._machine()))

    def _machine(self) -> Machine:
        used, others = self._supervisor.cpu_cores
        return Machine(available_cpus(), used, others)

    def _give_way(self, name: str, step: Step) -> bool:
        """Let a stream go on at a step; False where it is gone or has other settings by now.

        Raises:
            VisionInferError: it cannot, and goes on as it was; a step that could not be taken is not tried again.
        """
        with self._changing:
            stream = self._streams.get(name)
            if stream is None or not stream.settings.enabled or self._ended.is_set():
                return False
            before, stream.step = stream.step, step
            if settings_at(stream.settings, before) != settings_at(stream.settings, step):
                try:
                    self._run(name, stream)
                except VisionInferError:
                    stream.step = before
                    if step > before:
                        stream.refused.add(step)
                    raise
            return True

    def _lane_for_picture(self, model: str) -> Lane:
        lane = self._lanes.get(model)
        if lane is None:
            known = {view.name for view in self.models()}
            if model in known:
                raise UnavailableError(f"{model} is not loaded", "use the model of a stream")
            raise UsageError(f"unknown model {model!r}", "see /api/v1/models")
        return lane

    def _close_unused(self) -> None:
        enabled = [stream.settings for stream in self._streams.values() if stream.settings.enabled]
        used = {settings.model or self.settings.model for settings in enabled}
        used |= {settings.degrade_model for settings in enabled if settings.degrade_model is not None}
        used |= {second_name(settings.then) for settings in enabled if settings.then is not None}
        self._lanes.close_unused(frozenset({self.settings.model, *used}))

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

    def _event(self, event: StreamEvent) -> None:
        if event.stream.startswith(PREFIX):
            return
        self._events.append(event)
        self.hub.tell(event)
        if self._sink_set is not None:
            self._sink_set.tell(event)
        if self._tell is not None:
            self._tell(event)

    def _engine_event(self, event: EngineEvent | DegradeEvent) -> None:
        self._events.append(event)
        self.hub.tell(event)
        if self._sink_set is not None:
            self._sink_set.tell(event)

    def _view(self, name: str) -> SourceSpec | None:
        """The main URL of a stream; None where it has none, or does not run."""
        stream = self._streams.get(name)
        if stream is None or stream.settings.view is None or not stream.settings.enabled:
            return None
        return live_source(name, stream.settings.view, stream.settings, self._allowed(stream.origin))

    def _allowed(self, origin: Origin) -> tuple[str, ...]:
        return self.settings.service.allow_networks if origin == "api" else ()

    def _known(self, name: str) -> ConfiguredStream:
        stream = self._streams.get(name)
        if stream is None:
            raise UnknownStreamError(f"there is no stream {name}", "see /api/v1/streams")
        return stream

    def _owned(self, name: str) -> ConfiguredStream:
        stream = self._known(name)
        if stream.origin == "file":
            raise ConflictError(f"stream {name} belongs to the file of settings", "change it there; the file is watched")
        return stream
