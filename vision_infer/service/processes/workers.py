"""All worker processes of a service: what :mod:`vision_infer.service.serving` starts, watches, reloads and stops."""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from vision_infer.config.serve import ServeSettings
from vision_infer.core.clock import Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.pipeline.status import StreamEvent, StreamState
from vision_infer.preview.transport.port_front import PortFront
from vision_infer.preview.transport.sockets import Sockets
from vision_infer.service.operations.file_watch import RELOADED_FIELDS
from vision_infer.service.operations.logs import with_worker
from vision_infer.service.processes.fleet import FleetStreams
from vision_infer.service.processes.merged_results import MergedHub
from vision_infer.service.processes.placement import PlacedStream, Placement
from vision_infer.service.processes.worker_client import WorkerClient
from vision_infer.service.processes.worker_process import KILL_AFTER_S, WorkerProcess
from vision_infer.service.processes.worker_settings import (
    GivenStream,
    WorkerPlace,
    WorkerStart,
    front_socket,
    settings_of,
    settings_to_plain,
    streams_to_plain,
)
from vision_infer.service.streams.configured import ConfiguredStream, view_of
from vision_infer.service.streams.stream_files import StreamFiles
from vision_infer.service.views import Origin, StreamView

EVENTS_KEPT = 256
MOVE_AFTER = 5
"""The number of consecutive starts without success after which the streams of a worker move to others."""

_log = logging.getLogger("vision_infer.service")


class Workers(FleetStreams):
    """The worker processes and the placement of the streams.

    Args:
        settings: The settings of the service.
        places: The workers.
        state_dir: The state folder of the service.
        clock: The source of time.
        log: Receives the log lines of the workers; None: standard error.
    """

    placement: Placement

    def __init__(
        self,
        settings: ServeSettings,
        places: Sequence[WorkerPlace],
        state_dir: Path,
        clock: Clock,
        log: IO[str] | None = None,
    ) -> None:
        self.settings = settings
        self.nodes = None
        """The workers are processes of this machine; see :class:`Fleet`."""
        self.files = StreamFiles(state_dir, settings.service)
        self.placement = Placement([place.name for place in places], state_dir)
        self.events: deque[StreamEvent] = deque(maxlen=EVENTS_KEPT)
        """The changes of streams whose worker ended, oldest first."""
        self._state_dir = state_dir
        self._places = {place.name: place for place in places}
        self._clock = clock
        self._log = log
        self._sockets = Path(tempfile.mkdtemp(prefix="vision-infer-"))  # only this account may open it
        self._token = secrets.token_urlsafe(32)
        self._front: PortFront | None = None
        self.processes = {name: self._process(name) for name in self._places}
        self.clients = {name: WorkerClient(self._socket(name), self._token) for name in self._places}
        up: dict[str, Callable[[], WorkerClient | None]] = {name: self._client_of(name) for name in self._places}
        self.hub = MergedHub(settings.service.max_clients, up, clock)

    # For the serving loop

    def share_port(self, sockets: Sockets) -> Callable[[], Coroutine[object, object, None]]:
        """Give the preview port to the workers, which start later; return the function that starts to receive."""
        self._front = PortFront(sockets, front_socket(self._sockets), self._clock)
        return self._front.open

    def start(self) -> None:
        """Place all streams and start the workers. Returns immediately; :meth:`ready` reports the progress."""
        for name, settings in self.settings.streams.items():
            self.placement.put(name, settings, "command_line" if name in self.settings.url_streams else "file")
        for name, settings in self.files.read().items():
            if self.placement.get(name) is None:  # otherwise its worker reports the conflict
                self.placement.put(name, settings, "api")
        self.placement.store()
        for process in self.processes.values():
            process.start()

    @property
    def error(self) -> VisionInferError | None:
        """The error of a worker that cannot start at all."""
        return next((process.error for process in self.processes.values() if process.error is not None), None)

    def ready(self) -> tuple[bool, str]:
        """Return whether all workers can run inference, and if not, the reasons."""
        waiting = [f"worker {process.name}: {process.reason}" for process in self.processes.values() if not process.ready]
        return not waiting, "; ".join(waiting)

    def reload(self, settings: ServeSettings) -> None:
        """Apply the streams, sinks and credentials of a changed configuration file."""
        wanted = {name: one for name, one in settings.streams.items() if name not in settings.url_streams}
        known = self.placement.all()
        for name, stream in known.items():
            if stream.origin == "file" and name not in wanted:
                self.placement.remove(name)
        for name, one in wanted.items():
            if name not in known or known[name].origin == "file":
                self.placement.put(name, one, "file")
            else:
                _log.warning("%s: already created over the API or given on the command line; ignoring the file's stream", name)
        self.settings = self.settings.model_copy(update={name: getattr(settings, name) for name in RELOADED_FIELDS})
        self.placement.store()
        for name in self.processes:
            self._order(name, {})

    def close(self) -> None:
        """Let all workers finish their frames, and wait until they have ended."""
        for process in self.processes.values():
            process.end()
        deadline = time.monotonic() + KILL_AFTER_S
        for process in self.processes.values():
            process.join(deadline - time.monotonic())
        if self._front is not None:
            self._front.close()
        shutil.rmtree(self._sockets, ignore_errors=True)

    # For the supervising threads

    def start_of(self, worker: str) -> WorkerStart:
        """Return everything that a worker needs to start now."""
        given = {
            name: GivenStream(stream.settings, stream.origin)
            for name, stream in self.placement.of_worker(worker).items()
            if stream.origin == "api" or (stream.origin == "command_line" and stream.settings != self.settings.streams.get(name))
        }
        return WorkerStart(worker, self._socket(worker), self._token, self._settings_of(worker), given, self._state_dir)

    def went_down(self, worker: str, why: str) -> None:
        """Report that the streams of a worker do not run."""
        self._move_from(worker)
        now_ns, wall_ns = self._clock.monotonic_ns(), self._clock.wall_ns()
        for name, stream in self.placement.of_worker(worker).items():
            if stream.settings.enabled:
                event = StreamEvent(name, StreamState.BACKING_OFF, now_ns, f"worker {worker}: {why}", wall_ns)
                self.events.append(event)
                self.hub.publish(event)

    # Internals

    def _order(self, worker: str, streams: Mapping[str, GivenStream]) -> None:
        order = {"settings": settings_to_plain(self._settings_of(worker)), "streams": streams_to_plain(streams)}
        self.processes[worker].send(json.dumps(order))

    def _move_from(self, worker: str) -> None:
        """Move the streams of a worker that cannot start, for example because its GPU is gone.

        A worker that was ready before it ended keeps its streams: one of them may be the cause.
        """
        ready = [name for name, process in self.processes.items() if process.ready]
        if self.processes[worker].failed_starts < MOVE_AFTER or not ready:
            return
        orders: dict[str, dict[str, GivenStream]] = {}
        for name, stream in self.placement.of_worker(worker).items():
            moved = self.placement.move(name, ready)
            order = orders.setdefault(moved.worker, {})
            _log.warning("%s: moves from worker %s, which cannot start, to worker %s", name, worker, moved.worker)
            if stream.origin != "file":
                order[name] = GivenStream(stream.settings, stream.origin)
        for target, streams in orders.items():
            self._order(target, streams)
        self.placement.store()

    def _socket(self, worker: str) -> Path:
        return self._sockets / worker

    def _client_of(self, worker: str) -> Callable[[], WorkerClient | None]:
        return lambda: self.clients[worker] if self.processes[worker].up else None

    def _process(self, worker: str) -> WorkerProcess:
        def write(line: str) -> None:
            stream = sys.stderr if self._log is None else self._log
            with suppress(OSError, ValueError):  # the log is closed; the worker must not wait for it
                stream.write(with_worker(line, worker, self.settings.service.log_format) + "\n")
                stream.flush()

        return WorkerProcess(
            worker, lambda: self.start_of(worker).to_json(), lambda why: self.went_down(worker, why), write, self._clock
        )

    def _settings_of(self, worker: str) -> ServeSettings:
        streams = self.placement.of_worker(worker)
        own = {
            name: self.settings.streams.get(name, stream.settings)  # without changes over the API
            for name, stream in streams.items()
            if stream.origin != "api"
        }
        return settings_of(self.settings, self._places[worker], len(self._places), own, self._state_dir)

    def _view(self, name: str, stream: PlacedStream) -> StreamView:
        origin: Origin = stream.origin
        view = view_of(name, ConfiguredStream(stream.settings, origin), None)
        process = self.processes[stream.worker]
        if view.status is None or process.up:
            return view
        return replace(
            view, status=replace(view.status, state=StreamState.BACKING_OFF, reason=f"worker {stream.worker}: {process.reason}")
        )
