"""The service of a cluster as the API in front sees it: the nodes are its workers, and the controller places the streams."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import replace
from typing import Any

from vision_infer.cluster.actors import DisconnectedError, call_controller
from vision_infer.cluster.connect import connect, open_controller
from vision_infer.cluster.nodes import ClusterNodes, NodeState, NodeStates, cameras_of, nodes_of
from vision_infer.cluster.placement import Camera, Node, place
from vision_infer.cluster.ray_client import RayClient
from vision_infer.cluster.rows import NewestEpochs
from vision_infer.cluster.state import Plain
from vision_infer.config.serve import ServeSettings, StreamSettings
from vision_infer.core.clock import Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.pipeline.status import StreamState
from vision_infer.preview.transport.sockets import Sockets
from vision_infer.service.errors import ConflictError, UnavailableError
from vision_infer.service.events import MovedEvent
from vision_infer.service.processes.fleet import FleetStreams
from vision_infer.service.processes.merged_results import MergedHub
from vision_infer.service.processes.placement import PlacedStream
from vision_infer.service.processes.worker_settings import GivenStream, settings_to_plain, streams_from_plain, streams_to_plain
from vision_infer.service.streams.configured import ConfiguredStream, view_of
from vision_infer.service.streams.stream_files import StreamFiles
from vision_infer.service.views import Origin, StreamView

RETRY_S = 0.2
CONNECT_S = 5.0
"""The time between two attempts to connect to the cluster again, seconds."""
EVENTS_KEPT = 256
NOTHING_KNOWN = ("", -1)
"""The controller and version of a snapshot before the first one."""

_log = logging.getLogger("vision_infer.service")


class ClusterPlacement:
    """The streams and their nodes; see :class:`FleetPlacement`.

    Args:
        files: The stored streams of the API.
    """

    def __init__(self, files: StreamFiles) -> None:
        self._files = files
        # Guards streams and _written: the event loop's threads change single streams, and the thread that follows the controller
        # takes over its snapshots.
        self._lock = threading.Lock()
        self._written = NOTHING_KNOWN
        """The controller and version of the last change; an older snapshot does not have it."""
        self.streams: dict[str, PlacedStream] = {}
        """All streams, replaced as a whole."""
        self.nodes: tuple[Node, ...] = ()
        self.cameras: tuple[Camera, ...] = ()
        self.waits = False
        """Whether a stream waits for a node that Ray's autoscaler adds."""

    def get(self, name: str) -> PlacedStream | None:
        """Return a stream; None if there is none of this name."""
        return self.streams.get(name)

    def all(self) -> dict[str, PlacedStream]:
        """Return all streams, sorted by name."""
        return dict(self.streams)

    def of_worker(self, worker: str) -> dict[str, PlacedStream]:
        """Return the streams of a node by name."""
        return {name: stream for name, stream in self.streams.items() if stream.worker == worker}

    def choose(self, name: str, among: Collection[str] = (), labels: Mapping[str, str] | None = None) -> str:
        """Return the node of a new stream, which must have these labels.

        Raises:
            ConflictError: No node has enough capacity.
        """
        nodes = [node for node in self.nodes if node.usable and node.name in among]
        running = [camera for camera in self.cameras if camera.node in among]
        decision = place(nodes, [*running, Camera(name, labels=labels or {})])
        if name in decision.pending:
            raise ConflictError(f"{name}: {decision.pending[name]}", "Stop a stream, lower its fps, or add a node.")
        return decision.moves[name]

    def put(self, name: str, settings: StreamSettings, origin: Origin, among: Collection[str] = ()) -> PlacedStream:
        """Add a stream that its node runs, or replace its settings; store it if it is one of the API.

        Raises:
            OutputError: It cannot be stored.
            UnavailableError: The controller does not answer.
        """
        if origin == "api":
            self._files.write(name, settings)
        known = self.streams.get(name)
        worker = known.worker if known is not None and known.worker else next(iter(among), "")
        stream = PlacedStream(settings, origin, worker)
        written = call_controller("put", name, _plain_of(name, settings, origin) | {"node": worker or None})
        with self._lock:
            self._written = written
            self.streams = dict(sorted({**self.streams, name: stream}.items()))
            if known is None:  # the next stream may come before the next snapshot
                self.cameras += (Camera(name, weight=settings.weight, labels=settings.node_labels, node=worker or None),)
        return stream

    def remove(self, name: str) -> None:
        """Remove a stream.

        Raises:
            OutputError: The stored settings cannot be removed.
            UnavailableError: The controller does not answer.
        """
        self._files.remove(name)
        written = call_controller("remove", name)
        with self._lock:
            self._written = written
            self.streams = {one: stream for one, stream in self.streams.items() if one != name}

    def take_over(self, controller: str, version: int, streams: Mapping[str, PlacedStream]) -> bool:
        """Replace the streams by those of a snapshot; return False if the snapshot is older than a change."""
        with self._lock:
            if controller == self._written[0] and version < self._written[1]:
                return False
            self.streams = dict(streams)
        return True

    def store(self) -> None:
        """Do nothing: the controller and the workers know the placement."""


class Gateway(FleetStreams):
    """Connects the API in front with a cluster; see :class:`Fleet`.

    Args:
        settings: The settings of the service.
        files: The stored streams of the API.
        clock: The source of time.
        connect: Connects to the cluster again.
    """

    placement: ClusterPlacement

    def __init__(self, settings: ServeSettings, files: StreamFiles, clock: Clock, connect: Callable[[], None]) -> None:
        self.settings = settings
        self.files = files
        self._connect = connect
        self.placement = ClusterPlacement(files)
        self.placement.waits = settings.autoscale
        self.events: deque[MovedEvent] = deque(maxlen=EVENTS_KEPT)
        """The moves of streams, oldest first."""
        self.nodes = ClusterNodes()
        self.processes: Mapping[str, NodeState] = NodeStates()
        self.clients: dict[str, RayClient] = {}
        self.epochs = NewestEpochs()
        self.hub = MergedHub(settings.service.max_clients, {}, clock, self.epochs.accepts)
        self.error: VisionInferError | None = None
        self._clock = clock
        self._closing = threading.Event()
        self._known = NOTHING_KNOWN
        self._actors: dict[str, Any] = {}
        self._owners: dict[str, tuple[str | None, int]] = {}
        self._reasons: Mapping[str, str] = {}
        self._thread = threading.Thread(target=self._follow, name="cluster", daemon=True)

    def share_port(self, sockets: Sockets) -> Callable[[], Coroutine[object, object, None]]:
        """Do nothing with the preview port: viewers connect to the nodes."""
        del sockets
        return _nothing

    def start(self) -> None:
        """Follow the controller. Returns immediately; :meth:`ready` reports the progress."""
        self._thread.start()

    def ready(self) -> tuple[bool, str]:
        """Return whether a node can run inference, and if not, the reasons; without streams, none is needed if they can wait."""
        nodes = self.processes.values()
        needs_none = self.placement.waits and not self.placement.streams and self._known != NOTHING_KNOWN
        if needs_none or any(node.ready for node in nodes):
            return True, ""
        return False, "; ".join(f"node {node.name}: {node.reason}" for node in nodes) or "the cluster has no node yet"

    def reload(self, settings: ServeSettings) -> None:
        """Apply the streams and sinks of a changed configuration file."""
        self.settings = self.settings.model_copy(update={"streams": settings.streams, "sinks": settings.sinks})
        self._configure()

    def close(self) -> None:
        """Stop to follow the cluster, whose cameras keep running."""
        self._closing.set()

    # Internals

    def _view(self, name: str, stream: PlacedStream) -> StreamView:
        view = view_of(name, ConfiguredStream(stream.settings, stream.origin), None)
        if view.status is None:
            return view
        node = self.processes[stream.worker]
        if node.up:
            return view
        state, reason = StreamState.BACKING_OFF, f"node {node.name}: {node.reason}"
        if not stream.worker:
            state, reason = StreamState.PENDING, self._reasons.get(name) or node.reason
        return replace(view, status=replace(view.status, state=state, reason=reason))

    def _configure(self) -> None:
        cameras = {name: _plain_of(name, one, "api") for name, one in self.files.read().items()}
        for name, one in self.settings.streams.items():
            cameras[name] = _plain_of(name, one, "command_line" if name in self.settings.url_streams else "file")
        sent = self.settings.model_copy(update={"streams": {}, "access": None})  # only the gateway knows persons
        settings = settings_to_plain(sent.with_url_streams(frozenset()))
        call_controller("configure", settings, cameras, not self.settings.streams)

    def _follow(self) -> None:
        while not self._closing.is_set():
            try:
                controller, version = self._known
                snapshot = call_controller("watch", controller, version)
                if snapshot["controller"] != controller:  # it has started, or started again
                    self._configure()
                self._show(snapshot)
            except DisconnectedError as error:
                self._reconnect(error.message)
            except UnavailableError as error:
                if not self._closing.wait(RETRY_S):
                    _log.warning("trying again: %s", error.message)
            except Exception:  # noqa: BLE001 - the boundary of a thread: without it, this process would show an old state
                if not self._closing.wait(RETRY_S):
                    _log.exception("the state of the cluster cannot be read, trying again")

    def _reconnect(self, why: str) -> None:
        """Connect again, and again until it succeeds; meanwhile all nodes are shown as unreachable, with the reason."""
        self._actors = dict.fromkeys(self._actors)  # the handles belong to the lost connection
        while True:
            _log.error("%s; trying again", why)
            lost = {name: NodeState(name, reason=why, starts=one.starts) for name, one in self.processes.items()}
            self.processes = NodeStates(lost)
            self.nodes.lose(why)
            if self._closing.wait(CONNECT_S):
                return
            try:
                self._connect()
            except VisionInferError as error:
                why = error.message
            else:
                _log.info("connected to the cluster again")
                self._known = NOTHING_KNOWN
                return

    def _show(self, snapshot: Plain) -> None:
        nodes, cameras = snapshot["nodes"], snapshot["cameras"]
        streams = {
            name: PlacedStream(stream.settings, stream.origin, cameras[name]["node"] or "")
            for name, stream in streams_from_plain(cameras).items()
        }
        if not self.placement.take_over(snapshot["controller"], snapshot["version"], streams):
            return
        self._known = (snapshot["controller"], snapshot["version"])
        for name, actor in snapshot["actors"].items():
            if self._actors.get(name) != actor:
                is_new = name not in self._actors
                self._actors[name] = actor
                self.clients[name] = RayClient(actor)
                if is_new:
                    self.hub.add_worker(name, self._client_of(name))
        self.epochs.know({name: camera["epoch"] for name, camera in cameras.items()})
        self.processes = NodeStates(
            {
                name: NodeState(name, node["up"], node["state"] != "lost", node["ready"], node["reason"], node["starts"])
                for name, node in nodes.items()
                if name in self.clients
            }
        )
        self.nodes.show(snapshot)
        self.placement.nodes, self.placement.cameras = nodes_of(snapshot), cameras_of(snapshot)
        self._reasons = {name: camera["reason"] for name, camera in cameras.items()}
        self._announce(cameras)

    def _announce(self, cameras: Mapping[str, Plain]) -> None:
        """Tell clients which cameras have moved: their track ids and counts start again."""
        owners = {name: (camera["node"], camera["epoch"]) for name, camera in cameras.items()}
        for name, (node, epoch) in owners.items():
            before = self._owners.get(name)
            if before is None or before[1] == epoch or before[0] is None:
                continue
            reason = self._reasons[name]
            if node is not None:
                reason = f"runs on node {node} from now on" if node != before[0] else f"started again on node {node}"
            event = MovedEvent(name, before[0], node, epoch, self._clock.monotonic_ns(), reason)
            self.events.append(event)
            self.hub.publish(event)
        self._owners = owners

    def _client_of(self, name: str) -> Callable[[], RayClient | None]:
        return lambda: self.clients[name] if self.processes[name].up else None


def open_gateway(address: str, insecure: bool) -> Callable[[ServeSettings, StreamFiles, Clock], Gateway]:
    """Return a function that connects to a cluster and starts its controller if there is none; see :func:`connect`."""

    def open_(settings: ServeSettings, files: StreamFiles, clock: Clock) -> Gateway:
        def connect_() -> None:
            connect(address, insecure)
            open_controller()

        connect_()
        return Gateway(settings, files, clock, connect_)

    return open_


async def _nothing() -> None:
    return


def _plain_of(name: str, settings: StreamSettings, origin: Origin) -> Plain:
    plain: Plain = streams_to_plain({name: GivenStream(settings, origin)})[name]
    return plain | {"weight": settings.weight, "labels": settings.node_labels}
