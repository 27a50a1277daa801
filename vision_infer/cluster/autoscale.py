"""The nodes of a cluster with Ray's autoscaler: idle ones are released, and further ones requested. Pure functions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from math import ceil

from vision_infer.cluster.state import DesiredCamera, KnownNode

IDLE_S = 60.0
"""The time without cameras after which the worker of a node ends, seconds. Ray's own time limit for idle nodes begins then."""

Bundle = tuple[Mapping[str, float], Mapping[str, str]]
"""Resources that one node must have, and its labels."""


def park(nodes: Mapping[str, KnownNode], cameras: Iterable[DesiredCamera], now_ns: int) -> bool:
    """Mark the nodes whose worker ends, and those that got a camera and need one again; return whether a node has changed."""
    used = {camera.node for camera in cameras}
    changed = False
    for name, node in nodes.items():
        if name in used or node.running:
            node.idle_since_ns = None
            if node.parked:
                node.parked, node.reason, node.heard_ns, node.contact_ns, changed = False, "starting", now_ns, now_ns, True
        elif node.idle_since_ns is None:
            node.idle_since_ns = now_ns
        elif node.joined and not node.lost and now_ns - node.idle_since_ns >= IDLE_S * 1e9:
            node.parked, node.joined, node.up, node.ready, changed = True, False, False, False, True
            node.reason = "it has no streams"
    return changed


def bundles(
    nodes: Mapping[str, KnownNode],
    cameras: Collection[DesiredCamera],
    cost: Callable[[DesiredCamera], float | None],
    headroom: float,
) -> list[Bundle]:
    """Return what to request: the nodes with cameras, so that they stay, and CPUs for the cameras that wait.

    Args:
        nodes: The nodes.
        cameras: The cameras.
        cost: Returns the cores that a camera needs; None if they are unknown.
        headroom: The part of a node's cores that cameras may use.
    """
    used = {camera.node for camera in cameras if camera.node is not None}
    found: list[Bundle] = [({"CPU": max(1, int(node.cores))}, {}) for name, node in sorted(nodes.items()) if name in used]
    known = [one for one in map(cost, cameras) if one is not None]
    mean = sum(known) / len(known) if known else 0.0
    waiting: defaultdict[tuple[tuple[str, str], ...], float] = defaultdict(float)
    for camera in cameras:
        if camera.node is None and camera.reason:
            needed = cost(camera)
            waiting[tuple(sorted(camera.labels.items()))] += mean if needed is None else needed
    for labels, cores in sorted(waiting.items()):
        found += [({"CPU": 1}, dict(labels))] * max(1, ceil(cores / headroom))
    return found
