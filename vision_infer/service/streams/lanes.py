"""The engines of a running service: one for each model that a stream uses, opened when it is first asked for."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from vision_infer.config.serve import ServeSettings
from vision_infer.core.clock import SYSTEM_CLOCK, Clock
from vision_infer.core.errors import EngineError, ModelError, VisionInferError
from vision_infer.engine.device import available_cpus, device_of
from vision_infer.engine.engine import Engine
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.open import EngineRequest
from vision_infer.engine.placeholder import PlaceholderEngine
from vision_infer.engine.selection.warm_start import WarmStart
from vision_infer.engine.store.cache import OnMessage, engine_dir
from vision_infer.model.catalogue import model_inputs, resolve_model
from vision_infer.pipeline.commands import AddStream
from vision_infer.pipeline.lanes.lane import Lane, make_selector
from vision_infer.pipeline.lanes.late import LateEngine
from vision_infer.pipeline.lanes.opening import open_quickly
from vision_infer.pipeline.lanes.upgrade import EngineUpgrade, Upgrade
from vision_infer.pipeline.runs.run_parts import SECOND_BATCH
from vision_infer.pipeline.supervisor import Supervisor
from vision_infer.service.errors import UnavailableError
from vision_infer.service.events import EngineEvent
from vision_infer.service.results.requests import PREFIX, Requests

REQUEST_CONFIDENCE = 0.05
"""candidates below this are never told to who sends single pictures"""
SWAP_TIMEOUT_S = 10.0
"""how long the last batch in an old engine may take; single pictures wait meanwhile"""

_log = logging.getLogger("vision_infer.service")


def in_flight(settings: ServeSettings) -> int:
    """Batches that may be in flight on this machine, before an engine is there to say so."""
    return settings.workers or max(2, available_cpus() // (settings.threads or 1))


def second_name(model: str) -> str:
    """The name of a model's lane for crops."""
    return f"secondary:{model}"


class Lanes:
    """Opens lanes in a supervisor and closes them. Not for several threads at once, but for :meth:`get`.

    Args:
        settings: which engine is wanted.
        supervisor: where the lanes go.
        tell: told what happens to engines; any thread may call it.
    """

    def __init__(
        self,
        settings: ServeSettings,
        supervisor: Supervisor,
        tell: Callable[[EngineEvent], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._settings = settings
        self._supervisor = supervisor
        self._tell = tell
        self._clock = clock
        self._lanes: dict[str, Lane] = {}
        self._others: dict[str, list[Lane]] = {}
        """for other input sizes, by model"""
        self._requests: dict[str, Requests] = {}
        """The sources of single images, by model."""
        self._sources: dict[str, Requests] = {}
        """The same, by the name of the stream, until that stream has ended."""
        self._opened = 0
        self._lock = threading.Lock()
        self._closed = False
        self._upgrade = EngineUpgrade(self._swap, _note, statuses=supervisor.lane_statuses)

    def get(self, model: str) -> Lane | None:
        """The lane of a model, if it is open."""
        return self._lanes.get(model)

    def open(self, model: str) -> Lane:
        """The lane of a model; its engine is loaded and warm.

        Raises:
            ModelError: there is no such model.
            EngineError: it cannot be loaded.
        """
        lane = self._lanes.get(model)
        if lane is not None:
            return lane
        graphs = {} if model.endswith(".onnx") else model_inputs(model, self._settings.model_dir)
        lane = self._open(model, model, self._settings.batch)
        for size, path in list(graphs.items())[1:]:
            self._add_other(f"{model}@{size.height}x{size.width}", lane, path)
        return lane

    def _add_other(self, name: str, lane: Lane, path: Path) -> None:
        """A lane for another input size of a model: its engine is opened for the first picture that goes into it."""
        try:
            card = read_graph_facts(path).card
        except ModelError as error:
            _log.warning("%s: is done without: %s", name, error)
            return
        request = self._request(self._settings.batch)
        other = Lane(name, PlaceholderEngine(card, lane.engine), lane.selector, group=lane.group)

        late = LateEngine(
            path, request, self._load, partial(self._put_in, other, path, request), partial(self._give_up, other), _note
        )
        other.want = late.want
        with self._lock:
            if self._closed:
                raise UnavailableError("the service stops", "try again when it is back")
            self._supervisor.add_lane(other)
            self._others.setdefault(lane.group, []).append(other)

    def _put_in(self, lane: Lane, path: Path, request: EngineRequest, engine: Engine, quick: WarmStart | None) -> None:
        """Let a lane have its engine."""
        with self._lock:
            if not self._has(lane):  # while it was loaded
                raise UnavailableError(f"{lane.name} is not open any more", "it is no mistake")
            self._supervisor.swap_engine(lane.name, engine)
        if quick is not None:
            self._upgrade.add(Upgrade(lane.name, path, request, quick))

    def _give_up(self, lane: Lane, error: VisionInferError) -> None:
        """A lane gets no engine: it is told, and done without."""
        with self._lock:
            if not self._has(lane):
                return
            self._supervisor.give_up(lane.name, error)
        _log.warning("%s: is done without: %s", lane.name, error)

    def _has(self, lane: Lane) -> bool:
        return not self._closed and any(lane in others for others in self._others.values())

    def open_second(self, model: str) -> Lane:
        """The lane of a model for crops of detections, which come many together; its engine is loaded and warm.

        Raises:
            ModelError: there is no such model, or it is none for classification or embeddings.
            EngineError: it cannot be loaded.
        """
        name = second_name(model)
        lane = self._lanes.get(name)
        if lane is not None:
            return lane
        return self._open(name, model, self._settings.batch or SECOND_BATCH)

    def _open(self, name: str, model: str, batch: int | None) -> Lane:
        path = resolve_model(model, self._settings.model_dir)
        request = self._request(batch)
        engine, quick = self._load(path, request, _note)
        try:
            card = engine.card
            if name != model and card.task == "detect":
                raise ModelError(f"secondary: {model} is a network for 'detect'", "name one for classification or embeddings")
            lane = Lane(name, engine, make_selector(card, None, None, None))
            engine.warm_up()
            with self._lock:
                if self._closed:  # while it was loaded
                    raise UnavailableError("the service stops", "try again when it is back")
                self._supervisor.add_lane(lane)
                self._lanes[name] = lane
        except BaseException:
            engine.__exit__(None, None, None)
            raise
        if quick is not None:
            self._upgrade.add(Upgrade(name, path, request, quick))
        return lane

    def ask(self, model: str) -> Requests:
        """Where single pictures go that a model shall infer.

        Raises:
            UnavailableError: it is not open, or was closed just now.
        """
        with self._lock:
            requests = self._requests.get(model)
            if requests is None:
                lane = self._lanes.get(model)
                if lane is None:
                    raise UnavailableError(f"{model} is not loaded", "use the model of a stream")
                card = lane.engine.card
                self._opened += 1
                requests = Requests(f"{PREFIX}{self._opened}")
                self._sources[requests.spec.name] = requests
                selector = make_selector(card, min(REQUEST_CONFIDENCE, card.confidence), None, None)
                self._requests[model] = requests
                self._supervisor.add(AddStream(requests.spec, lane.name, selector=selector, private_sink=requests))
            return requests

    def source(self, name: str) -> Requests | None:
        """The source of single pictures with this name, if it is one."""
        return self._sources.get(name)

    def end_requests(self) -> None:
        """Accept no more single images; those that wait are cancelled."""
        for requests in list(self._sources.values()):
            requests.end()

    def close_unused(self, used: frozenset[str]) -> None:
        """Close the lanes of all models but these."""
        for model in [model for model in self._lanes if model not in used]:
            self._end_requests(model)
            with self._lock:
                if model in self._requests:  # somebody has asked meanwhile: next time
                    continue
                closing = self._remove(model)
            for lane in closing:
                lane.engine.__exit__(None, None, None)

    def _remove(self, model: str) -> list[Lane]:
        """Take a model's lanes out of the supervisor, as far as no batch is on its way; returns those to be closed."""
        removed: list[Lane] = []
        others = self._others.get(model, [])
        try:
            while others:
                self._supervisor.remove_lane(others[-1].name)
                removed.append(others.pop())
            self._supervisor.remove_lane(model)
        except ValueError:  # a batch is on its way: next time
            return removed
        self._others.pop(model, None)
        return [*removed, self._lanes.pop(model)]

    def stop_upgrading(self) -> None:
        """End the making of better engines; from then on no lane's engine changes, and none is waited for."""
        self._upgrade.close()
        stopping = UnavailableError("the service stops", "try again when it is back")
        for others in list(self._others.values()):
            for lane in list(others):
                if isinstance(lane.engine, PlaceholderEngine):
                    self._supervisor.give_up(lane.name, stopping)

    def _swap(self, name: str, engine: Engine) -> Engine | None:
        """Put another engine into a lane, which is not closed meanwhile.

        Raises:
            UnavailableError: it was closed before.
            ValueError: the engine does not fit.
        """
        with self._lock:
            before = {status.name: status.engine for status in self._supervisor.lane_statuses()}.get(name)
            if self._closed or before is None:
                raise UnavailableError(f"{name} is not open any more", "it is no mistake")
            old = self._supervisor.swap_engine(name, engine, SWAP_TIMEOUT_S)
        self._tell(EngineEvent(name, "swapped", engine.name, self._clock.monotonic_ns(), f"instead of {before}"))
        if old is None:
            self.tell_hanging(name, before, SWAP_TIMEOUT_S, "it is left behind")
        return old

    def tell_hanging(self, name: str, engine: str, seconds: float, what: str) -> None:
        """Say that a batch does not come back from a lane's engine, how long that was waited for, and what comes of it."""
        reason = f"a batch has not come back from it for {seconds:.0f} s: {what}"
        _log.error("%s: %s: %s", name, engine, reason)
        self._tell(EngineEvent(name, "hanging", engine, self._clock.monotonic_ns(), reason))

    def close(self) -> None:
        """Free the engines, and those that are still loaded as soon as they are; the supervisor is closed by then."""
        with self._lock:
            self._closed = True
        for model in list(self._lanes):
            self._end_requests(model)
            for lane in (*self._others.pop(model, ()), self._lanes.pop(model)):
                lane.engine.__exit__(None, None, None)

    def _end_requests(self, model: str) -> None:
        with self._lock:
            requests = self._requests.pop(model, None)
        if requests is not None:
            requests.end()
            self._supervisor.remove(requests.spec.name, forget=True)
            requests.close(False)
            del self._sources[requests.spec.name]

    def _request(self, batch: int | None) -> EngineRequest:
        settings = self._settings
        folder = engine_dir(settings.engine_dir, os.environ)
        device = device_of(settings.device, len(self._lanes) + sum(map(len, self._others.values())))
        return EngineRequest(settings.engine, device, settings.workers, settings.threads, batch, engine_dir=folder)

    def _load(self, path: Path, request: EngineRequest, on_message: OnMessage) -> tuple[Engine, WarmStart | None]:
        try:
            return open_quickly(path, request, on_message)
        except EngineError:
            raise
        except MemoryError as error:
            raise EngineError(f"{path.name}: there is not enough memory for it", "use a smaller network or batch") from error


def _note(line: str) -> None:
    _log.info("%s", line)
