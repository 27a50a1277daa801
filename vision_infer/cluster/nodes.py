"""The nodes as the API shows them, from the controller's snapshot, and draining."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from vision_infer.cluster.actors import call_controller
from vision_infer.cluster.placement import Camera, Node, outlook
from vision_infer.cluster.state import Plain
from vision_infer.service.views import NodeView

PLACEABLE = ("alive", "joining", "idle")
"""The states of nodes that may get streams."""
_SHOWN = ("state", "up", "ready", "reason", "starts", "labels", "capacity")


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node as the API in front sees it; see :class:`FleetWorker`."""

    name: str
    up: bool = False
    running: bool = False
    ready: bool = False
    reason: str = "no node runs it yet"
    starts: int = 0


class NodeStates(dict[str, NodeState]):
    """The states of nodes by name; a stream that waits for a node has one that does not run."""

    def __missing__(self, name: str) -> NodeState:
        return NodeState(name or "(none)")


class ClusterNodes:
    """The nodes of the cluster; see :class:`FleetNodes`. One thread shows snapshots, any thread reads them."""

    def __init__(self) -> None:
        self._snapshot: Plain = {"nodes": {}, "cameras": {}}
        self._views: tuple[Plain, Sequence[NodeView]] = ({}, ())
        """A snapshot and its nodes. They are calculated once: for many nodes, what happens if one fails takes a while."""

    def show(self, snapshot: Plain) -> None:
        """Replace the snapshot."""
        self._snapshot = snapshot

    def lose(self, why: str) -> None:
        """Show all nodes as unreachable until the next snapshot."""
        nodes = {name: one | {"up": False, "ready": False, "reason": why} for name, one in self._snapshot["nodes"].items()}
        self._snapshot = self._snapshot | {"nodes": nodes}

    def all(self) -> Sequence[NodeView]:
        """Return all nodes, sorted by name."""
        snapshot = self._snapshot
        known, views = self._views
        if known is not snapshot:
            views = views_of(snapshot)
            self._views = (snapshot, views)
        return views

    def drain(self, node: str, draining: bool) -> bool:
        """Drain a node, or use it again; return whether there is one of this name.

        Raises:
            UnavailableError: The controller does not answer.
        """
        return bool(call_controller("drain", node, draining))

    def epoch_of(self, stream: str) -> int | None:
        """Return the epoch of a stream; None if it never had a node."""
        camera = self._snapshot["cameras"].get(stream)
        return None if camera is None else camera["epoch"] or None


def views_of(snapshot: Plain) -> list[NodeView]:
    """Return the nodes of a snapshot, sorted by name."""
    streams: defaultdict[str, list[str]] = defaultdict(list)
    used: defaultdict[str, float] = defaultdict(float)
    for name, camera in snapshot["cameras"].items():
        streams[camera["node"]].append(name)
        used[camera["node"]] += camera["cost"] or 0.0
    plan = {one.node: one for one in outlook(nodes_of(snapshot), cameras_of(snapshot))}
    views = []
    for name, node in snapshot["nodes"].items():
        machine = node["machine"] or name
        loss = plan.get(machine) if node["state"] in PLACEABLE else None
        view = NodeView(
            name=name,
            machine=machine,
            **{key: node[key] for key in _SHOWN},
            used=used[name],
            streams=tuple(streams[name]),
            at_stake=None if loss is None else loss.cameras,
            fit=0 if loss is None else loss.fit,
            half_rate=0 if loss is None else loss.half_rate,
        )
        views.append(view)
    return views


def nodes_of(snapshot: Plain) -> tuple[Node, ...]:
    """Return the nodes of a snapshot for the placement."""
    return tuple(
        Node(
            name,
            one["reference_capacity"],
            one["labels"],
            one["state"] in PLACEABLE and not one["failing"],
            machine=one["machine"],
            trial=one["trial"],
        )
        for name, one in snapshot["nodes"].items()
    )


def cameras_of(snapshot: Plain) -> tuple[Camera, ...]:
    """Return the cameras of a snapshot for the placement."""
    return tuple(
        Camera(name, one["reference_cost"], one["weight"], one["labels"], one["node"])
        for name, one in snapshot["cameras"].items()
    )
