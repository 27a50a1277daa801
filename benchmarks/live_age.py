"""How old is a result when a client has it? One camera, 640×360 at 30 pictures a second, which paints the time into each picture.

    python -m benchmarks.live_age [--rounds 5] [--seconds 10]

The network reads that time, so that what arrives over the WebSocket tells its true age. Beside it, on the same camera, a plain
PyAV loop reads the time itself, and only pictures that both have seen count. The age that the service tells is compared with the
true one of the same row.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import asdict, dataclass

from benchmarks.live_bare import WARM_UP_S
from benchmarks.live_inputs import arguments, bare, told
from benchmarks.live_reader import Reader
from benchmarks.live_service import LiveService
from benchmarks.machine import describe_machine
from benchmarks.processes import ForeignLoad
from benchmarks.verdict import Check, conclude, quantile
from tests.support.cameras import ClockMount, RtspServer

P50_MS, P95_MS = 10.0, 20.0
"""by which the service may be behind the plain loop"""
AGREE_MS, AGREE_PART = 5.0, 0.1
SETTLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Round:
    """One round; milliseconds."""

    results: int
    true: tuple[float, float, float]
    """p50, p95, p99 over the WebSocket"""
    bare: tuple[float, float, float]
    """the same of the plain loop"""
    told: tuple[float, float, float]
    """the same of the ages that the service tells"""
    behind: float
    """by which the same picture was later over the WebSocket than in the plain loop, the middle of all pictures"""
    agree: float
    """part of the rows where told and true agree"""
    foreign_cores: float

    def __str__(self) -> str:
        def three(values: tuple[float, float, float]) -> str:
            return " / ".join(f"{value:.1f}" for value in values)

        return (
            f"true {three(self.true)} ms, plain loop {three(self.bare)}, told {three(self.told)}, same picture later by "
            f"{self.behind:.1f}, agree {self.agree:.1%} of {self.results} rows, others used {self.foreign_cores:.2f} cores"
        )


def measure(url: str, seconds: float) -> Round:
    """Both side by side."""
    with LiveService({"model": "clock", "streams": {"clock": {"detect": url}}}) as service:
        service.wait_live(1)
        time.sleep(SETTLE_S)
        with ForeignLoad() as foreign, Reader(service.results_url) as reader:
            program = bare("age", url, seconds)
            theirs = {int(moment): float(age) for moment, age in told(program).items()}
    both: list[tuple[float, float, float]] = []
    for row in reader.rows:
        true_ms = row.true_ms
        if true_ms is not None and row.moment in theirs:
            both.append((float(true_ms), theirs[row.moment], row.told_ms))
    if not both:
        raise RuntimeError("the service and the plain loop have not seen the same pictures")
    agree = [abs(claimed - true) <= max(AGREE_MS, AGREE_PART * true) for true, _, claimed in both]
    behind = statistics.median(true - plain for true, plain, _ in both)
    ages = [_quantiles([one[place] for one in both]) for place in range(3)]
    return Round(len(both), ages[0], ages[1], ages[2], behind, sum(agree) / len(agree), foreign.cores)


def _quantiles(values: list[float]) -> tuple[float, float, float]:
    return quantile(values, 0.5), quantile(values, 0.95), quantile(values, 0.99)


def _middle(rounds: list[tuple[float, float, float]]) -> list[float]:
    """The medians over all rounds, place by place."""
    return [statistics.median(values) for values in zip(*rounds, strict=True)]


def main() -> int:
    """Measure, print, and write ``live_age.json``."""
    args = arguments(__doc__, seconds=10)
    machine = describe_machine()
    rounds: list[Round] = []
    with RtspServer(ClockMount("/clock", 640, 360, 30)) as server:
        for number in range(1, args.rounds + 1):
            one = measure(server.url("/clock"), args.seconds)
            rounds.append(one)
            print(f"round {number}: {one}", flush=True)
    true, plain = _middle([one.true for one in rounds]), _middle([one.bare for one in rounds])
    differ = [statistics.median(abs(one.told[place] - one.true[place]) for one in rounds) for place in (0, 1)]
    checks = [
        Check("true age p50 (plain loop + 10)", true[0], plain[0] + P50_MS, "ms"),
        Check("true age p95 (plain loop + 20)", true[1], plain[1] + P95_MS, "ms"),
        Check("told and true p50 differ by", differ[0], max(AGREE_MS, AGREE_PART * true[0]), "ms"),
        Check("told and true p95 differ by", differ[1], max(AGREE_MS, AGREE_PART * true[1]), "ms"),
        Check("rows where told and true agree", statistics.median(one.agree for one in rounds), 0.95, "of 1", at_most=False),
    ]
    return conclude(
        "live_age", machine, checks, [asdict(one) for one in rounds], {"seconds": args.seconds, "warm_up_s": WARM_UP_S}
    )


if __name__ == "__main__":
    sys.exit(main())
