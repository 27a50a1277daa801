"""Overload the service: four cameras of 1080p at 30 frames/s, and a model of about 40 ms.

    python -m benchmarks.live_load [--rounds 3] [--seconds 120]

The cameras send real images that were encoded before at 4 Mbit/s, so that sending costs almost nothing. Such video has no time
code: the ages are those that the service reports, and ``live_age`` verifies these. A second figure is independent of the
service's clocks: the time of arrival of a result minus the presentation time of its frame must not grow.

Each round has two controls. One only decodes the same cameras: the remaining cores, divided by the CPU time of one inference,
give the maximum number of inferences. The other infers every frame in order, as plain programs do: its ages grow.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass

from benchmarks.live_inputs import STREET_1080, CostlyModel, arguments, bare, cameras, costly_model, output_of
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
"""The minimum growth of the control that infers in order; with less, the machine was not overloaded."""
SETTLE_S = 4.0
DECODE_S, QUEUE_S = 6.0, 8.0


@dataclass(frozen=True, slots=True)
class Round:
    """The figures of one round."""

    age_ms: tuple[float, float, float]
    """p50, p95 and p99 of the reported age."""
    slope: float
    """The growth of the reported age, milliseconds per second: the maximum of the four streams."""
    witness_slope: float
    """The same for the time of arrival minus the presentation time."""
    batch_ms: float
    """The median time of one inference under this load."""
    results: list[int]
    """The number of results of each stream."""
    results_per_s: float
    limit_per_s: float
    """The possible number of inferences with the cores that decoding, the cameras and other programs do not use."""
    decode_cores: float
    camera_cores: float
    foreign_cores: float
    queue_slope: float
    """The growth of the age in the control that infers in order, milliseconds per second: the minimum of the four."""

    @property
    def age_limit_ms(self) -> float:
        """The time of three batches and a frame interval."""
        return BATCHES * self.batch_ms + 1e3 / STREET_1080.fps

    def __str__(self) -> str:
        ages = " / ".join(f"{age:.0f}" for age in self.age_ms)
        return (
            f"age {ages} ms (limit {self.age_limit_ms:.0f}), growth {self.slope:+.2f} ms/s "
            f"(by presentation times {self.witness_slope:+.2f}), "
            f"results {self.results}, {self.results_per_s:.1f}/s of {self.limit_per_s:.1f}; "
            f"decoding {self.decode_cores:.2f} cores, cameras {self.camera_cores:.2f}, other programs {self.foreign_cores:.2f}; "
            f"control in order: growth {self.queue_slope:+.0f} ms/s"
        )


def measure(server: RtspServer, model: CostlyModel, seconds: float, cores: int) -> Round:
    """Run the two controls, then the service."""
    urls = [server.url(f"/camera-{number}") for number in range(CAMERAS)]
    decoding = output_of(bare("decode", DECODE_S, *urls))
    behind = output_of(bare("queue", QUEUE_S, model.path, *urls))
    queue = [1e3 * slope([now for now, _ in seen], [late for _, late in seen]) for seen in behind]
    streams = {f"camera-{number}": {"detect": url} for number, url in enumerate(urls)}
    with LiveService({"model": str(model.path), "streams": streams}) as service:
        service.wait_live(CAMERAS)
        time.sleep(SETTLE_S)
        with ForeignLoad() as foreign, Reader(service.results_url) as reader:
            began, cpu = time.monotonic(), cpu_s(server.pid)
            time.sleep(seconds)
            took, cpu = time.monotonic() - began, cpu_s(server.pid) - cpu
    by_stream: defaultdict[str, list[Row]] = defaultdict(list)
    for row in reader.rows:
        by_stream[row.stream].append(row)
    free_cores = cores - decoding["cores"] - cpu / took - foreign.cores
    ages = [row.reported_ms for row in reader.rows]
    return Round(
        age_ms=(quantile(ages, 0.5), quantile(ages, 0.95), quantile(ages, 0.99)),
        slope=max(_slope(rows) for rows in by_stream.values()),
        witness_slope=max(_witness_slope(rows) for rows in by_stream.values()),
        batch_ms=statistics.median(row.inference_ms for row in reader.rows),
        results=[len(rows) for _, rows in sorted(by_stream.items())],
        results_per_s=len(reader.rows) / took,
        limit_per_s=free_cores * 1e3 / model.cpu_ms,
        decode_cores=decoding["cores"],
        camera_cores=cpu / took,
        foreign_cores=foreign.cores,
        queue_slope=min(queue),
    )


def _slope(rows: list[Row]) -> float:
    return slope([row.received_ns / 1e9 for row in rows], [row.reported_ms for row in rows])


def _witness_slope(rows: list[Row]) -> float:
    timed = [(row.received_ns / 1e9, row.pts_s) for row in rows if row.pts_s is not None]
    return slope([received for received, _ in timed], [1e3 * (received - pts) for received, pts in timed])


def main() -> int:
    """Measure, print, and write ``live_load.json``."""
    args = arguments(__doc__, seconds=120, rounds=3)
    machine = describe_machine()
    cores = machine["cores"]
    assert isinstance(cores, int)
    model = costly_model()
    print(f"one inference: {model.cpu_ms:.1f} ms of CPU")
    rounds: list[Round] = []
    with RtspServer(*cameras(CAMERAS, STREET_1080)) as server:
        for number in range(1, args.rounds + 1):
            rounds.append(measure(server, model, args.seconds, cores))
            print(f"round {number}: {rounds[-1]}", flush=True)
    p99 = statistics.median(each.age_ms[2] for each in rounds)
    fair = statistics.median(max(each.results) / max(1, min(each.results)) for each in rounds)
    part = statistics.median(each.results_per_s / each.limit_per_s for each in rounds)
    checks = [
        Check("growth of the reported age", statistics.median(each.slope for each in rounds), SLOPE_MS_PER_S, "ms/s"),
        Check(
            "growth of the age by presentation times",
            statistics.median(each.witness_slope for each in rounds),
            SLOPE_MS_PER_S,
            "ms/s",
        ),
        Check("age p99 (3 batches + 1 interval)", p99, statistics.median(each.age_limit_ms for each in rounds), "ms"),
        Check("maximum / minimum results of a stream", fair, FAIR, ""),
        Check("results / possible results", part, PART_OF_LIMIT, "", at_most=False),
        Check(
            "control in order: growth of the age",
            statistics.median(each.queue_slope for each in rounds),
            QUEUE_GROWS_MS_PER_S,
            "ms/s",
            at_most=False,
        ),
    ]
    more = {"cpu_ms": model.cpu_ms, "burn": model.burn, "seconds": args.seconds}
    return conclude("live_load", machine, checks, [asdict(each) for each in rounds], more)


if __name__ == "__main__":
    sys.exit(main())
