"""The lanes of a running service: one for each model that a stream uses, opened at first use."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from vision_infer.config.serve import ServeSettings
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import EngineError, ModelError, VisionInferError
from vision_infer.engine.device import available_cpus
from vision_infer.engine.engine import Engine, device_of
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.open import EngineRequest
from vision_infer.engine.placeholder import PlaceholderEngine
from vision_infer.engine.selection.warm_start import WarmStart
from vision_infer.engine.store.cache import OnMessage
from vision_infer.model.catalog import model_inputs, resolve_model
from vision_infer.pipeline.add_stream import check_secondary
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.lanes.lane import Lane, make_selector
from vision_infer.pipeline.lanes.late_engine import LateEngine
from vision_infer.pipeline.lanes.opening import open_quickly
from vision_infer.pipeline.lanes.replicas import OpenedReplica, make_replicated, open_replicas, put_in
from vision_infer.pipeline.lanes.upgrade import EngineUpgrade, upgrades_of
from vision_infer.pipeline.runs.run_factories import SECONDARY_BATCH, engine_request
from vision_infer.pipeline.status import ReplicaRemoval
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.service.errors import UnavailableError
from vision_infer.service.events import EngineEvent
from vision_infer.service.results.requests import PREFIX, Requests

REQUEST_CONFIDENCE = 0.05
"""The minimum confidence of detections that single images can return."""
SWAP_TIMEOUT_S = 10.0
"""The time limit for the last batch in a replaced engine, in seconds; single images wait meanwhile."""
_STOPPING = ("the service is stopping", "Try again after the restart.")

_log = logging.getLogger("vision_infer.service")


def in_flight(settings: ServeSettings) -> int:
    """Return the maximum number of concurrent batches before any engine is loaded."""
    return settings.workers or max(2, available_cpus() // (settings.threads or 1))


def secondary_name(model: str) -> str:
    """Return the name of a model's lane for crops."""
    return f"secondary:{model}"


def lane_name(model: str, engine: str | None) -> str:
    """Return the name of a model's lane with a certain engine; None: with the service's."""
    return model if engine is None else f"{model} on {engine}"


def parse_lane_name(name: str) -> tuple[str, str | None]:
    """Return the arguments of :func:`lane_name`."""
    found = re.fullmatch(r"(.+) on ([\w-]+)", name)
    return (name, None) if found is None else (found[1], found[2])


class Lanes:
    """Opens lanes in a supervisor and closes them. Callers must serialize changes; :meth:`get` is safe from any thread.

    Args:
        settings: The settings of the service.
        supervisor: Owns the lanes.
        on_event: Called with changes of engines, from any thread.
    """

    def __init__(
        self,
        settings: ServeSettings,
        supervisor: Supervisor,
        on_event: Callable[[EngineEvent], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._settings = settings
        self._supervisor = supervisor
        self._on_event = on_event
        self._clock = clock
        self.replacements: Mapping[str, str] = {}
        """The models that run in place of others after they were promoted, by the replaced model; replaced as a whole."""
        self._lanes: dict[str, Lane] = {}
        self._others: dict[str, list[Lane]] = {}
        """The lanes for other input sizes, by model."""
        self._requests: dict[str, Requests] = {}
        """The sources of single images, by model."""
        self._sources: dict[str, Requests] = {}
        """The same, by the name of the stream, until that stream has ended."""
        self._opened = 0
        # Guards the dicts above against the threads that load and upgrade engines and against requests for single images. It is
        # held while a lane is added, swapped or removed, never while an engine loads.
        self._lock = threading.Lock()
        self._closed = False
        self._upgrade = EngineUpgrade(self._swap, _log.info, statuses=supervisor.lane_statuses)

    def get(self, model: str) -> Lane | None:
        """Return the lane of a model if it is open."""
        return self._lanes.get(model)

    def runs(self, model: str) -> str:
        """Return the model that runs where the settings name ``model``."""
        return self.replacements.get(model, model)

    def open(self, name: str) -> Lane:
        """Return the lane of a model with a loaded and warmed-up engine.

        Args:
            name: The model, or a :func:`lane_name`.

        Raises:
            ModelError: The model does not exist.
            EngineError: The engine cannot be loaded.
        """
        lane = self._lanes.get(name)
        if lane is not None:
            return lane
        model, engine = parse_lane_name(name)
        graphs = {} if model.endswith(".onnx") else model_inputs(model, self._settings.model_dir)
        lane = self._open(name, model, self._settings.batch, engine)
        for size, path in list(graphs.items())[1:]:
            self._add_other(f"{name}@{size}", lane, path, engine)
        return lane

    def _add_other(self, name: str, lane: Lane, path: Path, engine: str | None) -> None:
        """Add a lane for another input size of a model; its engine is loaded for the first image."""
        try:
            card = read_graph_facts(path).card
        except ModelError as error:
            _log.warning("%s: this input size is not used: %s", name, error)
            return
        request = self._request(self._settings.batch, engine)
        other = Lane(name, PlaceholderEngine(card, lane.engine), lane.selector, group=lane.group)

        use = partial(self._use_engines, other, path, request)
        late = LateEngine(path, request, self._load, use, partial(self._give_up, other), _log.info)
        other.want = late.want
        with self._lock:
            if self._closed:
                raise UnavailableError(*_STOPPING)
            self._supervisor.add_lane(other)
            self._others.setdefault(lane.group, []).append(other)

    def _use_engines(self, lane: Lane, path: Path, request: EngineRequest, opened: Sequence[OpenedReplica]) -> None:
        """Give a lane its loaded engines."""
        with self._lock:
            if not self._has(lane):  # closed while the engine was loading
                raise UnavailableError(f"{lane.name} was closed while its engine was loading", "this is not an error")
            put_in(self._supervisor, lane, opened)
        self._upgrade_all(lane, path, request, opened)

    def _upgrade_all(self, lane: Lane, path: Path, request: EngineRequest, opened: Sequence[OpenedReplica]) -> None:
        """Make better engines for a lane where that is possible."""
        for upgrade in upgrades_of(lane, path, request, opened):
            self._upgrade.add(upgrade)

    def _give_up(self, lane: Lane, error: VisionInferError) -> None:
        """Fail a lane whose engine cannot be loaded."""
        with self._lock:
            if not self._has(lane):
                return
            self._supervisor.give_up(lane.name, error)
        _log.warning("%s: this input size is not used: %s", lane.name, error)

    def _has(self, lane: Lane) -> bool:
        return not self._closed and any(lane in others for others in self._others.values())

    def open_secondary(self, model: str) -> Lane:
        """Return the lane of a model for crops of detections, with a loaded and warmed-up engine.

        Raises:
            ModelError: The model does not exist.
            UsageError: The model is a detector.
            EngineError: The engine cannot be loaded.
        """
        name = secondary_name(model)
        lane = self._lanes.get(name)
        if lane is not None:
            return lane
        return self._open(name, model, self._settings.batch or SECONDARY_BATCH)

    def _open(self, name: str, model: str, batch: int | None, engine: str | None = None) -> Lane:
        path = resolve_model(model, self._settings.model_dir)
        request = self._request(batch, engine)
        opened = open_replicas(path, request, self._load, _log.warning)
        lane = make_replicated(opened, lambda engine: Lane(name, engine, make_selector(engine.card, None, None, None)))
        try:
            if name == secondary_name(model):
                check_secondary("secondary", secondary=lane.engine.card)
            for loaded in lane.engines:
                loaded.warm_up()
            with self._lock:
                if self._closed:  # while the engine was loading
                    raise UnavailableError(*_STOPPING)
                self._supervisor.add_lane(lane)
                self._lanes[name] = lane
        except BaseException:
            lane.close()
            raise
        self._upgrade_all(lane, path, request, opened)
        return lane

    def requests(self, model: str) -> Requests:
        """Return the source of single images for a model.

        Raises:
            UnavailableError: The model is not loaded.
        """
        with self._lock:
            requests = self._requests.get(model)
            if requests is None:
                lane = self._lanes.get(model)
                if lane is None:
                    raise UnavailableError(f"{model} is not loaded", "Use a model that a stream uses.")
                card = lane.engine.card
                self._opened += 1
                requests = Requests(f"{PREFIX}{self._opened}")
                self._sources[requests.spec.name] = requests
                selector = make_selector(card, min(REQUEST_CONFIDENCE, card.confidence), None, None)
                self._requests[model] = requests
                self._supervisor.add(AddStream(requests.spec, lane.name, selector=selector, private_sink=requests))
            return requests

    def source(self, name: str) -> Requests | None:
        """Return the source of single images with this stream name, if it exists."""
        return self._sources.get(name)

    def end_requests(self) -> None:
        """Accept no more single images; those that wait are canceled."""
        for requests in list(self._sources.values()):
            requests.end()

    def close_unused(self, used: frozenset[str]) -> None:
        """Close the lanes of all other models."""
        for model in [model for model in self._lanes if model not in used]:
            self._end_requests(model)
            with self._lock:
                if model in self._requests:  # a new request arrived meanwhile: try again next time
                    continue
                closing = self._remove(model)
            for lane in closing:
                lane.close()

    def _remove(self, model: str) -> list[Lane]:
        """Remove a model's lanes without running batches from the supervisor; return the lanes whose engines must be closed."""
        removed: list[Lane] = []
        others = self._others.get(model, [])
        try:
            while others:
                self._supervisor.remove_lane(others[-1].name)
                removed.append(others.pop())
            self._supervisor.remove_lane(model)
        except ValueError:  # a batch is running: try again next time
            return removed
        self._others.pop(model, None)
        return [*removed, self._lanes.pop(model)]

    def stop_upgrading(self) -> None:
        """Stop building better engines; afterwards no lane's engine changes, and lanes without an engine fail."""
        self._upgrade.close()
        stopping = UnavailableError(*_STOPPING)
        for others in list(self._others.values()):
            for lane in list(others):
                if isinstance(lane.engine, PlaceholderEngine):
                    self._supervisor.give_up(lane.name, stopping)

    def _swap(self, name: str, engine: Engine, *, replica: int | None = 0) -> Engine | None:
        """Replace an engine of a lane, or add one (None); the lane is not closed meanwhile.

        Raises:
            UnavailableError: The lane is closed.
            ValueError: The engine does not fit the lane.
        """
        with self._lock:
            replicas = {status.name: status.replicas for status in self._supervisor.lane_statuses()}.get(name)
            if self._closed or replicas is None:
                raise UnavailableError(f"{name} was closed while its engine was loading", "this is not an error")
            old = self._supervisor.swap_engine(name, engine, SWAP_TIMEOUT_S, replica)
        if replica is None:
            self._on_event(EngineEvent(name, "added", engine.name, self._clock.monotonic_ns(), f"on {device_of(engine)}"))
            return None
        before = replicas[replica].engine
        self._on_event(EngineEvent(name, "swapped", engine.name, self._clock.monotonic_ns(), f"replaces {before}"))
        if old is None:
            self.report_hanging(name, before, SWAP_TIMEOUT_S, "the engine is abandoned")
        return old

    def report_removed(self, removal: ReplicaRemoval) -> None:
        """Report that a lane no longer uses an engine that failed, and continues on other devices."""
        reason = f"{removal.device} is no longer used: {removal.reason}"
        self._on_event(EngineEvent(removal.lane, "removed", removal.engine, self._clock.monotonic_ns(), reason))

    def report_hanging(self, name: str, engine: str, seconds: float, consequence: str) -> None:
        """Report that a lane's engine did not return a batch within some seconds, and the consequence."""
        reason = f"no response to a batch for {seconds:.0f} s: {consequence}"
        _log.error("%s: %s: %s", name, engine, reason)
        self._on_event(EngineEvent(name, "hanging", engine, self._clock.monotonic_ns(), reason))

    def close(self) -> None:
        """Free the engines, also those that are still loading; the supervisor must be closed before."""
        with self._lock:
            self._closed = True
        for model in list(self._lanes):
            self._end_requests(model)
            for lane in (*self._others.pop(model, ()), self._lanes.pop(model)):
                lane.close()

    def _end_requests(self, model: str) -> None:
        with self._lock:
            requests = self._requests.pop(model, None)
        if requests is not None:
            requests.end()
            self._supervisor.remove(requests.spec.name, forget=True)
            requests.close(False)
            del self._sources[requests.spec.name]

    def _request(self, batch: int | None, engine: str | None) -> EngineRequest:
        return replace(engine_request(self._settings), batch=batch, engine=engine or self._settings.engine)

    def _load(self, path: Path, request: EngineRequest, on_message: OnMessage) -> tuple[Engine, WarmStart | None]:
        try:
            return open_quickly(path, request, on_message)
        except EngineError:
            raise
        except MemoryError as error:
            raise EngineError(f"{path.name}: not enough memory", "Use a smaller model or batch.") from error
