"""The placement of cameras on nodes: pure functions of plain values.

A camera stays where it is unless it must move: its node is gone or drained, lacks a label, or is overloaded. A camera that fits
on no node waits. Costs and capacities have one unit, CPU cores of a reference machine; the caller scales what it has measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

MARGIN = 1.1
"""The load of a node, relative to its capacity, above which its cameras move, until it is within its capacity."""
_ROUNDING = 1e-9
"""The tolerance of sums of costs, relative to the capacity."""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine that can run cameras."""

    name: str
    capacity: float
    """The cores that cameras may use."""
    labels: Mapping[str, str] = field(default_factory=dict)
    usable: bool = True
    """Whether the node may have cameras; False if it is lost or drained."""
    overloaded: bool = False
    """Whether cameras may move away because of the load, which the caller has observed for some time."""
    machine: str = ""
    """The machine that it is a part of, with which it fails; empty: itself."""
    trial: bool = False
    """Whether nothing was measured on machines of its kind, so that it gets one camera first."""


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera to place."""

    name: str
    cost: float | None = None
    """The cores that it uses; None if it was not measured."""
    weight: float = 1.0
    """The importance: if there is too little capacity, cameras of a higher weight are placed first."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """The labels that its node must have."""
    node: str | None = None
    """The node that runs it now."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Where the cameras run from now on."""

    moves: Mapping[str, str]
    """The new node of each camera that starts or moves."""
    pending: Mapping[str, str]
    """The reason for each camera that cannot run."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What happens to the cameras of a machine if it fails."""

    node: str
    """The machine."""
    cameras: int
    fit: int
    """The cameras that other nodes can run."""
    half_rate: int
    """The further cameras that other nodes can run at half the rate, that is, at half the cost."""

    @property
    def lost(self) -> int:
        """The cameras that would not run."""
        return self.cameras - self.fit - self.half_rate


class _Loads:
    """The load of each usable node, while a decision is made."""

    def __init__(self, nodes: Iterable[Node], cameras: Iterable[Camera]) -> None:
        cameras = list(cameras)
        costs = [camera.cost for camera in cameras if camera.cost is not None]
        self._mean = sum(costs) / len(costs) if costs else 0.0
        self.nodes = {node.name: node for node in nodes if node.usable}
        self.load = dict.fromkeys(self.nodes, 0.0)
        self.count = dict.fromkeys(self.nodes, 0)
        for camera in cameras:
            if camera.node in self.nodes:
                self.add(camera, camera.node)

    def cost(self, camera: Camera) -> float:
        """Return the cost of a camera; without a measurement, the mean of the others."""
        return self._mean if camera.cost is None else camera.cost

    def add(self, camera: Camera, node: str, sign: int = 1) -> None:
        self.load[node] += sign * self.cost(camera)
        self.count[node] += sign

    def free(self, node: str) -> float:
        return self.nodes[node].capacity - self.load[node]

    def find(self, camera: Camera) -> str | None:
        """Return the node with the most free capacity that can run the camera; None if no node can."""
        fitting = [name for name in self.nodes if self._fits(camera, name)]
        # The load relative to the capacity spreads the cameras; their number decides while nothing is measured.
        return min(
            fitting, key=lambda name: (*(self._relative(one, name) for one in (self.load, self.count)), name), default=None
        )

    def why_not(self, camera: Camera) -> str:
        """Return why no node can run the camera."""
        wanted = ", ".join(f"{name}={value}" for name, value in sorted(camera.labels.items()))
        matching = [name for name in self.nodes if has_labels(self.nodes[name], camera)]
        if not self.nodes:
            return "no node is available"
        if not matching:
            return f"no node has the labels {wanted}"
        measured = [name for name in matching if not self.nodes[name].trial]
        if len(measured) < len(matching):
            return f"node {next(name for name in matching if name not in measured)} is measured with one camera first"
        closest = max(matching, key=self.free)
        return (
            f"no node has enough capacity: the camera needs {self.cost(camera):.2f} cores; {closest} came closest, with "
            f"{max(0.0, self.free(closest)):.2f} of {self.nodes[closest].capacity:.2f} cores free"
        )

    def _fits(self, camera: Camera, name: str) -> bool:
        node = self.nodes[name]
        if node.trial and self.count[name] > 0:
            return False
        return has_labels(node, camera) and self.load[name] + self.cost(camera) <= node.capacity * (1 + _ROUNDING)

    def _relative(self, amount: Mapping[str, float], name: str) -> float:
        capacity = self.nodes[name].capacity
        return amount[name] / capacity if capacity > 0 else float("inf")


def has_labels(node: Node, camera: Camera) -> bool:
    """Return whether the node has all labels that the camera wants."""
    return all(node.labels.get(name) == value for name, value in camera.labels.items())


def place(nodes: Sequence[Node], cameras: Sequence[Camera]) -> Decision:
    """Decide which cameras start, move, or wait. All others stay.

    No camera is placed on a node above the node's capacity. A node that is above it already keeps its cameras, unless the caller
    reports it as overloaded and its load is above :data:`MARGIN` times its capacity. Then the fewest of its cameras move, as far
    as other nodes can run them.

    Args:
        nodes: All nodes, with unique names.
        cameras: All enabled cameras, with unique names.
    """
    loads = _Loads(nodes, cameras)
    moves: dict[str, str] = {}
    pending: dict[str, str] = {}
    homeless = []
    for camera in cameras:
        if camera.node not in loads.nodes:
            homeless.append(camera)
        elif not has_labels(loads.nodes[camera.node], camera):
            loads.add(camera, camera.node, -1)
            homeless.append(camera)
    for camera in sorted(homeless, key=lambda one: (-one.weight, -loads.cost(one), one.name)):
        node = loads.find(camera)
        if node is None:
            pending[camera.name] = loads.why_not(camera)
        else:
            loads.add(camera, node)
            moves[camera.name] = node
    gone = moves.keys() | pending.keys()
    for name, one in loads.nodes.items():
        if one.overloaded and loads.load[name] > one.capacity * MARGIN:
            moves |= _relieve(one, [camera for camera in cameras if camera.node == name and camera.name not in gone], loads)
    return Decision(moves, pending)


def _relieve(node: Node, cameras: list[Camera], loads: _Loads) -> dict[str, str]:
    """Move the fewest cameras away from an overloaded node: the smallest one that suffices, or else the largest ones."""
    moves: dict[str, str] = {}
    remaining = sorted(cameras, key=lambda one: (loads.cost(one), one.name))
    while remaining and (excess := loads.load[node.name] - node.capacity) > node.capacity * _ROUNDING:
        enough = [camera for camera in remaining if loads.cost(camera) >= excess]
        for camera in [*enough, *reversed(remaining[: len(remaining) - len(enough)])]:
            remaining.remove(camera)
            target = loads.find(camera)  # not this node: it is above its capacity
            if target is not None and target != node.name and loads.cost(camera) > 0:
                loads.add(camera, node.name, -1)
                loads.add(camera, target)
                moves[camera.name] = target
                break
    return moves


def outlook(nodes: Sequence[Node], cameras: Sequence[Camera]) -> list[Outlook]:
    """Return for each machine with usable nodes what happens to its cameras if it fails."""
    found = []
    for machine in dict.fromkeys(node.machine or node.name for node in nodes if node.usable):
        failed = {node.name for node in nodes if (node.machine or node.name) == machine}
        others = [replace(one, usable=False) if one.name in failed else one for one in nodes]
        decision = place(others, cameras)
        own = [camera for camera in cameras if camera.node in failed]
        loads = _Loads(others, [replace(camera, node=decision.moves.get(camera.name, camera.node)) for camera in cameras])
        lost = [camera for camera in own if camera.name in decision.pending]
        half = 0
        for camera in sorted(lost, key=lambda one: (-one.weight, loads.cost(one), one.name)):
            halved = replace(camera, cost=loads.cost(camera) / 2)
            target = loads.find(halved)
            if target is not None:
                loads.add(halved, target)
                half += 1
        found.append(Outlook(machine, len(own), len(own) - len(lost), half))
    return found
