"""Measure what a cluster costs: age of results and results/s at the client, through the gateway and from one machine.

    python -m benchmarks.cluster_live [--rounds 5] [--seconds 10]

Eight cameras draw the time into each frame, and the model reads it, so that each result has its true age at the client. One
service without a cluster, and a cluster of two nodes on this machine, read the same cameras at the same time; only frames that
all clients have seen count. A second gateway uses Ray Client (``ray://``), as on Kubernetes, if ``grpcio`` is installed.
The memory of a node is that of the processes of ``ray start``, without the service, which one machine has as well.
"""

from __future__ import annotations

import statistics
import sys
import time
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
SETTLE_S = 5.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What one client saw in one round; ages of the frames that all clients have seen, milliseconds."""

    rows_per_s: float
    p50: float
    p95: float
    cpu: float
    """The cores that the process used to which the client was connected."""


@dataclass(frozen=True, slots=True)
class Round:
    """The figures of one round by contender."""

    figures: dict[str, Figures]
    frames: int
    """The number of frames that all clients have seen."""
    later: dict[str, float]
    """The median delay of a frame relative to one machine, milliseconds."""
    foreign_cores: float

    def __str__(self) -> str:
        shown = [
            f"{name}: {one.rows_per_s:.1f} results/s, age {one.p50:.0f} / {one.p95:.0f} ms, {one.cpu:.2f} cores"
            + (f", same frame later by {self.later[name]:.0f} ms" if name in self.later else "")
            for name, one in self.figures.items()
        ]
        return "; ".join([*shown, f"{self.frames} frames, other programs {self.foreign_cores:.2f} cores"])


def measure(services: dict[str, LiveService], seconds: float) -> Round:
    """Measure all contenders at the same time; the first one is the reference."""
    with ExitStack() as stack:
        foreign = stack.enter_context(ForeignLoad())
        readers = {name: stack.enter_context(Reader(service.results_url)) for name, service in services.items()}
        began, cpu = time.monotonic(), {name: service.cpu_s() for name, service in services.items()}
        time.sleep(seconds)
        took = time.monotonic() - began
        cores = {name: (service.cpu_s() - cpu[name]) / took for name, service in services.items()}
    ages = {
        name: {(row.stream, row.moment): float(age) for row in reader.rows if (age := row.true_ms) is not None}
        for name, reader in readers.items()
    }
    common = set.intersection(*(set(one) for one in ages.values()))
    if not common:
        raise RuntimeError("the clients have no frame in common")
    figures = {
        name: Figures(
            len(readers[name].rows) / took,
            quantile([one[frame] for frame in common], 0.5),
            quantile([one[frame] for frame in common], 0.95),
            cores[name],
        )
        for name, one in ages.items()
    }
    reference, *others = ages
    later = {name: statistics.median(ages[name][frame] - ages[reference][frame] for frame in common) for name in others}
    return Round(figures, len(common), later, foreign.cores)


def main() -> int:
    """Measure, print, and write ``cluster_live.json``."""
    args = arguments(__doc__, seconds=10)
    if find_spec("ray") is None:
        sys.exit("Ray is not installed; run: pip install '.[ray]'")
    machine = describe_machine()
    rounds: list[Round] = []
    mounts = [ClockMount(f"/camera-{number}", WIDTH, HEIGHT, FPS, key_interval=FPS) for number in range(CAMERAS)]
    with RtspServer(*mounts) as server, LocalCluster(NODES, CPUS, client=find_spec("grpc") is not None) as cluster:
        streams = {f"stream-{number}": {"detect": server.url(mount.path)} for number, mount in enumerate(mounts)}
        settings = {"model": "clock", "streams": streams}
        alone = LiveService(settings)
        gateway = LiveService(settings, ("--cluster", cluster.address), cluster.environ)
        services = {"one machine": alone, "gateway": gateway}
        if cluster.client_address is not None:
            options = ("--cluster", cluster.client_address)
            services["Ray Client"] = LiveService({**settings, "streams": {}}, options, cluster.environ)
        with ExitStack() as stack:
            for service in services.values():
                stack.enter_context(service)
                service.wait_live(CAMERAS)
            time.sleep(SETTLE_S)
            for number in range(1, args.rounds + 1):
                rounds.append(measure(services, args.seconds))
                print(f"round {number}: {rounds[-1]}", flush=True)
            memory = cluster.memory()
    for number, node in enumerate(memory, 1):
        print(f"node {number}: Ray {node.ray_mb:.0f} MB, {node.processes} processes; the service {node.service_mb:.0f} MB")
    checks = []
    for name in list(services)[1:]:
        added = statistics.median(one.figures[name].p95 - one.figures["one machine"].p95 for one in rounds)
        rate = statistics.median(one.figures[name].rows_per_s for one in rounds) / (CAMERAS * FPS)
        checks += [
            Check(f"{name}: added age p95", added, ADDED_P95_MS, "ms"),
            Check(f"{name}: results / sent frames", rate, MIN_RATE, "", at_most=False),
        ]
    return conclude("cluster_live", machine, checks, [asdict(one) for one in rounds], [one._asdict() for one in memory])


if __name__ == "__main__":
    sys.exit(main())
