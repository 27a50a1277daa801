"""What the cluster should run: the cameras, the node and epoch of each, and what the workers report.

This is the controller without Ray. Time is an argument. Settings of cameras are opaque plain values.

A camera gets a new epoch each time it gets a node, and each time the process that runs it starts again. Epochs come from one
counter that starts with the controller's time in seconds, so that they never go back. A camera that moves is ordered to its new
node only after the old one has reported that it no longer runs the camera, or is lost: some cameras accept one connection only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vision_infer.cluster.autoscale import Bundle, bundles, park
from vision_infer.cluster.placement import MARGIN, Camera, Node, Outlook, outlook, place
from vision_infer.cluster.speeds import Speeds
from vision_infer.cluster.state import DesiredCamera, FoundNode, KnownNode, Plain

SILENCE_S = 3.0
"""The time without a report after which the cameras of a worker are placed elsewhere, seconds."""
SETTLE_S = 5.0
"""The time after the start of the controller in which it waits for the reports of all nodes before it places cameras, seconds."""
JOIN_S = 30.0
"""The time that the worker of a new node has to report for the first time, seconds."""
OVERLOAD_S = 30.0
"""The time for which a node must be overloaded before cameras move, seconds."""
PAUSE_S = 1.0
"""The time between two decisions above which the controller itself was suspended, seconds."""
PACE_S = 0.05
"""The mean time between two cameras that a node starts, seconds: many cameras of a lost node must not connect at once."""
BURST_S = 0.2
"""The time by which cameras may start earlier than :data:`PACE_S` permits, seconds."""
HEADROOM = 0.85
"""The part of a node's cores that cameras may use, as on one machine."""
_SMOOTHING = 0.2
"""The weight of a new measurement of a camera's cost."""

_SHOWN = ("up", "ready", "reason", "starts", "failing")
"""The values of a report that gateways show."""


class Desired:
    """The desired state of the cluster. One thread uses it.

    Args:
        now_ns: The monotonic time.
        first_epoch: A number above all earlier epochs: the time in seconds.
    """

    def __init__(self, now_ns: int, first_epoch: int) -> None:
        self.cameras: dict[str, DesiredCamera] = {}
        self.nodes: dict[str, KnownNode] = {}
        self.settings: Plain | None = None
        """The settings of the service; None before a gateway has sent them."""
        self.version = 1
        """Changes with everything that gateways show."""
        self._settings_version = 0
        self._speeds = Speeds()
        self._epoch = first_epoch
        self._decided_ns = now_ns
        self._settled_ns = now_ns + int(SETTLE_S * 1e9)  # workers of an earlier controller may run cameras

    @property
    def autoscale(self) -> bool:
        """Whether nodes are requested from Ray's autoscaler, and given back to it."""
        return self.settings is not None and bool(self.settings.get("values", {}).get("autoscale"))

    # From the gateways

    def configure(self, settings: Plain, cameras: Mapping[str, DesiredCamera]) -> None:
        """Set the settings and the cameras of the configuration file and of the command line; those of the API are kept."""
        if settings != self.settings:
            self.settings = settings
            self._settings_version += 1
        for name, camera in list(self.cameras.items()):
            if camera.given["origin"] != "api" and name not in cameras:
                self.remove(name)
        self.add_missing(cameras)
        for name, camera in cameras.items():
            if camera.given["origin"] != "api" and self.cameras[name].given["origin"] != "api":
                self.put(name, camera)
        self.version += 1

    def add_missing(self, cameras: Mapping[str, DesiredCamera]) -> None:
        """Add the cameras that are not known yet."""
        for name, camera in cameras.items():
            if name not in self.cameras:
                self.put(name, camera)

    def put(self, name: str, camera: DesiredCamera) -> None:
        """Add a camera or replace its settings. One that waits may run on ``camera.node`` already."""
        known = self.cameras.setdefault(name, replace(camera, node=None))
        known.given, known.weight, known.labels = camera.given, camera.weight, camera.labels
        node = None if camera.node is None else self.nodes.get(camera.node)
        if known.node is None and node is not None and not node.lost:
            self._own(known, camera.node)
            known.granted = True
        self.version += 1

    def remove(self, name: str) -> None:
        """Remove a camera; do nothing if there is none of this name."""
        if self.cameras.pop(name, None) is not None:
            self.version += 1

    def drain(self, node: str, draining: bool) -> None:
        """Move the cameras of a node, or of all nodes of a machine, away and keep it empty, or use it again.

        Raises:
            KeyError: There is no node and no machine of this name.
        """
        named = [one for name, one in self.nodes.items() if node in (name, one.machine)]
        if not named:
            raise KeyError(node)
        for one in named:
            one.draining = draining
        self.version += 1

    # From the workers

    def see_nodes(self, present: Mapping[str, FoundNode], now_ns: int) -> None:
        """Take over the nodes that Ray reports as alive."""
        for name in self.nodes.keys() - present.keys():
            del self.nodes[name]
            self.version += 1
        for name in present.keys() - self.nodes.keys():
            found = present[name]
            self.nodes[name] = KnownNode(found.labels, found.cores, found.machine or name, now_ns, now_ns)
            self.version += 1

    def report(self, name: str, report: Plain, now_ns: int) -> bool:
        """Take over a worker's report; return False if the worker must report its cameras as well, in ``cameras``.

        Args:
            name: The node.
            report: ``process``, ``kind`` (of machine), ``alive``, ``up``, ``ready``, ``reason``, ``starts``, ``failing``,
                ``running`` (names), ``costs`` (cores by name), and ``cameras`` (:meth:`DesiredCamera.plain` by name) if they
                were asked for.
            now_ns: The monotonic time.
        """
        node = self.nodes.get(name)
        if node is None or not (node.joined or "cameras" in report):
            return False
        if not node.joined:
            node.joined = True
            self._take_over(name, report["cameras"])
            self.version += 1
        node.contact_ns = now_ns
        node.running = frozenset(report["running"])
        if not report["alive"]:
            return True  # the process that runs the cameras does not respond: silence
        node.heard_ns = now_ns
        shown = [node.lost, *(getattr(node, one) for one in _SHOWN)]
        node.lost = False
        for one in _SHOWN:
            setattr(node, one, report[one])
        if shown != [node.lost, *(report[one] for one in _SHOWN)]:
            self.version += 1
        if node.process and report["process"] != node.process:  # its cameras have started again
            for camera in self.cameras.values():
                if camera.node == name and camera.granted:
                    self._own(camera, name)
        node.process, node.kind = report["process"], report["kind"]
        for camera_name, cost in report["costs"].items():
            measured = self.cameras.get(camera_name)
            if measured is not None and measured.node == name:
                is_new = measured.cost is None or measured.kind != node.kind
                measured.cost = cost if is_new else measured.cost + _SMOOTHING * (cost - measured.cost)
                measured.kind = node.kind
        return True

    def _take_over(self, name: str, cameras: Mapping[str, Plain]) -> None:
        for camera_name, plain in cameras.items():
            self._epoch = max(self._epoch, plain["epoch"])
            known = self.cameras.get(camera_name)
            if known is None:
                known = self.cameras[camera_name] = DesiredCamera(
                    {"settings": plain["settings"], "origin": plain["origin"]}, plain["weight"], plain["labels"]
                )
            if plain["epoch"] > known.epoch:  # the newest owner keeps it
                known.node, known.epoch, known.granted = name, plain["epoch"], True

    # Decisions

    def is_settled(self, now_ns: int) -> bool:
        """Return whether the nodes had the time to report after the start of the controller."""
        return now_ns >= self._settled_ns

    def decide(self, now_ns: int) -> None:
        """Find lost nodes, place cameras, and write the orders. Call it several times a second."""
        paused_ns = now_ns - self._decided_ns
        self._decided_ns = now_ns
        if paused_ns > PAUSE_S * 1e9:  # this process was suspended, not the workers
            for node in self.nodes.values():
                node.heard_ns += paused_ns
                node.contact_ns += paused_ns
        for node in self.nodes.values():
            lost = not node.parked and now_ns - node.heard_ns > (SILENCE_S if node.joined else JOIN_S) * 1e9
            if lost and not node.lost:
                node.lost, node.up, node.ready = True, False, False
                answers = node.joined and now_ns - node.contact_ns <= SILENCE_S * 1e9
                what = "its process has not responded for" if answers else "no report for"
                node.reason = f"{what} {SILENCE_S if node.joined else JOIN_S:g} s"
                self.version += 1
            if now_ns - node.contact_ns > SILENCE_S * 1e9:  # otherwise its worker kills the process and reports it
                node.running = frozenset()
        for camera in self.cameras.values():
            if camera.node is not None and (camera.node not in self.nodes or self.nodes[camera.node].lost):
                camera.node, camera.granted = None, False
                self.version += 1
        waiting = any(not node.joined and not node.lost for node in self.nodes.values())
        if self.settings is not None and (self.is_settled(now_ns) or not waiting):
            self._learn()
            self._place(now_ns)
            if self.autoscale and park(self.nodes, self.cameras.values(), now_ns):
                self.version += 1
        self._write_orders(now_ns)

    def _learn(self) -> None:
        measured = [one for one in self.cameras.values() if one.cost]
        self._speeds.learn((one.kind, str(one.given["settings"].get("model")), one.cost or 0.0) for one in measured)

    def _place(self, now_ns: int) -> None:
        decision = place(self._nodes(now_ns), self._cameras())
        for name, camera in self.cameras.items():
            reason = decision.pending.get(name, "")
            if reason and self.autoscale:
                reason += "; a node was requested from Ray's autoscaler"
            node = None if camera.node is None else self.nodes[camera.node]
            kept = node is not None and (node.draining or node.failing)  # better there than nowhere
            if name in decision.moves:
                self._own(camera, decision.moves[name])
            elif reason and camera.node is not None and not kept:
                self._own(camera, None)
            if reason != camera.reason:
                camera.reason = reason
                self.version += 1

    def _own(self, camera: DesiredCamera, node: str | None) -> None:
        camera.granted = camera.granted and camera.node == node
        camera.node = node
        self._epoch += 1
        camera.epoch = self._epoch
        self.version += 1

    def _write_orders(self, now_ns: int) -> None:
        runs: dict[str, set[str]] = {}
        for name, node in self.nodes.items():
            for camera_name in node.running:
                runs.setdefault(camera_name, set()).add(name)
        wanted: dict[str, Plain] = {name: {} for name in self.nodes}
        for name, camera in self.cameras.items():
            if camera.node is None:
                continue
            node = self.nodes[camera.node]
            if not camera.granted and not runs.get(name, set()) - {camera.node} and node.next_start_ns <= now_ns + BURST_S * 1e9:
                camera.granted = True
                node.next_start_ns = max(now_ns, node.next_start_ns) + int(PACE_S * 1e9)
            if camera.granted:
                wanted[camera.node][name] = camera.plain()
        for name, node in self.nodes.items():
            if not node.joined:  # what it runs is not known yet
                continue
            orders = ({"settings_version": self._settings_version}, wanted[name])
            if orders != node.orders:
                node.orders = orders
                node.version += 1

    def orders(self, node: str) -> Plain:
        """Return what a worker must run: the settings, and its cameras by name."""
        return {"settings": self.settings, "cameras": self.nodes[node].orders[1] if self.nodes[node].orders else {}}

    # Status

    def snapshot(self) -> Plain:
        """Return what gateways show: nodes and cameras, with passwords."""
        nodes = {
            name: {
                "state": _state_of(node),
                "labels": dict(node.labels),
                "machine": node.machine,
                "capacity": node.cores * HEADROOM,
                "reference_capacity": self._capacity(node),
                "trial": self._speeds.of(node.kind) is None,
                **{one: getattr(node, one) for one in _SHOWN},
            }
            for name, node in sorted(self.nodes.items())
        }
        cameras = {
            name: {**camera.plain(), "node": camera.node, "reason": camera.reason, "cost": camera.cost}
            | {"reference_cost": self._cost(camera)}
            for name, camera in sorted(self.cameras.items())
        }
        return {"version": self.version, "configured": self.settings is not None, "nodes": nodes, "cameras": cameras}

    def outlook(self, now_ns: int) -> list[Outlook]:
        """Return for each node what happens to its cameras if it fails."""
        return outlook(self._nodes(now_ns), self._cameras())

    def requested(self) -> list[Bundle]:
        """Return what to request from Ray's autoscaler."""
        return bundles(self.nodes, list(self.cameras.values()), self._cost, HEADROOM) if self.autoscale else []

    def _cameras(self) -> list[Camera]:
        return [Camera(name, self._cost(one), one.weight, one.labels, one.node) for name, one in self.cameras.items()]

    def _nodes(self, now_ns: int) -> list[Node]:
        loads: dict[str, float] = dict.fromkeys(self.nodes, 0.0)
        for camera in self.cameras.values():
            if camera.node is not None:
                loads[camera.node] += self._cost(camera) or 0.0
        return [self._node(name, node, loads[name], now_ns) for name, node in sorted(self.nodes.items())]

    def _node(self, name: str, node: KnownNode, load: float, now_ns: int) -> Node:
        capacity = self._capacity(node)
        if load <= capacity * MARGIN:
            node.over_since_ns = None
        elif node.over_since_ns is None:
            node.over_since_ns = now_ns
        overloaded = node.over_since_ns is not None and now_ns - node.over_since_ns >= OVERLOAD_S * 1e9
        # If no node is ready, the cause is more likely in the settings than in the nodes.
        failing = node.failing and any(one.ready for one in self.nodes.values())
        usable = not (node.lost or node.draining or failing)
        return Node(name, capacity, node.labels, usable, overloaded, node.machine, self._speeds.of(node.kind) is None)

    def _capacity(self, node: KnownNode) -> float:
        """Return the cores that cameras may use, in cores of the first kind of machine."""
        return node.cores * HEADROOM * (self._speeds.of(node.kind) or 1.0)

    def _cost(self, camera: DesiredCamera) -> float | None:
        """Return the cores that a camera uses, in cores of the first kind of machine."""
        cost = camera.expected_cost
        return None if cost is None else cost * (self._speeds.of(camera.kind) or 1.0)


def _state_of(node: KnownNode) -> str:
    if node.lost or node.draining:
        return "lost" if node.lost else "draining"
    return "alive" if node.joined else "idle" if node.parked else "joining"
