"""What the API in front of workers needs of them: they are processes of this machine, or run on the nodes of a cluster."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Protocol

from vision_infer.config.serve import ServeSettings, StreamSettings
from vision_infer.config.validation_errors import near
from vision_infer.core.errors import VisionInferError
from vision_infer.pipeline.status import StreamEvent
from vision_infer.preview.transport.sockets import Sockets
from vision_infer.service.backend import FleetNodes
from vision_infer.service.errors import UnknownStreamError
from vision_infer.service.events import MovedEvent
from vision_infer.service.processes.merged_results import MergedHub
from vision_infer.service.processes.placement import PlacedStream
from vision_infer.service.processes.worker_client import FleetClient
from vision_infer.service.streams.configured import StreamKeeper
from vision_infer.service.views import Origin, StreamView


class FleetWorker(Protocol):
    """The state of one worker."""

    @property
    def name(self) -> str:
        """The name."""

    @property
    def up(self) -> bool:
        """Whether its API can be reached."""

    @property
    def running(self) -> bool:
        """Whether it runs; it may not be reachable yet."""

    @property
    def ready(self) -> bool:
        """Whether it can run inference."""

    @property
    def reason(self) -> str:
        """Why it is not ready."""

    @property
    def starts(self) -> int:
        """The number of starts so far."""


class FleetPlacement(Protocol):
    """The streams and the worker of each; see :class:`Placement`. Methods that change something can block."""

    @property
    def waits(self) -> bool:
        """Whether a stream without a worker waits until there is one with enough capacity."""

    def get(self, name: str) -> PlacedStream | None:
        """Return a stream; None if there is none of this name."""

    def all(self) -> dict[str, PlacedStream]:
        """Return all streams, sorted by name."""

    def of_worker(self, worker: str) -> dict[str, PlacedStream]:
        """Return the streams of a worker by name."""

    def choose(self, name: str, among: Collection[str] = (), labels: Mapping[str, str] | None = None) -> str:
        """Return the worker of a new stream, which must have these labels if workers have labels.

        Raises:
            ConflictError: No worker has enough capacity.
        """

    def put(self, name: str, settings: StreamSettings, origin: Origin, among: Collection[str] = ()) -> PlacedStream:
        """Add a stream or replace its settings."""

    def remove(self, name: str) -> None:
        """Remove a stream."""

    def store(self) -> None:
        """Store the placement."""


class FleetStreams(ABC):
    """The streams of a fleet as the API shows them, by their placement."""

    placement: FleetPlacement

    def streams(self) -> list[StreamView]:
        """Return all streams, sorted by name, without the status that their workers know."""
        return [self._view(name, stream) for name, stream in self.placement.all().items()]

    def stream(self, name: str) -> StreamView:
        """Return one stream; see :meth:`streams`.

        Raises:
            UnknownStreamError: No stream has this name.
        """
        return self._view(name, self.placed(name))

    def placed(self, name: str) -> PlacedStream:
        """Return a stream and its worker, which is empty while the stream waits.

        Raises:
            UnknownStreamError: No stream has this name.
        """
        stream = self.placement.get(name)
        if stream is None:
            raise UnknownStreamError(f"stream {name} does not exist{near(name, self.placement.all())}")
        return stream

    @abstractmethod
    def _view(self, name: str, stream: PlacedStream) -> StreamView:
        """Return a stream, with the reason if its worker does not run."""


class Fleet(Protocol):
    """All workers of a service."""

    settings: ServeSettings
    hub: MergedHub

    @property
    def files(self) -> StreamKeeper:
        """The stored streams of the API."""

    @property
    def placement(self) -> FleetPlacement:
        """The streams and the worker of each."""

    @property
    def events(self) -> Collection[StreamEvent | MovedEvent]:
        """The changes of streams whose worker ended, and of streams that moved to another worker, oldest first."""

    @property
    def nodes(self) -> FleetNodes | None:
        """The nodes on which the workers run; None if the workers are processes of this machine."""

    @property
    def processes(self) -> Mapping[str, FleetWorker]:
        """The workers by name."""

    @property
    def clients(self) -> Mapping[str, FleetClient]:
        """The clients of the workers by name."""

    @property
    def error(self) -> VisionInferError | None:
        """The error that ends the service, if any."""

    def share_port(self, sockets: Sockets) -> Callable[[], Coroutine[object, object, None]]:
        """Give the preview port to the workers; return the function that starts to receive."""

    def start(self) -> None:
        """Start, and return immediately."""

    def ready(self) -> tuple[bool, str]:
        """Return whether all workers can run inference, and if not, the reasons."""

    def streams(self) -> Sequence[StreamView]:
        """Return all streams, sorted by name, without the status that their workers know."""

    def stream(self, name: str) -> StreamView:
        """Return one stream.

        Raises:
            UnknownStreamError: No stream has this name.
        """

    def placed(self, name: str) -> PlacedStream:
        """Return a stream and its worker.

        Raises:
            UnknownStreamError: No stream has this name.
        """

    def reload(self, settings: ServeSettings) -> None:
        """Apply the streams and sinks of a changed configuration file."""

    def close(self) -> None:
        """Stop."""
