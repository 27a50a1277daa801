"""The streams of a running service: made, changed, taken away, and let run as their settings want it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from vision_infer.config.serve import ServeSettings, StreamSettings
from vision_infer.core.clock import Clock
from vision_infer.core.errors import ModelError, UsageError, VisionInferError
from vision_infer.pipeline.status import StreamEvent, StreamState
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.preview.preview import Preview
from vision_infer.schedule.degradation import DegradationStep
from vision_infer.service.clips.clip_recorder import Clips
from vision_infer.service.errors import ConflictError, UnavailableError, UnknownStreamError
from vision_infer.service.streams.admission import check_room
from vision_infer.service.streams.configured import ConfiguredStream, Origin, StreamKeeper, view_of
from vision_infer.service.streams.cost import Cost
from vision_infer.service.streams.degrading import settings_at
from vision_infer.service.streams.lanes import Lanes, second_name
from vision_infer.service.streams.stream_command import check_second, live_source, stream_command
from vision_infer.service.views import StreamView
from vision_infer.stream.redact import redact
from vision_infer.stream.source import SourceSpec

_log = logging.getLogger("vision_infer.service")


class Streams:
    """Changes take turns; reading is safe from any thread at any time.

    Args:
        settings: of the service.
        keep: keeps the settings of streams that are made over the API.
        supervisor: runs the streams.
        lanes: their engines; those that no stream uses any more are closed.
        clips: told what is to be kept of each stream's video.
        preview: told which streams are others now.
        cost: what the streams take now, by which new ones are admitted.
        tell: told of a stream that cannot run, which the supervisor does not know.
        ended: the service stops; from then on nothing is changed.
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
        tell: Callable[[StreamEvent], None],
        clock: Clock,
        ended: threading.Event,
    ) -> None:
        self._settings = settings
        self._keep = keep
        self._supervisor = supervisor
        self._lanes = lanes
        self._clips = clips
        self._preview = preview
        self._cost = cost
        self._tell = tell
        self._clock = clock
        self._ended = ended
        self._streams: dict[str, ConfiguredStream] = {}
        self.begun = False
        """streams may run: the default engine is loaded"""
        self.changing = threading.RLock()
        """held by whoever changes something"""

    # What there is

    def configured(self) -> dict[str, ConfiguredStream]:
        """What is wanted of each, by name."""
        return dict(self._streams)

    def views(self) -> list[StreamView]:
        """All streams, in the order of their names."""
        statuses = {status.name: status for status in self._supervisor.statuses()}
        return [view_of(name, stream, statuses.get(name)) for name, stream in sorted(self._streams.items())]

    def view(self, name: str) -> StreamView:
        """One stream.

        Raises:
            UnknownStreamError: there is none of this name.
        """
        return view_of(name, self._known(name), self._supervisor.status(name))

    def main_source(self, name: str) -> SourceSpec | None:
        """The main URL of a stream, ``view``; None where it has none, does not run, or is not there."""
        stream = self._streams.get(name)
        if stream is None or stream.settings.view is None or not stream.settings.enabled:
            return None
        return live_source(name, stream.settings.view, stream.settings, self._allowed(stream.origin))

    # Changes

    def read(self) -> None:
        """Take over those of the settings, and those that are kept."""
        for name, settings in self._settings.streams.items():
            self._streams[name] = ConfiguredStream(settings, "file")
        for name, settings in ({} if self._keep is None else self._keep.read()).items():
            if name in self._streams:
                _log.warning("%s: the file of settings has a stream of this name: that made over the API is left out", name)
            else:
                self._streams[name] = ConfiguredStream(settings, "api")

    def begin(self) -> None:
        """Let them all run: what is wrong with one is its state, and costs the others nothing."""
        self.begun = True
        with self.changing:
            for name, stream in list(self._streams.items()):
                if self._ended.is_set():
                    return
                self._run_or_note(name, stream)

    def create(self, name: str, settings: StreamSettings) -> StreamView:
        """Add a stream, and keep it.

        Raises:
            ConflictError: the name is taken, there are as many streams as may be, or the machine cannot carry it.
            UsageError: the settings cannot be used, such as those of an unknown model.
            OutputError: they cannot be kept.
        """
        self._check_open()
        with self.changing:
            if name in self._streams:
                raise ConflictError(f"there is a stream {name} already", "choose another name, or replace it")
            check_room(name, settings, self._streams, self._cost, joins=True)
            most = self._settings.service.max_streams
            if len(self._streams) >= most:
                raise ConflictError(f"there are {most} streams already", "remove one, or raise service.max_streams")
            return self._put(name, ConfiguredStream(settings, "api"), None)

    def replace(self, name: str, settings: StreamSettings) -> StreamView:
        """Give a stream other settings, and keep them.

        Raises:
            UnknownStreamError: there is none of this name.
            ConflictError: it belongs to the file of settings, or wants more than the machine can carry.
            UsageError: the settings cannot be used; it goes on as it was.
            OutputError: they cannot be kept; it goes on as it was.
        """
        self._check_open()
        with self.changing:
            old = self._owned(name)
            before = None if old.settings.best_effort else old.settings.fps
            more = settings.fps is not None and (before is None or settings.fps > before)
            if more or not old.settings.enabled:
                check_room(name, settings, self._streams, self._cost, joins=not old.settings.enabled)
            return self._put(name, ConfiguredStream(settings, "api"), old)

    def delete(self, name: str) -> None:
        """Take a stream away, for good.

        Raises:
            UnknownStreamError: there is none of this name.
            ConflictError: it belongs to the file of settings.
            OutputError: its settings cannot be removed.
        """
        self._check_open()
        with self.changing:
            self._owned(name)
            if self._keep is not None:
                self._keep.remove(name)
            self._forget(name)
            self._close_unused()

    def reload(self, wanted: Mapping[str, StreamSettings]) -> None:
        """Take over the streams of a changed file; those that are the same go on untouched.

        What is wrong with one stream is its state, and costs the others nothing.
        """
        with self.changing:
            before = {name for name, stream in self._streams.items() if stream.origin == "file"}
            for name in before - wanted.keys():
                _log.info("%s: removed from the file of settings", name)
                self._forget(name)
            for name, settings in wanted.items():
                old = self._streams.get(name)
                if old is not None and old.origin == "api":
                    _log.warning("%s: a stream of this name was made over the API: that of the file is left out", name)
                elif old is None or old.settings != settings or old.problem is not None:
                    _log.info("%s: %s by the file of settings", name, "added" if old is None else "changed")
                    stream = self._streams[name] = ConfiguredStream(settings, "file")
                    self._preview.changed(name)
                    if self.begun:  # else it is started with the others
                        self._run_or_note(name, stream)
            self._close_unused()

    def give_way(self, name: str, step: DegradationStep, reason: str) -> bool:
        """Let a stream go on at a step, for what was measured; False where it is gone or has other settings by now.

        Raises:
            VisionInferError: it cannot, and goes on as it was; a step that could not be taken is not tried again.
        """
        with self.changing:
            stream = self._streams.get(name)
            if stream is None or not stream.settings.enabled or self._ended.is_set():
                return False
            before, told = stream.step, (stream.step_wall_ns, stream.step_reason)
            stream.step, stream.step_wall_ns, stream.step_reason = step, self._clock.wall_ns(), reason
            if settings_at(stream.settings, before) != settings_at(stream.settings, step):
                try:
                    self._run(name, stream)
                except VisionInferError:
                    stream.step, (stream.step_wall_ns, stream.step_reason) = before, told
                    if step > before:
                        stream.refused.add(step)
                    raise
            return True

    # Inside

    def _check_open(self) -> None:
        if self._ended.is_set():  # at once: who closes holds the lock until all is finished
            raise UnavailableError("the service is stopping", "try again when it is back")

    def _put(self, name: str, stream: ConfiguredStream, old: ConfiguredStream | None) -> StreamView:
        models = (stream.settings.model, stream.settings.secondary, stream.settings.degrade_model)
        if any(model is not None and model.endswith(".onnx") for model in models):
            raise UsageError("a stream over the API names a model, not a file", "see /api/v1/models")
        if self._ended.is_set():
            raise UnavailableError("the service stops", "try again when it is back")
        try:
            if self.begun:
                self._run(name, stream)
            if self._keep is not None:
                try:
                    self._keep.write(name, stream.settings)
                except VisionInferError:
                    if old is None:
                        self._supervisor.remove(name)
                    elif self.begun:
                        self._run_or_note(name, old)
                    raise
            self._streams[name] = stream
            self._preview.changed(name)
        finally:
            self._close_unused()
        return self.view(name)

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
            self._tell(StreamEvent(name, StreamState.FAILED, stream.problem_ns[0], redact(str(error)), stream.problem_ns[1]))

    def _run(self, name: str, stream: ConfiguredStream) -> None:
        """Let a stream run by its settings, whatever it did before.

        Raises:
            UsageError: the settings cannot be used; it goes on as it was.
        """
        settings = settings_at(stream.settings, stream.step)
        if not settings.enabled:
            self._supervisor.remove(name)
            self._clips.configure(name, None)
            return
        try:
            lane = self._lanes.open(self._model(settings))
            if settings.secondary is not None:
                check_second("secondary", lane.engine.card)
            secondary = None if settings.secondary is None else self._lanes.open_second(settings.secondary)
        except ModelError as error:
            raise UsageError(error.message, error.hint) from error
        command = stream_command(name, settings, lane, secondary, self._allowed(stream.origin))
        try:
            self._supervisor.change(command)
        except KeyError:  # it does not run, or has just ended
            self._take_away(name, settings)
            if self._supervisor.status(name) is not None:
                held = f"{name}: frames of the stream that had this name do not come back from an engine"
                raise UnavailableError(held, "choose another name, or restart the service") from None
            self._supervisor.add(command)
        self._clips.configure(name, settings.clips)

    def _forget(self, name: str) -> None:
        self._take_away(name, self._streams.pop(name).settings)
        self._preview.forget(name)
        self._clips.forget(name)

    def _take_away(self, name: str, settings: StreamSettings) -> None:
        """Let a stream run no longer. An engine from which its frames do not come back is told; they are waited for no longer."""
        began = self._clock.monotonic_ns()
        self._supervisor.remove(name)
        if self._supervisor.status(name) is None:
            return
        model = self._model(settings)
        seconds = (self._clock.monotonic_ns() - began) / 1e9
        for lane in self._supervisor.lane_statuses():
            its_own = lane.name == model or lane.name.startswith(f"{model}@")
            if lane.flying and (its_own or (settings.secondary is not None and lane.name == second_name(settings.secondary))):
                self._lanes.tell_hanging(lane.name, lane.engine, seconds, f"{name} is removed without its last frames")

    def _close_unused(self) -> None:
        enabled = [stream.settings for stream in self._streams.values() if stream.settings.enabled]
        used = {self._model(settings) for settings in enabled}
        used |= {settings.degrade_model for settings in enabled if settings.degrade_model is not None}
        used |= {second_name(settings.secondary) for settings in enabled if settings.secondary is not None}
        self._lanes.close_unused(frozenset({self._settings.model, *used}))

    def _model(self, settings: StreamSettings) -> str:
        return settings.model or self._settings.model

    def _allowed(self, origin: Origin) -> tuple[str, ...]:
        return self._settings.service.allow_networks if origin == "api" else ()

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
