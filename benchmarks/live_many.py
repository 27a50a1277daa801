"""What does a stream more cost? 64 streams of 320×180 at 5 pictures a second against 4 of the same kind, without a network.

    python -m benchmarks.live_many [--rounds 5] [--seconds 8]

The engine computes nothing, so that the CPU of the service is that of receiving, decoding, scheduling, slots, rows, and
one reader over the WebSocket. The control, in each round, is the service with 4 streams.
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
"""each of which several streams watch; they send at different moments"""
MAX_RATIO = 1.5
MIN_RATE = 0.95
"""of the pictures that are sent must give a result"""
SETTLE_S = 3.0


@dataclass(frozen=True, slots=True)
class Run:
    """One service, one time."""

    streams: int
    cpu_ms_per_s: float
    """of each stream: milliseconds of CPU in a second"""
    results_per_s: float
    """of each stream"""
    rss_mb: float
    threads: int
    foreign_cores: float


def measure(server: RtspServer, count: int, seconds: float) -> Run:
    """CPU of the service over so many seconds, when all streams are live."""
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
    """Interleave both, print, and write ``live_many.json``."""
    args = arguments(__doc__, seconds=8)
    machine = describe_machine()
    runs: list[Run] = []
    with RtspServer(*cameras(CAMERAS, SMALL)) as server:
        for number in range(1, args.rounds + 1):
            for count in (FEW, MANY) if number % 2 else (MANY, FEW):
                run = measure(server, count, args.seconds)
                runs.append(run)
                print(
                    f"round {number}: {count:2} streams: {run.cpu_ms_per_s:.2f} ms of CPU a second each, {run.results_per_s:.2f} "
                    f"results/s each, {run.rss_mb:.0f} MB, {run.threads} threads, others used {run.foreign_cores:.2f} cores",
                    flush=True,
                )
    few, many = ([run for run in runs if run.streams == count] for count in (FEW, MANY))
    ratios = [one.cpu_ms_per_s / other.cpu_ms_per_s for one, other in zip(many, few, strict=True)]
    rate = statistics.median(run.results_per_s for run in many) / SMALL.fps
    checks = [
        Check("CPU of each of 64 streams / of each of 4", statistics.median(ratios), MAX_RATIO, ""),
        Check("64 streams: results / pictures sent", rate, MIN_RATE, "", at_most=False),
    ]
    return conclude("live_many", machine, checks, [asdict(run) for run in runs])


if __name__ == "__main__":
    sys.exit(main())
