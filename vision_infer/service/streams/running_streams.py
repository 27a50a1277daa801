"""The streams of a running service: created, changed and removed over the API or by the configuration file."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from vision_infer.config.serve import ServeSettings, StreamSettings
from vision_infer.config.validation_errors import near
from vision_infer.core.clock import Clock
from vision_infer.core.errors import UsageError, VisionInferError
from vision_infer.pipeline.status import StreamEvent, StreamState
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.preview.preview import Preview
from vision_infer.schedule.degradation import DegradationStep
from vision_infer.service.clips.clip_recorder import Clips
from vision_infer.service.errors import ConflictError, ShortageError, UnavailableError, UnknownStreamError
from vision_infer.service.streams.admission import check_capacity
from vision_infer.service.streams.configured import ConfiguredStream, StreamKeeper, view_of
from vision_infer.service.streams.cost import Cost
from vision_infer.service.streams.degradation import settings_at
from vision_infer.service.streams.lanes import Lanes
from vision_infer.service.streams.stream_command import live_source
from vision_infer.service.streams.stream_runner import StreamRunner
from vision_infer.service.views import Origin, StreamView
from vision_infer.stream.source import SourceSpec

_log = logging.getLogger("vision_infer.service")


class Streams:
    """The configured streams. Changes are serialized; reading is safe from any thread at any time.

    Args:
        settings: The settings of the service.
        keep: Stores the settings of streams created over the API.
        supervisor: Runs the streams.
        lanes: The engines; those that no stream uses are closed.
        clips: Receives the clip settings of each stream.
        preview: Notified when a stream changes or is removed.
        cost: Returns the current costs, by which new streams are admitted.
        on_event: Called when a stream cannot run and is therefore unknown to the supervisor.
        ended: Set when the service stops; no changes are accepted afterwards.
        alone: Whether all streams run in this process.
    """

    def __init__(
        self,
        settings: ServeSettings,
        keep: StreamKeeper | None,
        supervisor: Supervisor,
        lanes: Lanes,
        clips: Clips,
        preview: Preview,
        cost: Callable[[], Cost],
        on_event: Callable[[StreamEvent], None],
        clock: Clock,
        ended: threading.Event,
        alone: bool = True,
    ) -> None:
        self._settings = settings
        self._keep = keep
        self._supervisor = supervisor
        self._lanes = lanes
        self._runner = StreamRunner(settings, supervisor, lanes, clips, on_event, clock, alone)
        self._clips = clips
        self._preview = preview
        self._cost = cost
        self._clock = clock
        self._ended = ended
        self._streams: dict[str, ConfiguredStream] = {}
        self.begun = False
        """Whether streams may run: the default engine is loaded."""
        self.changing = threading.RLock()
        """Serializes changes. The API, the reload of the configuration file, degradation and the shutdown hold it, possibly for
        seconds while an engine loads. Readers do not need it."""

    # Status

    def configured(self) -> dict[str, ConfiguredStream]:
        """Return all streams by name."""
        return dict(self._streams)

    def views(self) -> list[StreamView]:
        """Return the settings and status of all streams, sorted by name."""
        statuses = {status.name: status for status in self._supervisor.statuses()}
        return [view_of(name, stream, statuses.get(name)) for name, stream in sorted(self._streams.items())]

    def view(self, name: str) -> StreamView:
        """Return the settings and status of one stream.

        Raises:
            UnknownStreamError: No stream has this name.
        """
        return view_of(name, self._known(name), self._supervisor.status(name))

    def main_source(self, name: str) -> SourceSpec | None:
        """Return the source of a stream's ``view`` URL; None if it has none, is disabled or does not exist."""
        stream = self._streams.get(name)
        if stream is None or stream.settings.view is None or not stream.settings.enabled:
            return None
        return live_source(name, stream.settings.view, stream.settings, self._runner.allowed_networks(name, stream))

    # Changes

    def read(self) -> None:
        """Load the streams of the configuration file and of the command line, and the stored streams of the API."""
        for name, settings in self._settings.streams.items():
            origin: Origin = "command_line" if name in self._settings.url_streams else "file"
            self._streams[name] = ConfiguredStream(settings, origin)
        for name, settings in ({} if self._keep is None else self._keep.read()).items():
            if name in self._streams:
                _log.warning(
                    "%s: also in the configuration or on the command line; ignoring the stream created over the API", name
                )
            else:
                self._streams[name] = ConfiguredStream(settings, "api")

    def begin(self) -> None:
        """Start all streams. An error of one stream becomes its state and does not affect the others.

        Raises:
            ShortageError: There are too few threads or too little memory, which a restart may solve.
        """
        self.begun = True
        with self.changing:
            for name, stream in list(self._streams.items()):
                if self._ended.is_set():
                    return
                self._runner.run_or_fail(name, stream)
                if isinstance(stream.problem, ShortageError):
                    raise stream.problem

    def create(self, name: str, settings: StreamSettings) -> StreamView:
        """Add a stream and store its settings; see :meth:`Backend.create`."""
        self._check_running()
        with self.changing:
            if name in self._streams:
                raise ConflictError(f"stream {name} already exists", "Choose another name, or replace the stream.")
            check_capacity(name, settings, self._streams, self._cost, joins=True)
            max_streams = self._settings.service.max_streams
            if len(self._streams) >= max_streams:
                raise ConflictError(f"the limit of {max_streams} streams is reached", "Remove one, or raise service.max_streams.")
            return self._put(name, ConfiguredStream(settings, "api"), None)

    def replace(self, name: str, settings: StreamSettings) -> StreamView:
        """Replace the settings of a stream and store them; see :meth:`Backend.replace`."""
        self._check_running()
        with self.changing:
            old = self._editable(name)
            before = None if old.settings.best_effort else old.settings.fps
            more = settings.fps is not None and (before is None or settings.fps > before)
            if more or not old.settings.enabled:
                check_capacity(name, settings, self._streams, self._cost, joins=not old.settings.enabled)
            return self._put(name, ConfiguredStream(settings, old.origin), old)

    def adopt(self, name: str, settings: StreamSettings, origin: Origin) -> None:
        """Run a stream that another process has accepted. An error becomes its state; an unchanged stream keeps running."""
        with self.changing:
            old = self._streams.get(name)
            if old is not None and (old.settings, old.origin, old.problem) == (settings, origin, None):
                return
            stream = self._streams[name] = ConfiguredStream(settings, origin)
            self._preview.changed(name)
            if self.begun:  # otherwise begin() starts it
                self._runner.run_or_fail(name, stream)

    def give_up(self, name: str) -> None:
        """Stop a stream that another process runs from now on; do nothing if there is none of this name."""
        with self.changing:
            if name in self._streams:
                self._forget(name)
                self._runner.close_unused(self._streams.values())

    def delete(self, name: str) -> None:
        """Remove a stream permanently; see :meth:`Backend.delete`."""
        self._check_running()
        with self.changing:
            if self._editable(name).origin == "api" and self._keep is not None:
                self._keep.remove(name)
            self._forget(name)
            self._runner.close_unused(self._streams.values())

    def reload(self, wanted: Mapping[str, StreamSettings]) -> None:
        """Apply the streams of a changed configuration file; unchanged streams keep running.

        An error of one stream becomes its state and does not affect the others.
        """
        with self.changing:
            before = {name for name, stream in self._streams.items() if stream.origin == "file"}
            for name in before - wanted.keys():
                _log.info("%s: removed from the configuration file", name)
                self._forget(name)
            for name, settings in wanted.items():
                old = self._streams.get(name)
                if old is not None and old.origin != "file":
                    where = "created over the API" if old.origin == "api" else "given on the command line"
                    _log.warning("%s: already %s; ignoring the stream of the configuration file", name, where)
                elif old is None or old.settings != settings or old.problem is not None:
                    _log.info("%s: %s in the configuration file", name, "added" if old is None else "changed")
                    stream = self._streams[name] = ConfiguredStream(settings, "file")
                    self._preview.changed(name)
                    if self.begun:  # otherwise begin() starts it
                        self._runner.run_or_fail(name, stream)
            self._runner.close_unused(self._streams.values())

    def try_again(self, concerns: Callable[[str], bool]) -> None:
        """Connect now to the streams that are not connected and whose URL is concerned by a change."""
        with self.changing:
            for name, stream in list(self._streams.items()):
                status = self._supervisor.status(name)
                waits = status is not None and status.state is not StreamState.LIVE
                if waits and concerns(settings_at(stream.settings, stream.step).detect):
                    self._runner.stop(name, stream.settings)
                    self._runner.run_or_fail(name, stream)

    def promote(self, current: str, candidate: str) -> None:
        """Run all streams of a model with another one; their connections stay open. If one cannot change, all keep the model.

        Raises:
            ConflictError: The other model cannot be loaded, or lacks classes that the settings of a stream name.
            VisionInferError: A stream cannot change.
        """
        self._check_running()
        with self.changing:
            lanes, before = self._lanes, self._lanes.replacements
            named = {self._settings.model}
            users: dict[str, ConfiguredStream] = {}
            for name, stream in self._streams.items():
                named |= {stream.settings.model or self._settings.model, stream.settings.degrade_model or self._settings.model}
                model = settings_at(stream.settings, stream.step).model or self._settings.model
                if stream.settings.enabled and lanes.runs(model) == current:
                    users[name] = stream
            after = {**before, **{model: candidate for model in named if lanes.runs(model) == current}}
            try:
                self._runner.check_model(candidate, users)
                lanes.replacements = {model: other for model, other in after.items() if model != other}
                try:
                    for name, stream in users.items():
                        self._runner.run(name, stream)
                except VisionInferError:
                    lanes.replacements = before
                    for name, stream in users.items():
                        self._runner.run_or_fail(name, stream)
                    raise
            finally:
                self._runner.close_unused(self._streams.values())

    def degrade(self, name: str, step: DegradationStep, reason: str) -> bool:
        """Change a stream's step of degradation; return False if the stream is gone or disabled.

        Raises:
            VisionInferError: The step failed and the stream continues unchanged; a failed step is not tried again.
        """
        with self.changing:
            stream = self._streams.get(name)
            if stream is None or not stream.settings.enabled or self._ended.is_set():
                return False
            before, before_why = stream.step, (stream.step_wall_ns, stream.step_reason)
            stream.step, stream.step_wall_ns, stream.step_reason = step, self._clock.wall_ns(), reason
            if settings_at(stream.settings, before) != settings_at(stream.settings, step):
                try:
                    self._runner.run(name, stream)
                except VisionInferError:
                    stream.step, (stream.step_wall_ns, stream.step_reason) = before, before_why
                    if step > before:
                        stream.refused.add(step)
                    raise
            return True

    # Internals

    def _check_running(self) -> None:
        if self._ended.is_set():  # checked without the lock, because close() holds it until all streams have ended
            raise UnavailableError("the service is stopping", "Try again after the restart.")

    def _put(self, name: str, stream: ConfiguredStream, old: ConfiguredStream | None) -> StreamView:
        if stream.settings.sample is not None and self._settings.samples.dir is None:
            raise UsageError("sample: the service has no folder for samples", "Set samples.dir in its configuration.")
        models = (stream.settings.model, stream.settings.secondary, stream.settings.degrade_model)
        if any(model is not None and model.endswith(".onnx") for model in models):
            raise UsageError("the API accepts model names only, not files", "See /api/v1/models.")
        self._check_running()
        try:
            if self.begun:
                self._runner.run(name, stream)
            if stream.origin == "api" and self._keep is not None:
                try:
                    self._keep.write(name, stream.settings)
                except VisionInferError:
                    if old is None:
                        self._supervisor.remove(name)
                        self._clips.forget(name)
                    elif self.begun:
                        self._runner.run_or_fail(name, old)
                    raise
            self._streams[name] = stream
            self._preview.changed(name)
        finally:
            self._runner.close_unused(self._streams.values())
        return self.view(name)

    def _forget(self, name: str) -> None:
        self._runner.stop(name, self._streams.pop(name).settings)
        self._preview.forget(name)
        self._clips.forget(name)

    def _known(self, name: str) -> ConfiguredStream:
        stream = self._streams.get(name)
        if stream is None:
            raise UnknownStreamError(f"stream {name} does not exist{near(name, self._streams)}")
        return stream

    def _editable(self, name: str) -> ConfiguredStream:
        stream = self._known(name)
        if stream.origin == "file":
            raise ConflictError(
                f"stream {name} is defined in the configuration file", "Change it there; the service reloads the file."
            )
        return stream
