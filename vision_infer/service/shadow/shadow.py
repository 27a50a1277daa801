"""The shadow model of a service: start and end its trial, and promote it in place of the current model."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from vision_infer.config.serve import ServeSettings, StreamSettings
from vision_infer.config.service.shadow import ShadowSettings
from vision_infer.core.clock import Clock
from vision_infer.core.errors import ModelError, OutputError, UsageError, VisionInferError
from vision_infer.core.geometry import Size
from vision_infer.engine.device import devices_of
from vision_infer.model.catalog import model_inputs
from vision_infer.pipeline.runs.run_factories import engine_request
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.service.errors import ConflictError, UnavailableError, UnknownStreamError
from vision_infer.service.shadow.trial import OnDifference, ShadowStatus, Trial
from vision_infer.service.streams.cost import HEADROOM
from vision_infer.service.streams.degradation import TOO_SLOW, LoadMeter
from vision_infer.service.streams.lanes import Lanes, lane_name, parse_lane_name
from vision_infer.service.streams.running_streams import Streams

FILE_NAME = "shadow.json"

_log = logging.getLogger("vision_infer.service")


class ShadowFile:
    """The stored shadow model, and the models that run in place of others; survives a restart.

    Args:
        path: The file; None: nothing is stored.
        configured: The shadow model of the configuration file. The stored one is ignored after a change of it.
    """

    def __init__(self, path: Path | None, configured: ShadowSettings | None) -> None:
        self._path = path
        self._configured = None if configured is None else configured.model_dump(mode="json")
        self.shadow = configured
        self.replacements: dict[str, str] = {}
        try:
            data: dict[str, Any] = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
            self.replacements = {str(model): str(other) for model, other in data.get("models", {}).items()}
            if "shadow" in data and data.get("configured") == self._configured:
                self.shadow = None if data["shadow"] is None else ShadowSettings.model_validate(data["shadow"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, AttributeError) as error:
            _log.warning("%s: cannot be read, and is ignored: %s", path, type(error).__name__)

    def write(self, shadow: ShadowSettings | None, replacements: Mapping[str, str]) -> None:
        """Store new values.

        Raises:
            OutputError: They cannot be stored.
        """
        if self._path is not None:
            wanted = None if shadow is None else shadow.model_dump(mode="json")
            text = json.dumps({"configured": self._configured, "shadow": wanted, "models": dict(replacements)}, indent=2)
            partial = self._path.with_name(f".{self._path.name}.partial")
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with partial.open("w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(self._path)
            except OSError as error:
                with suppress(OSError):
                    partial.unlink()
                reason = error.strerror or error
                raise OutputError(f"{self._path}: cannot be stored: {reason}", "Check state_dir.") from error
        self.shadow, self.replacements = shadow, dict(replacements)


class Shadow:
    """The shadow model; safe to call from any thread.

    Args:
        settings: The settings of the service.
        file: The stored state.
        streams: The streams.
        lanes: The engines of the streams.
        supervisor: Shows its frames to the trial.
        load: Measures the spare capacity.
        clock: The source of time.
        on_difference: Called with each compared frame, its result, and the size of the difference. None: nothing.
    """

    def __init__(
        self,
        settings: ServeSettings,
        file: ShadowFile,
        streams: Streams,
        lanes: Lanes,
        supervisor: Supervisor,
        load: LoadMeter,
        clock: Clock,
        on_difference: OnDifference | None = None,
    ) -> None:
        self._on_difference = on_difference
        self._settings = settings
        self._file = file
        self._streams = streams
        self._lanes = lanes
        self._supervisor = supervisor
        self._load = load
        self._clock = clock
        self._trial: Trial | None = None
        # Serializes changes of the trial. Held by requests, and by the start and the end of the service.
        self._changing = threading.RLock()
        self._closed = False
        self._lost = 0
        for model, other in file.replacements.items():
            try:
                model_inputs(parse_lane_name(other)[0], settings.model_dir)
            except ModelError as error:
                _log.warning("%s runs again, because the model that was promoted in its place is missing: %s", model, error)
            else:
                _log.info("%s runs in place of %s, since it was promoted", other, model)
                lanes.replacements = {**lanes.replacements, model: other}

    def begin(self) -> None:
        """Start the stored or configured shadow model; an error is logged."""
        if self._file.shadow is not None:
            try:
                self._start(self._file.shadow)
            except VisionInferError as error:
                _log.warning("shadow model %s: %s", self._file.shadow.model, error)

    def close(self) -> None:
        """End the trial, and start no other one: the service stops."""
        with self._changing:
            self._closed = True
            self.end()

    def end(self) -> None:
        """End the trial."""
        with self._changing:
            self._supervisor.observe(None)
            if self._trial is not None:
                self._trial.end()
            self._trial = None

    def status(self) -> ShadowStatus | None:
        """Return the status; None if there is no shadow model."""
        trial = self._trial
        return None if trial is None else trial.status()

    def put(self, settings: ShadowSettings) -> ShadowStatus:
        """Start a shadow model in place of any earlier one, and store it.

        Raises:
            ConflictError: The streams run different models, or the candidate is their model.
            UsageError: The model does not exist, or is a file.
            UnknownStreamError: A stream does not exist.
            OutputError: It cannot be stored.
        """
        if settings.model.endswith(".onnx"):
            raise UsageError("the API accepts model names only, not files", "See /api/v1/models.")
        with self._changing:
            self._current(settings)
            self._file.write(settings, self._file.replacements)
            return self._start(settings)

    def delete(self) -> None:
        """End the trial permanently.

        Raises:
            OutputError: The change cannot be stored.
        """
        with self._changing:
            self._file.write(None, self._file.replacements)
            self.end()

    def promote(self) -> ShadowStatus:
        """Run all streams of the current model with the candidate; then the previous model becomes the shadow.

        The cameras stay connected. As with every change of a stream's model, tracks and counts start again.

        Raises:
            ConflictError: There is no loaded candidate, or a stream needs classes that it lacks.
            OutputError: The change cannot be stored; the streams keep their model.
        """
        with self._changing:
            status = self.status()
            if status is None:
                raise ConflictError("there is no shadow model", "Start one with PUT /api/v1/shadow.")
            settings, current = status.settings, status.current
            if status.state in ("loading", "failed"):
                raise ConflictError(f"{settings.model} is {status.state}", status.reason)
            candidate = lane_name(settings.model, settings.engine)
            before = self._lanes.replacements
            self.end()  # its engine and that of the streams need not be in memory at the same time
            try:
                self._streams.promote(current, candidate)
                model, engine = parse_lane_name(current)
                back = settings.model_copy(update={"model": model, "engine": engine})
                try:
                    self._file.write(back, self._lanes.replacements)
                except OutputError:
                    self._streams.promote(candidate, current)
                    self._lanes.replacements = before
                    raise
            except VisionInferError:
                self._start(settings)
                raise
            _log.info("%s was promoted, and runs in place of %s", candidate, current)
            return self._start(back)

    def _start(self, settings: ShadowSettings) -> ShadowStatus:
        with self._changing:
            if self._closed:
                raise UnavailableError("the service is stopping", "Try again after the restart.")
            self.end()
            current, graphs = self._current(settings)
            request = replace(engine_request(self._settings), device=devices_of(self._settings.device)[0], batch=1)
            if settings.engine is not None:
                request = replace(request, engine=settings.engine)
            trial = Trial(settings, current, graphs, request, self._running, self._shortage, self._clock, self._on_difference)
            self._trial = trial
            trial.start()
            self._supervisor.observe(trial.observe)
            return trial.status()

    def _current(self, settings: ShadowSettings) -> tuple[str, Mapping[Size, Path]]:
        """Return the model that a candidate is compared with, and the candidate's graphs."""
        configured, default = self._streams.configured(), self._settings.model
        for name in settings.streams:
            if name not in configured:
                raise UnknownStreamError(f"stream {name} does not exist")
        by_stream = {name: self._lanes.runs(configured[name].settings.model or default) for name in settings.streams}
        models = sorted({*by_stream.values()}) or [self._lanes.runs(default)]
        if len(models) > 1:
            hint = "Name streams of one model."
            raise ConflictError(f"the streams of the shadow model run different models: {', '.join(models)}", hint)
        if lane_name(settings.model, settings.engine) == models[0]:
            raise ConflictError(f"{models[0]} is the current model", "Name another model, or another engine.")
        try:
            return models[0], model_inputs(settings.model, self._settings.model_dir)
        except ModelError as error:
            raise UsageError(error.message, error.hint) from error

    def _running(self) -> dict[str, StreamSettings]:
        return {name: stream.settings for name, stream in self._streams.configured().items() if stream.settings.enabled}

    def _shortage(self, own_cores: float) -> str:
        """Return why the candidate gets no frames now; empty if there is spare capacity."""
        if any(stream.step for stream in self._streams.configured().values()):
            return "streams are degraded"
        statuses = self._supervisor.statuses()
        lost = sum(count for status in statuses for reason, count in status.dropped.items() if reason in TOO_SLOW)
        grown, self._lost = lost > self._lost, lost
        if grown:
            return "streams drop frames because the machine is too slow"
        cost = self._load.cost()
        machine = cost.machine
        busy = max((machine.used + machine.others - own_cores) / machine.cores, cost.accelerator or 0.0)
        return f"the machine is {min(1.0, busy):.0%} busy" if busy > HEADROOM else ""
