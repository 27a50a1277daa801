"""Measure the age of results at the client: one camera, 640×360 at 30 frames/s, that draws the time into each frame.

    python -m benchmarks.live_age [--rounds 5] [--seconds 10]

The model reads that time, so each result received over the WebSocket contains its true age. A plain PyAV loop reads the time on
the same camera at the same time; only frames that both have received count. FFmpeg's parser delays the loop by a frame interval,
and not the service. The age that the service reports is compared with the true age of the same row.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import asdict, dataclass

from benchmarks.live_bare import WARM_UP_S
from benchmarks.live_inputs import arguments, bare, output_of
from benchmarks.live_reader import Reader
from benchmarks.live_service import LiveService
from benchmarks.machine import describe_machine
from benchmarks.processes import ForeignLoad
from benchmarks.verdict import Check, conclude, quantile
from tests.support.cameras import ClockMount, RtspServer

FPS = 30
P50_MS, P95_MS = (more - 1000 / FPS for more in (10.0, 20.0))
"""The maximum delay of the service relative to the plain loop, which receives each frame one interval later."""
AGREE_MS, AGREE_PART = 5.0, 0.1
SETTLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Round:
    """The figures of one round; milliseconds."""

    results: int
    true: tuple[float, float, float]
    """p50, p95 and p99 of the true age over the WebSocket."""
    bare: tuple[float, float, float]
    """The same for the plain loop."""
    told: tuple[float, float, float]
    """The same for the ages that the service reports."""
    behind: float
    """The median delay of a frame over the WebSocket relative to the plain loop."""
    agree: float
    """The share of the rows in which reported and true age agree."""
    foreign_cores: float

    def __str__(self) -> str:
        def three(values: tuple[float, float, float]) -> str:
            return " / ".join(f"{value:.1f}" for value in values)

        return (
            f"true {three(self.true)} ms, plain loop {three(self.bare)}, reported {three(self.told)}, same frame later by "
            f"{self.behind:.1f}, agree {self.agree:.1%} of {self.results} rows, other programs {self.foreign_cores:.2f} cores"
        )


def measure(url: str, seconds: float) -> Round:
    """Measure the service and the plain loop at the same time."""
    with LiveService({"model": "clock", "streams": {"clock": {"detect": url}}}) as service:
        service.wait_live(1)
        time.sleep(SETTLE_S)
        with ForeignLoad() as foreign, Reader(service.results_url) as reader:
            program = bare("age", url, seconds)
            theirs = {int(moment): float(age) for moment, age in output_of(program).items()}
    both: list[tuple[float, float, float]] = []
    for row in reader.rows:
        true_ms = row.true_ms
        if true_ms is not None and row.moment in theirs:
            both.append((float(true_ms), theirs[row.moment], row.reported_ms))
    if not both:
        raise RuntimeError("the service and the plain loop have no frame in common")
    agree = [abs(reported - true) <= max(AGREE_MS, AGREE_PART * true) for true, _, reported in both]
    behind = statistics.median(true - plain for true, plain, _ in both)
    ages = [_quantiles(list(values)) for values in zip(*both, strict=True)]
    return Round(len(both), ages[0], ages[1], ages[2], behind, sum(agree) / len(agree), foreign.cores)


def _quantiles(values: list[float]) -> tuple[float, float, float]:
    return quantile(values, 0.5), quantile(values, 0.95), quantile(values, 0.99)


def _medians(rounds: list[tuple[float, float, float]]) -> list[float]:
    """Return the medians over all rounds, element by element."""
    return [statistics.median(values) for values in zip(*rounds, strict=True)]


def main() -> int:
    """Measure, print, and write ``live_age.json``."""
    args = arguments(__doc__, seconds=10)
    machine = describe_machine()
    rounds: list[Round] = []
    with RtspServer(ClockMount("/clock", 640, 360, FPS)) as server:
        for number in range(1, args.rounds + 1):
            rounds.append(measure(server.url("/clock"), args.seconds))
            print(f"round {number}: {rounds[-1]}", flush=True)
    true, plain = _medians([each.true for each in rounds]), _medians([each.bare for each in rounds])
    differ = [statistics.median(abs(each.told[place] - each.true[place]) for each in rounds) for place in (0, 1)]
    checks = [
        Check("true age p50 (plain loop − frame interval + 10)", true[0], plain[0] + P50_MS, "ms"),
        Check("true age p95 (plain loop − frame interval + 20)", true[1], plain[1] + P95_MS, "ms"),
        Check("difference of reported and true p50", differ[0], max(AGREE_MS, AGREE_PART * true[0]), "ms"),
        Check("difference of reported and true p95", differ[1], max(AGREE_MS, AGREE_PART * true[1]), "ms"),
        Check(
            "rows in which reported and true age agree",
            statistics.median(each.agree for each in rounds),
            0.95,
            "of 1",
            at_most=False,
        ),
    ]
    return conclude(
        "live_age", machine, checks, [asdict(each) for each in rounds], {"seconds": args.seconds, "warm_up_s": WARM_UP_S}
    )


if __name__ == "__main__":
    sys.exit(main())
