"""Measure whether engine time follows the weights of streams under overload: two cameras of weight 2 and two of weight 1.

    python -m benchmarks.live_weights [--rounds 5] [--seconds 10]

The cameras send far more than the model can infer. The streams of weight 2 must use twice the engine time of the others. The
control in each round gives all four the same weight; there the ratio must be 1.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import asdict, dataclass

from benchmarks.live_inputs import STREET_360, CostlyModel, arguments, cameras, costly_model
from benchmarks.live_service import LiveService
from benchmarks.machine import describe_machine
from benchmarks.processes import ForeignLoad
from benchmarks.verdict import Check, conclude
from tests.support.cameras import RtspServer

WEIGHT = 2.0
PART = 0.1
"""The maximum relative error of the ratio."""
SETTLE_S = 3.0
STREAMS = 4


@dataclass(frozen=True, slots=True)
class Run:
    """The figures of one run of the service."""

    weight: float
    """The weight of the first two streams; the others have 1."""
    ratio: float
    """The ratio of the engine time of the first two streams to that of the others."""
    engine_s: list[float]
    """The engine time of each stream, seconds."""
    results: list[int]
    """The number of results of each stream."""
    foreign_cores: float


def measure(server: RtspServer, model: CostlyModel, weight: float, seconds: float) -> Run:
    """Measure the engine time and the results of each stream."""
    weights = [weight, weight, 1.0, 1.0]
    streams = {f"camera-{n}": {"detect": server.url(f"/camera-{n}"), "weight": weights[n]} for n in range(STREAMS)}
    with LiveService({"model": str(model.path), "streams": streams}) as service:

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
    """Measure both in turn, print, and write ``live_weights.json``."""
    args = arguments(__doc__, seconds=10)
    machine = describe_machine()
    model = costly_model()
    print(f"one inference: {model.cpu_ms:.1f} ms of CPU")
    runs: list[Run] = []
    with RtspServer(*cameras(STREAMS, STREET_360)) as server:
        for number in range(1, args.rounds + 1):
            for weight in (WEIGHT, 1.0) if number % 2 else (1.0, WEIGHT):
                run = measure(server, model, weight, args.seconds)
                runs.append(run)
                print(
                    f"round {number}: weights {weight:g}:1, engine time {run.ratio:.3f}:1, results {run.results}, "
                    f"other programs used {run.foreign_cores:.2f} cores",
                    flush=True,
                )
    off = {
        weight: statistics.median(abs(run.ratio / weight - 1) for run in runs if run.weight == weight) for weight in (WEIGHT, 1.0)
    }
    ratio = statistics.median(run.ratio for run in runs if run.weight == WEIGHT)
    checks = [
        Check("weights 2:1, ratio of engine time", ratio, WEIGHT * (1 + PART), "", at_most=True),
        Check("weights 2:1, ratio of engine time", ratio, WEIGHT * (1 - PART), "", at_most=False),
        Check("weights 2:1, error of the ratio (median of the rounds)", off[WEIGHT], PART, "of 1"),
        Check("control, weights 1:1, error of the ratio", off[1.0], PART, "of 1"),
    ]
    return conclude("live_weights", machine, checks, [asdict(run) for run in runs], {"cpu_ms": model.cpu_ms, "burn": model.burn})


if __name__ == "__main__":
    sys.exit(main())
