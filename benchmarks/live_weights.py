"""Does the engine's time go by weight when there is too little of it? Four cameras, two of weight 2 and two of weight 1.

    python -m benchmarks.live_weights [--rounds 5] [--seconds 10]

The cameras send far more than the network can infer. Between two moments, the engine time that the heavy streams used must
be twice that of the light ones. The control, in each round, gives all four the same weight: there the ratio must be 1.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import asdict, dataclass

from benchmarks.live_inputs import STREET_360, Network, arguments, cameras, network
from benchmarks.live_service import LiveService
from benchmarks.machine import describe_machine
from benchmarks.processes import ForeignLoad
from benchmarks.verdict import Check, conclude
from tests.support.cameras import RtspServer

WEIGHT = 2.0
PART = 0.1
"""by which the ratio may be off"""
SETTLE_S = 3.0
STREAMS = 4


@dataclass(frozen=True, slots=True)
class Run:
    """One service, one time."""

    weight: float
    """of the first two streams; that of the others is 1"""
    ratio: float
    """of the engine time of the first two to that of the others"""
    engine_s: list[float]
    """of each stream"""
    results: list[int]
    """of each stream"""
    foreign_cores: float


def measure(server: RtspServer, graph: Network, weight: float, seconds: float) -> Run:
    """Engine time and results of each stream over so many seconds."""
    weights = [weight, weight, 1.0, 1.0]
    streams = {f"camera-{n}": {"detect": server.url(f"/camera-{n}"), "weight": weights[n]} for n in range(STREAMS)}
    with LiveService({"model": str(graph.path), "streams": streams}) as service:

        def used() -> list[tuple[float, int]]:
            rows = sorted(service.ask("/api/v1/streams"), key=lambda row: str(row["name"]))
            return [(row["status"]["engine_s"], row["status"]["results"]) for row in rows]

        service.wait_live(STREAMS)
        time.sleep(SETTLE_S)
        with ForeignLoad() as foreign:
            before = used()
            time.sleep(seconds)
            after = used()
    engine_s = [late[0] - early[0] for early, late in zip(before, after, strict=True)]
    results = [late[1] - early[1] for early, late in zip(before, after, strict=True)]
    return Run(weight, sum(engine_s[:2]) / sum(engine_s[2:]), engine_s, results, foreign.cores)


def main() -> int:
    """Interleave both, print, and write ``live_weights.json``."""
    args = arguments(__doc__, seconds=10)
    machine = describe_machine()
    graph = network()
    print(f"one inference: {graph.cpu_ms:.1f} ms of CPU")
    runs: list[Run] = []
    with RtspServer(*cameras(STREAMS, STREET_360)) as server:
        for number in range(1, args.rounds + 1):
            for weight in (WEIGHT, 1.0) if number % 2 else (1.0, WEIGHT):
                run = measure(server, graph, weight, args.seconds)
                runs.append(run)
                print(
                    f"round {number}: weights {weight:g}:1, engine time {run.ratio:.3f}:1, results {run.results}, "
                    f"others used {run.foreign_cores:.2f} cores",
                    flush=True,
                )
    off = {
        weight: statistics.median(abs(run.ratio / weight - 1) for run in runs if run.weight == weight) for weight in (WEIGHT, 1.0)
    }
    ratio = statistics.median(run.ratio for run in runs if run.weight == WEIGHT)
    checks = [
        Check("weights 2:1, ratio of engine time", ratio, WEIGHT * (1 + PART), "", at_most=True),
        Check("weights 2:1, ratio of engine time", ratio, WEIGHT * (1 - PART), "", at_most=False),
        Check("weights 2:1, off by (middle of the rounds)", off[WEIGHT], PART, "of 1"),
        Check("control, weights 1:1, off by", off[1.0], PART, "of 1"),
    ]
    return conclude("live_weights", machine, checks, [asdict(run) for run in runs], {"cpu_ms": graph.cpu_ms, "burn": graph.burn})


if __name__ == "__main__":
    sys.exit(main())
