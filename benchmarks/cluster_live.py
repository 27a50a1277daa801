"""Measure what a cluster costs: age of results and results/s at the client, through the gateway and from one machine.

    python -m benchmarks.cluster_live [--rounds 5] [--seconds 10]

Eight cameras draw the time into each frame, and the model reads it, so that each result has its true age at the client. In each
round, one service without a cluster and a cluster of two nodes on this machine run the same cameras in turn: together they would
compete for the cores. The cluster is measured through a gateway that joins it, and through one that uses Ray Client (``ray://``),
as on Kubernetes, if ``grpcio`` is installed.
The memory of a node is that of the processes of ``ray start``, without the service, which one machine has as well.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.util import find_spec

from benchmarks.cluster_nodes import LocalCluster
from benchmarks.live_inputs import arguments
from benchmarks.live_reader import Reader
from benchmarks.live_service import LiveService
from benchmarks.machine import describe_machine
from benchmarks.processes import ForeignLoad
from benchmarks.verdict import Check, conclude, quantile
from tests.support.cameras import ClockMount, RtspServer

CAMERAS, WIDTH, HEIGHT, FPS = 8, 320, 180, 10
NODES, CPUS = 2, 4
"""The CPUs are those that a node reports to Ray, so that all cameras fit, whatever this machine has."""
ADDED_P95_MS = 10.0
MIN_RATE = 0.95
"""The minimum share of the sent frames that give a result."""
SETTLE_S = 4.0


@dataclass(frozen=True, slots=True)
class Turn:
    """What the client of one contender saw in one round; ages in milliseconds."""

    rows_per_s: float
    p50: float
    p95: float
    cpu: float
    """The cores that the process used to which the client was connected."""
    foreign_cores: float

    def __str__(self) -> str:
        return (
            f"{self.rows_per_s:.1f} results/s, age {self.p50:.0f} / {self.p95:.0f} ms, {self.cpu:.2f} cores"
            f" (other programs {self.foreign_cores:.2f})"
        )


def measure(service: LiveService, streams: Mapping[str, object], seconds: float) -> Turn:
    """Run the cameras in one service, and remove them afterwards."""
    for name, stream in streams.items():
        service.ask(f"/api/v1/streams/{name}", "PUT", stream)
    service.wait_live(len(streams))
    time.sleep(SETTLE_S)
    with ForeignLoad() as foreign, Reader(service.results_url) as reader:
        began, cpu = time.monotonic(), service.cpu_s()
        time.sleep(seconds)
        took, cores = time.monotonic() - began, service.cpu_s() - cpu
    for name in streams:
        service.ask(f"/api/v1/streams/{name}", "DELETE")
    service.wait(lambda: not service.states(), 30.0, "the streams did not end")
    ages = [float(age) for row in reader.rows if (age := row.true_ms) is not None]
    return Turn(len(reader.rows) / took, quantile(ages, 0.5), quantile(ages, 0.95), cores / took, foreign.cores)


def main() -> int:
    """Measure, print, and write ``cluster_live.json``."""
    args = arguments(__doc__, seconds=10)
    if find_spec("ray") is None:
        sys.exit("Ray is not installed; run: pip install '.[ray]'")
    machine = describe_machine()
    rounds: list[dict[str, Turn]] = []
    mounts = [ClockMount(f"/camera-{number}", WIDTH, HEIGHT, FPS, key_interval=FPS) for number in range(CAMERAS)]
    with RtspServer(*mounts) as server, LocalCluster(NODES, CPUS, client=find_spec("grpc") is not None) as cluster:
        streams = {f"stream-{number}": {"detect": server.url(mount.path)} for number, mount in enumerate(mounts)}
        settings: dict[str, object] = {"model": "clock", "streams": {}}
        services = {"one machine": LiveService(settings)}
        addresses = {"gateway": cluster.address, "Ray Client": cluster.client_address}
        for name, address in addresses.items():
            if address is not None:
                services[name] = LiveService(settings, ("--cluster", address), cluster.environ)
        with ExitStack() as stack:
            for service in services.values():
                stack.enter_context(service)
            for number in range(1, args.rounds + 1):
                rounds.append({name: measure(service, streams, args.seconds) for name, service in services.items()})
                print(f"round {number}: " + "; ".join(f"{name}: {turn}" for name, turn in rounds[-1].items()), flush=True)
            memory = cluster.memory()
    for number, node in enumerate(memory, 1):
        print(f"node {number}: Ray {node.ray_mb:.0f} MB, {node.processes} processes; the service {node.service_mb:.0f} MB")
    checks = []
    for name in list(services)[1:]:
        added = statistics.median(one[name].p95 - one["one machine"].p95 for one in rounds)
        rate = statistics.median(one[name].rows_per_s for one in rounds) / (CAMERAS * FPS)
        checks += [
            Check(f"{name}: added age p95", added, ADDED_P95_MS, "ms"),
            Check(f"{name}: results / sent frames", rate, MIN_RATE, "", at_most=False),
        ]
    return conclude(
        "cluster_live",
        machine,
        checks,
        [{name: asdict(turn) for name, turn in one.items()} for one in rounds],
        [one._asdict() for one in memory],
    )


if __name__ == "__main__":
    sys.exit(main())
