"""More than the machine can do: four cameras of 1080p at 30 pictures a second, and a network of about 40 ms.

    python -m benchmarks.live_load [--rounds 5] [--seconds 60]

The cameras send real pictures, encoded before at 4 Mbit/s, so that they cost next to nothing here. Such video carries no time
code: ages are those that the service tells, and ``live_age`` shows that these are true. A second witness knows nothing of the
service's clocks: the time at which a result came, less the presentation time of its picture, must not grow.

Two controls in each round. One decodes the same cameras and does nothing else: what it leaves of the cores, divided by the CPU of
one inference, is what could be inferred at most. The other infers every picture in its turn, as plain programs do: its ages grow.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass

from benchmarks.live_inputs import STREET_1080, Network, arguments, bare, cameras, network, told
from benchmarks.live_reader import Reader, Row
from benchmarks.live_service import LiveService
from benchmarks.machine import describe_machine
from benchmarks.processes import ForeignLoad, cpu_s
from benchmarks.verdict import Check, conclude, quantile, slope
from tests.support.cameras import RtspServer

CAMERAS = 4
SLOPE_MS_PER_S = 1.0
BATCHES = 3
FAIR = 1.1
PART_OF_LIMIT = 0.85
QUEUE_GROWS_MS_PER_S = 100.0
"""the least that the control in order must grow by, or the machine was not overloaded"""
SETTLE_S = 4.0
DECODE_S, QUEUE_S = 6.0, 8.0


@dataclass(frozen=True, slots=True)
class Round:
    """One round."""

    age_ms: tuple[float, float, float]
    """p50, p95, p99, as the service tells"""
    slope: float
    """of the told age, milliseconds a second, the largest of the four streams"""
    witness_slope: float
    """the same of the time of coming less the presentation time"""
    batch_ms: float
    """the middle of the time of one inference under this load"""
    results: list[int]
    """of each stream"""
    results_per_s: float
    limit_per_s: float
    """what could be inferred with what decoding, the cameras and others leave of the cores"""
    decode_cores: float
    camera_cores: float
    foreign_cores: float
    queue_slope: float
    """of the control in order, milliseconds a second, the smallest of the four"""

    @property
    def age_limit_ms(self) -> float:
        """Three batches and a frame interval."""
        return BATCHES * self.batch_ms + 1e3 / STREET_1080.fps

    def __str__(self) -> str:
        ages = " / ".join(f"{age:.0f}" for age in self.age_ms)
        return (
            f"age {ages} ms (limit {self.age_limit_ms:.0f}), grows {self.slope:+.2f} ms/s (witness {self.witness_slope:+.2f}), "
            f"results {self.results}, {self.results_per_s:.1f}/s of {self.limit_per_s:.1f}; "
            f"decoding {self.decode_cores:.2f} cores, cameras {self.camera_cores:.2f}, others {self.foreign_cores:.2f}; "
            f"in order: grows {self.queue_slope:+.0f} ms/s"
        )


def measure(server: RtspServer, graph: Network, seconds: float, cores: int) -> Round:
    """The two controls, then the service."""
    urls = [server.url(f"/camera-{number}") for number in range(CAMERAS)]
    decoding = told(bare("decode", DECODE_S, *urls))
    behind = told(bare("queue", QUEUE_S, graph.path, *urls))
    queue = [1e3 * slope([one[0] for one in seen], [one[1] for one in seen]) for seen in behind]
    streams = {f"camera-{number}": {"detect": url} for number, url in enumerate(urls)}
    with LiveService({"model": str(graph.path), "streams": streams}) as service:
        service.wait_live(CAMERAS)
        time.sleep(SETTLE_S)
        with ForeignLoad() as foreign, Reader(service.results_url) as reader:
            began, cpu = time.monotonic(), cpu_s(server.pid)
            time.sleep(seconds)
            took, cpu = time.monotonic() - began, cpu_s(server.pid) - cpu
    by_stream: defaultdict[str, list[Row]] = defaultdict(list)
    for row in reader.rows:
        by_stream[row.stream].append(row)
    left = cores - decoding["cores"] - cpu / took - foreign.cores
    ages = [row.told_ms for row in reader.rows]
    return Round(
        age_ms=(quantile(ages, 0.5), quantile(ages, 0.95), quantile(ages, 0.99)),
        slope=max(_slope(rows) for rows in by_stream.values()),
        witness_slope=max(_witness_slope(rows) for rows in by_stream.values()),
        batch_ms=statistics.median(row.inference_ms for row in reader.rows),
        results=[len(rows) for _, rows in sorted(by_stream.items())],
        results_per_s=len(reader.rows) / took,
        limit_per_s=left * 1e3 / graph.cpu_ms,
        decode_cores=decoding["cores"],
        camera_cores=cpu / took,
        foreign_cores=foreign.cores,
        queue_slope=min(queue),
    )


def _slope(rows: list[Row]) -> float:
    return slope([row.came_ns / 1e9 for row in rows], [row.told_ms for row in rows])


def _witness_slope(rows: list[Row]) -> float:
    timed = [(row.came_ns / 1e9, row.pts_s) for row in rows if row.pts_s is not None]
    return slope([came for came, _ in timed], [1e3 * (came - pts) for came, pts in timed])


def main() -> int:
    """Measure, print, and write ``live_load.json``."""
    args = arguments(__doc__, seconds=60)
    machine = describe_machine()
    cores = machine["cores"]
    assert isinstance(cores, int)
    graph = network()
    print(f"one inference: {graph.cpu_ms:.1f} ms of CPU")
    rounds: list[Round] = []
    with RtspServer(*cameras(CAMERAS, STREET_1080)) as server:
        for number in range(1, args.rounds + 1):
            rounds.append(measure(server, graph, args.seconds, cores))
            print(f"round {number}: {rounds[-1]}", flush=True)
    p99 = statistics.median(one.age_ms[2] for one in rounds)
    fair = statistics.median(max(one.results) / max(1, min(one.results)) for one in rounds)
    part = statistics.median(one.results_per_s / one.limit_per_s for one in rounds)
    checks = [
        Check("age grows by (told)", statistics.median(one.slope for one in rounds), SLOPE_MS_PER_S, "ms/s"),
        Check("age grows by (witness)", statistics.median(one.witness_slope for one in rounds), SLOPE_MS_PER_S, "ms/s"),
        Check("age p99 (3 batches + 1 interval)", p99, statistics.median(one.age_limit_ms for one in rounds), "ms"),
        Check("most / fewest results of a stream", fair, FAIR, ""),
        Check("results / what decoding leaves over", part, PART_OF_LIMIT, "", at_most=False),
        Check(
            "control: in order, age grows by",
            statistics.median(one.queue_slope for one in rounds),
            QUEUE_GROWS_MS_PER_S,
            "ms/s",
            at_most=False,
        ),
    ]
    more = {"cpu_ms": graph.cpu_ms, "burn": graph.burn, "seconds": args.seconds}
    return conclude("live_load", machine, checks, [asdict(one) for one in rounds], more)


if __name__ == "__main__":
    sys.exit(main())
