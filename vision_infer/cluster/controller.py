"""The controller of a cluster: a detached Ray actor around :class:`Desired`, restarted by Ray when it ends.

It keeps nothing on disk. After a restart, workers report what they run, and gateways send their configuration again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vision_infer.cluster.actors import HEAD, NAMESPACE, raise_priority, worker_name
from vision_infer.cluster.autoscale import Bundle
from vision_infer.cluster.desired import Desired
from vision_infer.cluster.node_worker import NodeWorker
from vision_infer.cluster.state import FoundNode, Plain, camera_from_plain

TICK_S = 0.2
"""The time between two decisions, seconds."""
POLL_S = 0.5
"""The longest time for which a report waits for changed orders, seconds."""
WATCH_S = 5.0
"""The longest time for which a gateway waits for changes, seconds."""
STOP_S = 15.0
"""The time that workers have to end, seconds."""
NODES_S = 1.0
"""The time between two looks at Ray's nodes, seconds."""

_log = logging.getLogger("vision_infer.cluster")


class Controller:
    """Owns the desired state. All methods run on the actor's event loop."""

    def __init__(self) -> None:
        raise_priority()
        self._id = secrets.token_hex(4)
        self._desired = Desired(time.monotonic_ns(), int(time.time()))
        self._actors: dict[str, Any] = {}
        """The worker actor of each node."""
        self._names: dict[str, str] = {}
        """The name of each node by its id in Ray."""
        self._requested: list[Bundle] | None = None
        """What was requested from Ray's autoscaler; None: unknown."""
        self._changed = asyncio.Event()
        """Set and replaced after each decision."""
        self._wake = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    # Gateways

    async def configure(self, settings: Plain, cameras: Mapping[str, Plain], only_missing: bool) -> None:
        """Set the settings and the cameras of the configuration; see :meth:`Desired.configure`.

        Args:
            settings: The settings of the service as plain values.
            cameras: All cameras of the gateway: ``settings``, ``origin``, ``weight``, and ``labels`` by name.
            only_missing: Whether to keep a configuration that another gateway has sent.
        """
        desired = {name: camera_from_plain(one) for name, one in cameras.items()}
        if not only_missing or self._desired.settings is None:
            self._desired.configure(settings, desired)
        else:
            self._desired.add_missing(desired)
        self._wake.set()

    async def put(self, name: str, camera: Plain) -> tuple[str, int]:
        """Add a camera or replace its settings; return the controller and the version. See :meth:`Desired.put`."""
        self._desired.put(name, camera_from_plain(camera))
        self._wake.set()
        return self._id, self._desired.version

    async def remove(self, name: str) -> tuple[str, int]:
        """Remove a camera; return the controller and the version."""
        self._desired.remove(name)
        self._wake.set()
        return self._id, self._desired.version

    async def drain(self, node: str, draining: bool) -> bool:
        """Drain a node or all nodes of a machine, or use them again; return False if there are none of this name."""
        try:
            self._desired.drain(node, draining)
        except KeyError:
            return False
        self._wake.set()
        return True

    async def watch(self, controller: str, version: int) -> Plain:
        """Return the snapshot once it differs from what the caller has, or after some seconds."""
        deadline = time.monotonic() + WATCH_S
        while (controller, version) == (self._id, self._desired.version) and (wait_s := deadline - time.monotonic()) > 0:
            await self._next_decision(wait_s)
        return {"controller": self._id, "actors": dict(self._actors), **self._desired.snapshot()}

    async def plan(self) -> list[Plain]:
        """Return for each node what happens to its cameras if it fails."""
        return [asdict(one) | {"lost": one.lost} for one in self._desired.outlook(time.monotonic_ns())]

    # Workers

    async def report(self, node: str, report: Plain, version: tuple[str, int]) -> Plain:
        """Take over a report; return changed orders at once, or an empty answer after a while.

        A worker of a node that Ray no longer lists stops its cameras, because they run elsewhere.

        Args:
            node: The name of the node.
            report: See :meth:`Desired.report`.
            version: The controller and version of the orders that the worker has.
        """
        if not self._desired.report(node, report, time.monotonic_ns()):
            is_known = node in self._desired.nodes
            await asyncio.sleep(0 if is_known else TICK_S)
            return {"everything": is_known, "unknown": not is_known and self._desired.is_settled(time.monotonic_ns())}
        deadline = time.monotonic() + POLL_S
        while (wait_s := deadline - time.monotonic()) > 0:
            known = self._desired.nodes.get(node)
            if known is not None and known.version and version != (self._id, known.version):
                return {"version": (self._id, known.version), "orders": self._desired.orders(node)}
            await self._next_decision(wait_s)
        return {}

    async def stop(self) -> None:
        """Stop all workers; the caller ends this actor afterwards."""
        self._task.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await asyncio.gather(*(_ended(actor.stop.remote()) for actor in self._actors.values()))
        for actor in self._actors.values():
            ray.kill(actor)
        if self._requested:
            await asyncio.to_thread(_request_nodes, [])

    # Internals

    async def _next_decision(self, timeout_s: float) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), timeout_s)
        except TimeoutError:
            return

    async def _run(self) -> None:
        looked_s = float("-inf")
        while True:
            try:
                if time.monotonic() - looked_s >= NODES_S:
                    looked_s = time.monotonic()
                    self._see_nodes(await asyncio.to_thread(ray.nodes))
                    await self._request()
                self._desired.decide(time.monotonic_ns())
            except Exception:  # noqa: BLE001 - the boundary of a task: the next decision may succeed
                _log.exception("a decision failed")
            self._changed.set()
            self._changed = asyncio.Event()
            try:
                await asyncio.wait_for(self._wake.wait(), TICK_S)
            except TimeoutError:
                continue
            self._wake.clear()

    def _see_nodes(self, found: list[Plain]) -> None:
        alive = [node for node in found if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
        ids = {node["NodeID"] for node in alive}
        self._names = {one: name for one, name in self._names.items() if one in ids}
        parts = {part.name: part for node in alive for part in _parts_of(node, self._name_of(node))}
        self._desired.see_nodes({name: part.found for name, part in parts.items()}, time.monotonic_ns())
        for name in self._actors.keys() - parts.keys():
            del self._actors[name]
        for name, part in parts.items():
            parked = self._desired.nodes[name].parked
            if parked and name in self._actors:
                ray.kill(self._actors.pop(name))
            elif not parked and name not in self._actors:
                self._actors[name] = _start_worker(part)

    def _name_of(self, node: Plain) -> str:
        """Return the name that Ray knows, with a part of the id if an earlier node has it."""
        name, node_id = str(node["NodeName"]), node["NodeID"]
        if node_id not in self._names:
            self._names[node_id] = f"{name}-{node_id[:6]}" if name in self._names.values() else name
        return self._names[node_id]

    async def _request(self) -> None:
        if not self._desired.is_settled(time.monotonic_ns()):  # what workers run is not known yet
            return
        wanted = self._desired.requested()
        if wanted != self._requested and (self._desired.autoscale or self._requested):
            self._requested = wanted
            await asyncio.to_thread(_request_nodes, wanted)


@dataclass(frozen=True, slots=True)
class _Part:
    """A machine, or the part of it that belongs to one of its GPUs."""

    name: str
    actor: str
    """The name of its worker actor."""
    node_id: str
    resource: str
    """A resource that only this machine has."""
    gpu: bool
    accelerator: str
    """The model of its GPU as Ray reports it; empty if it has none."""
    found: FoundNode


def _parts_of(node: Plain, name: str) -> list[_Part]:
    resources = node["Resources"]
    gpus, cores = int(resources.get("GPU", 0)), float(resources["CPU"])
    labels = {**({"gpu": "true"} if gpus else {}), **node["Labels"]}
    resource = next((one for one in resources if one.startswith("node:") and one != HEAD), "")
    accelerator = next((one for one in resources if one.startswith("accelerator_type:")), "")
    actor, count = worker_name(node["NodeID"]), max(1, gpus)
    many = gpus > 1
    return [
        _Part(
            f"{name}-gpu{number}" if many else name,
            f"{actor}-{number}" if many else actor,
            node["NodeID"],
            resource,
            gpus > 0,
            accelerator,
            FoundNode(labels, cores / count, name),
        )
        for number in range(count)
    ]


async def _ended(reference: Any) -> None:
    try:
        await reference
    except ray.exceptions.RayError as error:
        _log.warning("a worker did not end properly: %s", type(error).__name__)


def _start_worker(part: _Part) -> Any:
    """Start the worker of a node, or return the handle of the one that runs."""
    options = {
        "name": part.actor,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,  # the cores are for the child, and the placement of cameras counts them
        "num_gpus": 1 if part.gpu else 0,
        "resources": {part.resource: 0.001} if part.resource else {},  # Ray's autoscaler removes nodes whose resources are unused
        "max_restarts": -1,
        "max_concurrency": 10_000,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(part.node_id, soft=False),
    }
    return ray.remote(NodeWorker).options(**options).remote(part.name, part.found.cores, part.accelerator)


def _request_nodes(bundles: list[Bundle]) -> None:
    """Request resources from Ray's autoscaler; each request replaces the one before."""
    labels = {"bundle_label_selectors": [dict(one) for _, one in bundles]} if any(one for _, one in bundles) else {}
    request_resources(bundles=[dict(resources) for resources, _ in bundles], **labels)
