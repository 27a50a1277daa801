"""``vision-infer cluster``: the nodes and cameras of a service on a Ray cluster."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option

from vision_infer.cli import options
from vision_infer.core.errors import UsageError, VisionInferError
from vision_infer.core.packages import require

DRAIN_S = 30.0
"""The time for which ``drain`` waits for the cameras to move, seconds."""
WRAPPED = ("labels", "reason")
"""The columns of tables that wrap, and that are omitted if they are empty."""

app = typer.Typer(help="Show and drain the nodes of a service on a Ray cluster.", no_args_is_help=True)
Address = Annotated[str, Option("--cluster", metavar="auto|ADDRESS", help="The Ray cluster, as for 'serve'.")]
Cluster = Annotated[
    str | None,
    Option(
        metavar="auto|ADDRESS",
        help="Use the nodes of a Ray cluster: auto for the one of this machine, HOST:PORT, or ray://HOST:PORT.",
    ),
]
InsecureCluster = Annotated[bool, Option("--insecure-cluster", help="Accept a Ray cluster without token authentication.")]


@app.command()
def status(cluster: Address = "auto", insecure_cluster: InsecureCluster = False, json_output: options.Json = False) -> int:
    """Print the nodes and the cameras of each."""
    snapshot = _snapshot(cluster, insecure_cluster)
    if json_output:
        typer.echo(json.dumps(snapshot, indent=2))
        return 0
    loads: defaultdict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for camera in snapshot["cameras"].values():
        loads[camera["node"]] += camera["cost"] or 0.0
        counts[camera["node"]] += 1
    nodes = [
        (
            name,
            node["state"],
            str(counts[name]),
            f"{loads[name]:.2f}",
            f"{node['capacity']:.2f}",
            ", ".join(f"{key}={value}" for key, value in node["labels"].items() if not key.startswith("ray.io/")),
            node["reason"],
        )
        for name, node in snapshot["nodes"].items()
    ]
    _print(("node", "state", "cameras", "cores", "of", "labels", "reason"), nodes)
    cameras = [
        (name, camera["node"] or "pending", str(camera["epoch"]), _cores(camera["cost"]), camera["reason"])
        for name, camera in snapshot["cameras"].items()
    ]
    _print(("camera", "node", "epoch", "cores", "reason"), cameras)
    return 0


@app.command()
def plan(cluster: Address = "auto", insecure_cluster: InsecureCluster = False, json_output: options.Json = False) -> int:
    """Print what happens to the cameras if a node fails."""
    from vision_infer.cluster.actors import call_controller

    _connect(cluster, insecure_cluster)
    found: list[dict[str, Any]] = call_controller("plan")
    if json_output:
        typer.echo(json.dumps(found, indent=2))
        return 0
    rows = [(one["node"], *(str(one[key]) for key in ("cameras", "fit", "half_rate", "lost"))) for one in found]
    _print(("if it fails", "cameras", "fit elsewhere", "at half the rate", "would not run"), rows)
    return 0


@app.command()
def drain(
    node: Annotated[str, Argument(metavar="NODE", help="The name of the node.")],
    undo: Annotated[bool, Option("--undo", help="Use the node again.")] = False,
    cluster: Address = "auto",
    insecure_cluster: InsecureCluster = False,
) -> int:
    """Move the cameras of a node to other nodes.

    The node stays empty, for example during maintenance, until you use it again with --undo. A node with several GPUs has a
    part for each, such as a-gpu0. NODE is such a part, or the whole node.
    """
    from vision_infer.cluster.actors import call_controller

    _connect(cluster, insecure_cluster)
    if not call_controller("drain", node, not undo):
        raise UsageError(f"node {node} does not exist", "List the nodes with: vision-infer cluster status")
    if undo:
        typer.echo(f"node {node} may have cameras again")
        return 0
    deadline = time.monotonic() + DRAIN_S
    while True:
        shown = _shown(call_controller("watch", "", -1))
        drained = {name for name, one in shown["nodes"].items() if node in (name, one["machine"])}
        left = {name: one for name, one in shown["cameras"].items() if one["node"] in drained}
        if not left:
            typer.echo(f"node {node} has no cameras")
            return 0
        waiting = [f"{name}: {one['reason']}" for name, one in left.items() if one["reason"]]
        if len(waiting) == len(left) or time.monotonic() > deadline:
            raise VisionInferError(f"{len(left)} cameras stay on node {node}", "; ".join(waiting[:3]) or "They are still moving.")
        time.sleep(0.2)


@app.command()
def stop(cluster: Address = "auto", insecure_cluster: InsecureCluster = False) -> int:
    """Stop all cameras of the cluster. They also run while no 'vision-infer serve' does."""
    from vision_infer.cluster.connect import stop_cluster

    _connect(cluster, insecure_cluster)
    stop_cluster()
    typer.echo("all cameras are stopped")
    return 0


def _connect(address: str, insecure: bool) -> None:
    require("cluster", "ray")
    from vision_infer.cluster.connect import connect

    connect(address, insecure)


def _snapshot(address: str, insecure: bool) -> dict[str, Any]:
    from vision_infer.cluster.actors import call_controller

    _connect(address, insecure)
    return _shown(call_controller("watch", "", -1))


def _shown(snapshot: dict[str, Any]) -> dict[str, Any]:
    """Return the nodes and cameras without settings, which contain passwords."""
    cameras = {
        name: {key: camera[key] for key in ("node", "epoch", "origin", "cost", "weight", "labels", "reason")}
        for name, camera in snapshot["cameras"].items()
    }
    return {"nodes": snapshot["nodes"], "cameras": cameras}


def _cores(cost: float | None) -> str:
    return "" if cost is None else f"{cost:.3f}"


def _print(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table that fits into a terminal of 80 columns: names and figures are whole, labels and reasons wrap."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    shown = [index for index, name in enumerate(columns) if name not in WRAPPED or any(row[index] for row in rows)]
    for index in shown:
        number = bool(rows) and all(row[index].replace(".", "").isdigit() for row in rows)
        justify: Literal["left", "right"] = "right" if number else "left"
        wraps = columns[index] in WRAPPED
        table.add_column(columns[index], justify=justify, no_wrap=not wraps, overflow="fold" if wraps else "ellipsis")
    for row in rows:
        table.add_row(*(row[index] for index in shown))
    Console(highlight=False).print(table, "")
