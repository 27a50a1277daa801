"""Start, change and stop the streams in the pipeline as their settings require."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from vision_infer.config.serve import ServeSettings, StreamSettings, StreamUrls
from vision_infer.core.clock import Clock
from vision_infer.core.errors import EngineError, ModelError, UsageError, VisionInferError
from vision_infer.pipeline.add_stream import check_embeddings, check_secondary
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.lanes.lane import classes_by_number
from vision_infer.pipeline.status import StreamEvent, StreamState
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.service.clips.clip_recorder import Clips
from vision_infer.service.errors import ConflictError, ShortageError, UnavailableError
from vision_infer.service.streams.configured import ConfiguredStream
from vision_infer.service.streams.degradation import settings_at
from vision_infer.service.streams.lanes import Lanes, secondary_name
from vision_infer.service.streams.stream_command import live_stream_command
from vision_infer.stream.redact import redact


class StreamRunner:
    """Runs streams in the pipeline. Callers must serialize changes.

    Args:
        settings: The settings of the service.
        supervisor: Runs the streams.
        lanes: The engines.
        clips: Receives the clip settings of each stream.
        on_event: Called when a stream cannot run and is therefore unknown to the supervisor.
        alone: Whether all streams run in this process, so that they can share identities.
    """

    def __init__(
        self,
        settings: ServeSettings,
        supervisor: Supervisor,
        lanes: Lanes,
        clips: Clips,
        on_event: Callable[[StreamEvent], None],
        clock: Clock,
        alone: bool = True,
    ) -> None:
        self._settings = settings
        self._supervisor = supervisor
        self._lanes = lanes
        self._clips = clips
        self._on_event = on_event
        self._clock = clock
        self._alone = alone

    def run(self, name: str, stream: ConfiguredStream) -> None:
        """Run a stream with its settings; start it or change the running one.

        Raises:
            UsageError: The settings are invalid; the stream continues with the old ones.
            ShortageError: There are too few threads or too little memory to start the stream.
        """
        settings = settings_at(stream.settings, stream.step)
        if not settings.enabled:
            self._supervisor.remove(name)
            self._clips.configure(name, None)
            return
        if settings.reidentify is not None and settings.reidentify.across and not self._alone:
            message = "reidentify.across: the cameras run in several processes or nodes, which share no identities"
            raise UsageError(message, "Leave it out, or run the service with processes: 1 and without a cluster.")
        try:
            lane = self._lanes.open(self._model(settings))
            if settings.secondary is not None:
                check_secondary("secondary", lane.engine.card)
            secondary = None if settings.secondary is None else self._lanes.open_secondary(settings.secondary)
            if secondary is not None:
                check_secondary("secondary", lane.engine.card, secondary.engine.card)
                check_embeddings("reidentify", settings, secondary.engine.card)
        except ModelError as error:
            raise UsageError(error.message, error.hint) from error
        command = live_stream_command(name, settings, lane, secondary, self.allowed_networks(name, stream))
        try:
            self._supervisor.change(command)
        except KeyError:  # the stream does not run, or has just ended
            self.stop(name, settings)
            if self._supervisor.status(name) is not None:
                message = f"{name}: an engine still holds frames of the previous stream with this name"
                raise UnavailableError(message, "Choose another name, or restart the service.") from None
            self._add(command)
        self._clips.configure(name, settings.clips)

    def check_model(self, model: str, streams: Mapping[str, ConfiguredStream]) -> None:
        """Load a model, and check that streams can run with it.

        Raises:
            ConflictError: It cannot be loaded, or lacks classes that the settings of a stream name.
        """
        try:
            lane = self._lanes.open(model)
        except (ModelError, EngineError) as error:
            raise ConflictError(f"{model} cannot be loaded: {error.message}", error.hint) from error
        for name, stream in streams.items():
            settings = settings_at(stream.settings, stream.step)
            try:
                live_stream_command(name, settings, lane, None, ())
                for classes in (shape.classes for shapes in (settings.zones, settings.lines) for shape in shapes.values()):
                    classes_by_number(lane.engine.card, classes)
            except UsageError as error:
                raise ConflictError(f"stream {name} cannot run with {model}: {error.message}", error.hint) from error

    def _add(self, command: AddStream) -> None:
        try:
            self._supervisor.add(command)
        except (RuntimeError, MemoryError) as error:  # Python raises RuntimeError if it cannot start a thread
            self._supervisor.remove(command.source.name)
            message = f"{command.source.name}: the stream cannot start now: {str(error) or 'out of memory'}"
            raise ShortageError(message, "Try again, or raise the limits of threads and memory.") from error

    def run_or_fail(self, name: str, stream: ConfiguredStream) -> None:
        """Run a stream; an error puts it into the state ``failed`` and does not affect other streams."""
        try:
            self.run(name, stream)
        except Exception as raised:  # noqa: BLE001 - an error of one stream must not affect the others
            if isinstance(raised, VisionInferError):
                error = raised
            else:
                error = VisionInferError(
                    f"{name}: unexpected {type(raised).__name__}: {redact(str(raised))}", "Please report this."
                )
                error.__cause__ = raised
            stream.problem = error
            stream.problem_ns = (self._clock.monotonic_ns(), self._clock.wall_ns())
            self._supervisor.remove(name)
            at_ns, wall_ns = stream.problem_ns
            self._on_event(StreamEvent(name, StreamState.FAILED, at_ns, redact(str(error)), wall_ns))

    def stop(self, name: str, settings: StreamSettings) -> None:
        """Stop a stream. If an engine does not return its frames in time, report the engine and stop waiting."""
        began = self._clock.monotonic_ns()
        self._supervisor.remove(name)
        if self._supervisor.status(name) is None:
            return
        model = self._model(settings)
        seconds = (self._clock.monotonic_ns() - began) / 1e9
        for lane in self._supervisor.lane_statuses():
            primary = lane.name == model or lane.name.startswith(f"{model}@")
            if lane.flying and (primary or (settings.secondary is not None and lane.name == secondary_name(settings.secondary))):
                self._lanes.report_hanging(lane.name, lane.engine, seconds, f"{name} was removed without its last frames")

    def close_unused(self, streams: Iterable[ConfiguredStream]) -> None:
        """Close the engines that none of these streams uses."""
        enabled = [stream.settings for stream in streams if stream.settings.enabled]
        used = {self._model(settings) for settings in enabled}
        used |= {self._lanes.runs(settings.degrade_model) for settings in enabled if settings.degrade_model is not None}
        used |= {secondary_name(settings.secondary) for settings in enabled if settings.secondary is not None}
        self._lanes.close_unused(frozenset({self._lanes.runs(self._settings.model), *used}))

    def allowed_networks(self, name: str, stream: ConfiguredStream) -> tuple[str, ...]:
        """Return the networks that a stream's URLs may use; empty means any.

        URLs of the configuration file and of the command line may use any, unless the API has changed them.
        """
        if stream.origin == "file":
            return ()
        given = self._settings.streams.get(name) if stream.origin == "command_line" else None
        urls = StreamUrls.model_fields
        if given is not None and all(getattr(stream.settings, field) == getattr(given, field) for field in urls):
            return ()
        return self._settings.service.allow_networks

    def _model(self, settings: StreamSettings) -> str:
        return self._lanes.runs(settings.model or self._settings.model)
