"""Measure the placement of 1,000 cameras on 50 nodes: the time of a decision, and the moves after the failure of each node.

    python -m benchmarks.cluster_placement

No camera and no node is real: costs are random, from a tenth to four tenths of a core, and fill about three quarters of the
capacity. The limit for the moves is the number of cameras of the failed node; a camera of another node that moves is an error.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace

from benchmarks.machine import describe_machine
from benchmarks.verdict import Check, conclude
from vision_infer.cluster.placement import Camera, Decision, Node, outlook, place

NODES, CAMERAS = 50, 1_000
CORES = 8 * 0.85
"""The cores of a node that cameras may use."""
COSTS = (0.1, 0.4)
"""The range of a camera's cost, cores."""
SITES = 5
"""The number of sites; every tenth camera must run on a node of its site."""
MAX_S = 1.0


@dataclass(frozen=True, slots=True)
class Failure:
    """The decision after the failure of one node."""

    node: str
    cameras: int
    """The cameras of the node."""
    moves: int
    pending: int
    others: int
    """The cameras of other nodes that moved or stopped."""
    decision_s: float


def cluster() -> tuple[list[Node], list[Camera]]:
    """Return the nodes, and the cameras, of which none runs yet."""
    chance = random.Random(0)
    nodes = [Node(f"node-{number:02}", CORES, {"site": f"site-{number % SITES}"}) for number in range(NODES)]
    cameras = [
        Camera(
            f"camera-{number:04}",
            chance.uniform(*COSTS),
            labels={} if number % 10 else {"site": f"site-{chance.randrange(SITES)}"},
        )
        for number in range(CAMERAS)
    ]
    return nodes, cameras


def timed(nodes: list[Node], cameras: list[Camera]) -> tuple[Decision, float]:
    """Return a decision and its duration, seconds."""
    began = time.perf_counter()
    decision = place(nodes, cameras)
    return decision, time.perf_counter() - began


def fail(nodes: list[Node], cameras: list[Camera], node: Node) -> Failure:
    """Return what happens when a node fails."""
    own = {camera.name for camera in cameras if camera.node == node.name}
    decision, took_s = timed([replace(one, usable=one is not node) for one in nodes], cameras)
    changed = decision.moves.keys() | decision.pending.keys()
    return Failure(node.name, len(own), len(decision.moves), len(decision.pending), len(changed - own), took_s)


def main() -> int:
    """Measure, print, and write ``cluster_placement.json``."""
    machine = describe_machine()
    nodes, cameras = cluster()
    first, first_s = timed(nodes, cameras)
    cameras = [replace(camera, node=first.moves.get(camera.name)) for camera in cameras]
    again, again_s = timed(nodes, cameras)
    counts = Counter(camera.node for camera in cameras)
    load = sum(camera.cost or 0.0 for camera in cameras) / (NODES * CORES)
    print(
        f"{CAMERAS} cameras on {NODES} nodes, {load:.0%} of the capacity: first decision {first_s * 1e3:.0f} ms, "
        f"{len(first.pending)} cameras wait, {min(counts.values())}–{max(counts.values())} cameras on each node; "
        f"without a change {again_s * 1e3:.1f} ms"
    )
    failures = [fail(nodes, cameras, node) for node in nodes]
    slowest = max(failures, key=lambda one: one.decision_s)
    print(f"after a failure: {slowest.decision_s * 1e3:.1f} ms at most, {max(one.moves for one in failures)} moves at most")
    began = time.perf_counter()
    outlook(nodes, cameras)
    outlook_s = time.perf_counter() - began
    print(f"the outlook for the failure of each node: {outlook_s:.2f} s")
    checks = [
        Check("the first decision", first_s, MAX_S, "s"),
        Check("a decision after a failure, the slowest", slowest.decision_s, MAX_S, "s"),
        Check("moves / cameras of the failed node, the maximum", max(one.moves / one.cameras for one in failures), 1.0, ""),
        Check("cameras of other nodes that move or stop", sum(one.others for one in failures), 0, ""),
        Check("cameras that move although nothing has changed", len(again.moves), 0, ""),
    ]
    more = {"load": load, "first_s": first_s, "unchanged_s": again_s, "outlook_s": outlook_s}
    return conclude("cluster_placement", machine, checks, [asdict(one) for one in failures], more)


if __name__ == "__main__":
    sys.exit(main())
