"""The streams of a service with several workers, and the worker of each. A stream keeps its worker when the service restarts."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vision_infer.config.serve import StreamSettings
from vision_infer.service.views import Origin

FILE = "placement.json"

_log = logging.getLogger("vision_infer.service")


@dataclass(frozen=True, slots=True)
class PlacedStream:
    """A stream and its worker."""

    settings: StreamSettings
    origin: Origin
    worker: str


class Placement:
    """The streams by name; safe to use from any thread.

    A new stream goes to the worker with the fewest streams.

    Args:
        workers: The names of the workers.
        folder: The folder of the file in which the workers of the streams are stored.
    """

    waits = False
    """No worker is added, for which a stream could wait."""

    def __init__(self, workers: Sequence[str], folder: Path) -> None:
        self._workers = tuple(workers)
        self._path = folder / FILE
        # Guards _streams: the event loop and the reload of the configuration change it, supervising threads read it.
        self._lock = threading.Lock()
        self._streams: dict[str, PlacedStream] = {}
        self._before = _read(self._path)

    def get(self, name: str) -> PlacedStream | None:
        """Return a stream; None if there is none of this name."""
        return self._streams.get(name)

    def all(self) -> dict[str, PlacedStream]:
        """Return all streams, sorted by name."""
        with self._lock:
            return dict(sorted(self._streams.items()))

    def of_worker(self, worker: str) -> dict[str, PlacedStream]:
        """Return the streams of a worker by name."""
        return {name: stream for name, stream in self.all().items() if stream.worker == worker}

    def choose(self, name: str, among: Collection[str] = (), labels: Mapping[str, str] | None = None) -> str:
        """Return the worker of a new stream: the one before the restart, or the one with the fewest streams.

        Args:
            name: The name of the stream.
            among: The workers to choose from; empty: all.
            labels: Not used: all workers are on this machine.
        """
        del labels
        before = self._before.get(name)
        allowed = [worker for worker in self._workers if not among or worker in among]
        if before in allowed:
            return str(before)
        loads = Counter(stream.worker for stream in list(self._streams.values()))
        return min(allowed, key=lambda worker: loads[worker])

    def put(self, name: str, settings: StreamSettings, origin: Origin, among: Collection[str] = ()) -> PlacedStream:
        """Add a stream or replace its settings; a stream that exists keeps its worker.

        Args:
            name: The name of the stream.
            settings: The settings of the stream.
            origin: The place of the settings.
            among: The workers to choose from; empty: all.
        """
        with self._lock:
            old = self._streams.get(name)
            worker = self.choose(name, among) if old is None else old.worker
            stream = self._streams[name] = PlacedStream(settings, origin, worker)
        return stream

    def move(self, name: str, among: Collection[str]) -> PlacedStream:
        """Move a stream to the one of these workers that has the fewest streams."""
        with self._lock:
            old = self._streams.pop(name)
            moved = self._streams[name] = PlacedStream(old.settings, old.origin, self.choose(name, among))
        return moved

    def remove(self, name: str) -> None:
        """Remove a stream; do nothing if there is none of this name."""
        with self._lock:
            self._streams.pop(name, None)

    def store(self) -> None:
        """Write the workers of all streams to the file. A failure is logged: the next start then places the streams again."""
        workers = {name: stream.worker for name, stream in self.all().items()}
        if workers == self._before:
            return
        partial = self._path.with_name(f".{FILE}.partial")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(workers, indent=1) + "\n", encoding="utf-8")
            partial.replace(self._path)
            self._before = workers
        except OSError as error:
            _log.warning("%s: cannot be written: %s", self._path, error.strerror)


def _read(path: Path) -> Mapping[str, str]:
    with suppress(OSError, ValueError):
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict):
            return {str(name): str(worker) for name, worker in data.items()}
    return {}
