"""Measure the cost of a stream: 64 streams of 320×180 at 5 frames/s compared with 4 of the same kind, without a model.

    python -m benchmarks.live_many [--rounds 5] [--seconds 8]

The engine computes nothing, so the CPU time of the service is that of receiving, decoding, scheduling, slots, rows, and one
WebSocket client. The control in each round is the service with 4 streams.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import asdict, dataclass

from benchmarks.live_inputs import SMALL, arguments, cameras
from benchmarks.live_reader import Reader
from benchmarks.live_service import LiveService
from benchmarks.machine import describe_machine
from benchmarks.processes import ForeignLoad, rss_bytes, threads
from benchmarks.verdict import Check, conclude
from tests.support.cameras import RtspServer

MANY, FEW = 64, 4
CAMERAS = 16
"""The number of cameras; several streams read each, and they send at different times."""
MAX_RATIO = 1.5
MIN_RATE = 0.95
"""The minimum share of the sent frames that give a result."""
SETTLE_S = 3.0


@dataclass(frozen=True, slots=True)
class Run:
    """The figures of one run of the service."""

    streams: int
    cpu_ms_per_s: float
    """CPU milliseconds per second of each stream."""
    results_per_s: float
    """Results per second of each stream."""
    rss_mb: float
    threads: int
    foreign_cores: float


def measure(server: RtspServer, count: int, seconds: float) -> Run:
    """Measure the CPU time of the service after all streams are live."""
    streams = {f"stream-{n:02}": {"detect": server.url(f"/camera-{n % CAMERAS}")} for n in range(count)}
    with LiveService({"engine": "null", "streams": streams}) as service:
        service.wait_live(count)
        time.sleep(SETTLE_S)
        with ForeignLoad() as foreign, Reader(service.results_url, keep=False) as reader:
            began, cpu, seen = time.monotonic(), service.cpu_s(), reader.count
            time.sleep(seconds)
            took, cpu, seen = time.monotonic() - began, service.cpu_s() - cpu, reader.count - seen
        memory, running = rss_bytes(service.pid) / 1e6, threads(service.pid)
    return Run(count, 1e3 * cpu / took / count, seen / took / count, memory, running, foreign.cores)


def main() -> int:
    """Measure both in turn, print, and write ``live_many.json``."""
    args = arguments(__doc__, seconds=8)
    machine = describe_machine()
    runs: list[Run] = []
    with RtspServer(*cameras(CAMERAS, SMALL)) as server:
        for number in range(1, args.rounds + 1):
            for count in (FEW, MANY) if number % 2 else (MANY, FEW):
                run = measure(server, count, args.seconds)
                runs.append(run)
                print(
                    f"round {number}: {count:2} streams: {run.cpu_ms_per_s:.2f} ms of CPU per second each, "
                    f"{run.results_per_s:.2f} results/s each, {run.rss_mb:.0f} MB, {run.threads} threads, "
                    f"other programs used {run.foreign_cores:.2f} cores",
                    flush=True,
                )
    few, many = ([run for run in runs if run.streams == count] for count in (FEW, MANY))
    ratios = [large.cpu_ms_per_s / small.cpu_ms_per_s for large, small in zip(many, few, strict=True)]
    rate = statistics.median(run.results_per_s for run in many) / SMALL.fps
    checks = [
        Check("CPU per stream: 64 streams / 4 streams", statistics.median(ratios), MAX_RATIO, ""),
        Check("64 streams: results / sent frames", rate, MIN_RATE, "", at_most=False),
    ]
    return conclude("live_many", machine, checks, [asdict(run) for run in runs])


if __name__ == "__main__":
    sys.exit(main())
