"""Compare the two ways of reading an RTSP camera, `ingest: rtp` and `ingest: ffmpeg`, and GStreamer where it is installed.

    python -m benchmarks.live_ingest [--parts age cpu many loss] [--rounds 5] [--seconds 4]

- age: the age of decoded frames at 10, 15, 25 and 30 frames/s, 640×360, TCP on loopback. A camera draws the time into each frame;
  the age that the reader reports is compared with it.
- cpu: CPU of a process that reads one camera, 1080p at 30 frames/s and 4 Mbit/s, with decoding and without.
- many: the same for 64 cameras in one process, without decoding, because two cores cannot decode them.
- loss: 1 % of the packets is lost over UDP. Each one must be counted, and no cut picture may be given out as whole.

The contenders run one after the other in each round, in changing order. The control is FFmpeg a second time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.ingest_camera import RecordedCameras, recorded
from benchmarks.ingest_reader import digest
from benchmarks.inputs import ROOT
from benchmarks.live_inputs import STREET_1080
from benchmarks.machine import describe_machine
from benchmarks.processes import ForeignLoad
from benchmarks.verdict import Check, conclude, quantile
from tests.support.cameras import SYSTEM_PYTHON, ClockMount, RtspServer, missing

RATES = (10, 15, 25, 30)
MANY = 64
P50_MS, P95_MS = 6.0, 10.0
AGREE_MS = 5.0
"""The maximum difference of the reported age from the true one."""
MORE_CPU = 1.0
"""The maximum CPU of a camera in addition to FFmpeg's, percent of a core."""
LOSS = 0.01
LOSSLESS = 30
"""The number of pictures at the beginning and at the end of which nothing is lost."""
MIN_RATE = 0.95
"""The minimum part of the sent pictures that a reader receives."""
GSTREAMER = Path(__file__).with_name("ingest_gstreamer.py")
PARTS = ("age", "cpu", "many", "loss")
NAMES = {"rtp": "`ingest: rtp`", "ffmpeg": "`ingest: ffmpeg`", "control": "`ingest: ffmpeg` again", "gstreamer": "GStreamer"}


@dataclass(frozen=True, slots=True)
class AgeRun:
    """The ages that one contender measured, milliseconds."""

    fps: int
    reader: str
    true: tuple[float, ...]
    reported: tuple[float, ...]
    """Empty if the reader reports no age."""
    foreign_cores: float


@dataclass(frozen=True, slots=True)
class CostRun:
    """The cost of one contender."""

    part: str
    reader: str
    cameras: int
    percent: float
    """The CPU of each camera, percent of a core."""
    received: float
    """The part of the sent pictures that were received."""
    late_ms: float
    """The maximum delay of a picture in the server, milliseconds."""
    foreign_cores: float


@dataclass(frozen=True, slots=True)
class LossRun:
    """The pictures that one contender received over UDP."""

    reader: str
    sent: int
    """The packets that were sent while packets were lost, including the lost ones."""
    lost: int
    counted: int | None
    """The lost packets that the reader counted; None if it reports no number."""
    pictures: int
    damaged: int
    """The pictures that were reported as damaged."""
    cut: int
    """The pictures that were given out as whole, but differ from all sent ones."""


def gstreamer_missing() -> str:
    """Return what GStreamer lacks for a comparison; empty if it has everything."""
    probe = "import gi; gi.require_version('Gst', '1.0'); from gi.repository import Gst; Gst.init(None);"
    found = "print(*[n for n in ('rtspsrc', 'avdec_h264', 'appsink') if Gst.ElementFactory.find(n) is None])"
    ran = subprocess.run([SYSTEM_PYTHON, "-c", probe + found], capture_output=True, text=True, check=False)
    return "GStreamer" if ran.returncode else ran.stdout.strip()


def program(*words: object) -> Any:
    """Run a reader; return its output.

    Raises:
        RuntimeError: It failed.
    """
    ran = subprocess.run([str(word) for word in words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False, timeout=120)
    if ran.returncode:
        raise RuntimeError(f"a reader failed: exit status {ran.returncode}")
    return json.loads(ran.stdout)


def reader(mode: str, ingest: str, amount: object, *urls: str) -> Any:
    """Run our reader, see :mod:`benchmarks.ingest_reader`; return its output."""
    name = "ffmpeg" if ingest == "control" else ingest
    return program(sys.executable, "-m", "benchmarks.ingest_reader", mode, name, amount, *urls)


def in_turn(names: Sequence[str], number: int) -> Sequence[str]:
    """Return the contenders in the order of a round."""
    turn = number % len(names)
    return (*names[turn:], *names[:turn])


def measure_ages(rounds: int, seconds: float) -> list[AgeRun]:
    """Measure the ages at all rates."""
    lacking = gstreamer_missing()
    if lacking:
        print(f"GStreamer is left out, it lacks: {lacking}")
    names = ("rtp", "ffmpeg") if lacking else ("rtp", "ffmpeg", "gstreamer")
    found: list[AgeRun] = []
    with RtspServer(*(ClockMount(f"/{fps}", fps=fps, key_interval=fps) for fps in RATES)) as server:
        for number in range(rounds):
            for fps in RATES:
                for name in in_turn(names, number):
                    url = server.url(f"/{fps}")
                    with ForeignLoad() as foreign:
                        words = (SYSTEM_PYTHON, GSTREAMER, seconds, url)
                        ages = program(*words) if name == "gstreamer" else reader("age", name, seconds, url)
                    if not ages:
                        raise RuntimeError(f"{name} has read no time code from the camera of {fps} frames/s")
                    true, *reported = zip(*ages, strict=True)
                    run = AgeRun(fps, name, true, reported[0] if reported else (), foreign.cores)
                    found.append(run)
                    print(
                        f"round {number + 1}: {fps} frames/s, {name}: true {three(run.true)} ms, "
                        f"reported {three(run.reported) if reported else 'nothing'}, {len(true)} frames, "
                        f"other programs {foreign.cores:.2f} cores",
                        flush=True,
                    )
    return found


def measure_cost(part: str, count: int, modes: Sequence[str], rounds: int, seconds: float) -> list[CostRun]:
    """Measure the CPU time of reading a number of cameras."""
    found: list[CostRun] = []
    with RecordedCameras(recorded(STREET_1080.file()), STREET_1080.fps) as cameras:
        urls = [cameras.url(f"/{number}") for number in range(count)]
        for number in range(rounds):
            for mode in modes:
                for name in in_turn(("rtp", "ffmpeg", "control"), number):
                    cameras.late_s = 0.0
                    with ForeignLoad() as foreign:
                        cores, rate = reader(mode, name, seconds, *urls)
                    received = rate / (STREET_1080.fps * count)
                    run = CostRun(
                        f"{part} {mode}", name, count, 100 * cores / count, received, 1e3 * cameras.late_s, foreign.cores
                    )
                    found.append(run)
                    print(
                        f"round {number + 1}: {count} camera(s), {mode}, {name}: {run.percent:.2f} % of a core each, "
                        f"{run.received:.1%} of the pictures, server late by at most {run.late_ms:.1f} ms, "
                        f"other programs {foreign.cores:.2f} cores",
                        flush=True,
                    )
    return found


def measure_loss(seconds: float, loss: float = LOSS) -> list[LossRun]:
    """Read a camera over UDP, of which packets are lost."""
    found: list[LossRun] = []
    pictures = recorded(STREET_1080.file())
    lossy = round(seconds * STREET_1080.fps)
    for name in ("rtp", "ffmpeg"):
        loses = range(LOSSLESS, LOSSLESS + lossy)
        with RecordedCameras(pictures, STREET_1080.fps, loss, loses) as cameras:
            received, counted = reader("pictures", name, lossy + LOSSLESS, cameras.url("/"))
            found.append(loss_run(name, pictures, cameras, received, counted))
        print(f"loss: {found[-1]}", flush=True)
    return found


def loss_run(
    name: str, pictures: Sequence[bytes], cameras: RecordedCameras, received: Sequence[tuple[str, bool]], counted: int | None
) -> LossRun:
    """Compare received pictures with the sent ones."""
    whole = {digest(picture) for picture in pictures}
    damaged = sum(broken for _, broken in received)
    cut = sum(not broken and found not in whole for found, broken in received)
    return LossRun(name, cameras.sent, cameras.lost, counted, len(received), damaged, cut)


def three(values: Sequence[float]) -> str:
    """Return p50, p95 and p99."""
    return " / ".join(f"{quantile(values, part):.1f}" for part in (0.5, 0.95, 0.99))


def middle(runs: Sequence[tuple[float, ...]], part: float) -> float:
    """Return the median over all rounds of a quantile; NaN without a value."""
    found = [quantile(values, part) for values in runs if values]
    return statistics.median(found) if found else float("nan")


def cell(runs: Sequence[tuple[float, ...]]) -> str:
    """Return p50 and p95, the medians of all rounds, and p99 of all frames together."""
    together = [value for values in runs for value in values]
    return f"{middle(runs, 0.5):.1f}/{middle(runs, 0.95):.1f}/{quantile(together, 0.99):.1f}"


def age_table(runs: Sequence[AgeRun]) -> list[str]:
    """Return the table of ages, Markdown."""
    rates = sorted({run.fps for run in runs})
    lines = [f"| Age, ms: p50/p95/p99 | {' | '.join(f'{fps}/s' for fps in rates)} |", "|---" * (len(rates) + 1) + "|"]
    for name in (name for name in NAMES if any(run.reader == name for run in runs)):
        of_rates = [[run for run in runs if (run.fps, run.reader) == (fps, name)] for fps in rates]
        lines.append(f"| {NAMES[name]} | {' | '.join(cell([run.true for run in here]) for here in of_rates)} |")
        if name != "gstreamer":
            lines.append(f"| as it reports | {' | '.join(cell([run.reported for run in here]) for here in of_rates)} |")
    return lines


def costs(runs: Sequence[CostRun], part: str) -> tuple[float, float, float, float]:
    """Return the CPU with RTP and with FFmpeg, and what RTP and the control use more than FFmpeg; medians over all rounds."""
    rtp, ffmpeg, control = (
        [run.percent for run in runs if (run.part, run.reader) == (part, name)] for name in ("rtp", "ffmpeg", "control")
    )
    more = [one - other for one, other in zip(rtp, ffmpeg, strict=True)]
    noise = [one - other for one, other in zip(control, ffmpeg, strict=True)]
    return statistics.median(rtp), statistics.median(ffmpeg), statistics.median(more), statistics.median(noise)


def cost_table(runs: Sequence[CostRun]) -> list[str]:
    """Return the table of CPU times, Markdown."""
    lines = [
        "| CPU of each camera, 1080p30 at 4 Mbit/s, % of a core | `ingest: rtp` | `ingest: ffmpeg` | difference | control |",
        "| --- | --- | --- | --- | --- |",
    ]
    for part in dict.fromkeys(run.part for run in runs):
        count = next(run.cameras for run in runs if run.part == part)
        what = f"{count} camera{'s' * (count > 1)}, {'decoded' if part.endswith('decode') else 'not decoded'}"
        rtp, ffmpeg, more, noise = costs(runs, part)
        lines.append(f"| {what} | {rtp:.2f} | {ffmpeg:.2f} | {more:+.2f} | {noise:+.2f} |")
    return lines


def loss_table(runs: Sequence[LossRun]) -> list[str]:
    """Return the table of losses, Markdown."""
    lines = [
        "| 1 % loss over UDP | packets | lost | counted | pictures | reported as damaged | cut, given out as whole |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in runs:
        counted = "–" if run.counted is None else run.counted
        lines.append(
            f"| {NAMES[run.reader]} | {run.sent} | {run.lost} | {counted} | {run.pictures} | {run.damaged} | {run.cut} |"
        )
    return lines


def age_checks(runs: Sequence[AgeRun]) -> list[Check]:
    """Return the targets of the ages."""
    checks: list[Check] = []
    for fps in sorted({run.fps for run in runs}):
        here = [run for run in runs if (run.fps, run.reader) == (fps, "rtp")]
        for part, limit in ((0.5, P50_MS), (0.95, P95_MS)):
            true, reported = (middle([getattr(run, meter) for run in here], part) for meter in ("true", "reported"))
            name = f"p{100 * part:.0f}"
            checks.append(Check(f"{fps} frames/s: true age {name}", true, limit, "ms"))
            checks.append(Check(f"{fps} frames/s: reported age {name}", reported, limit, "ms"))
            checks.append(Check(f"{fps} frames/s: difference of both {name}", abs(true - reported), AGREE_MS, "ms"))
    return checks


def cost_checks(runs: Sequence[CostRun]) -> list[Check]:
    """Return the targets of the CPU times."""
    checks: list[Check] = []
    for part in dict.fromkeys(run.part for run in runs):
        here = [run for run in runs if run.part == part]
        checks.append(Check(f"{part}: CPU of a camera − FFmpeg's", costs(runs, part)[2], MORE_CPU, "% of a core"))
        rate = min(run.received for run in here)
        checks.append(Check(f"{part}: received pictures", rate, MIN_RATE, "of 1", at_most=False))
    return checks


def loss_checks(runs: Sequence[LossRun]) -> list[Check]:
    """Return the targets of the losses; FFmpeg has none."""
    (run,) = (run for run in runs if run.reader == "rtp")
    differ = abs(run.lost - (run.counted or 0))
    return [
        Check("lost packets", run.lost, 1, "", at_most=False),
        Check("lost packets that were not counted, or counted wrongly", differ, 0, ""),
        Check("cut pictures that were given out as whole", run.cut, 0, ""),
    ]


def main() -> int:
    """Measure, print the tables, and write ``live_ingest.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="What to measure.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="Duration of a measurement; of the losses, eight times that.")
    args = parser.parse_args()
    if missing():
        print(f"{missing()}; run: make cameras", file=sys.stderr)
        return 1
    machine = describe_machine()
    rounds, seconds = args.rounds, args.seconds
    ages = measure_ages(rounds, seconds) if "age" in args.parts else []
    cpu: list[CostRun] = []
    if "cpu" in args.parts:
        cpu += measure_cost("one", 1, ("decode", "read"), rounds, seconds)
    if "many" in args.parts:
        cpu += measure_cost("many", MANY, ("read",), rounds, seconds)
    losses = measure_loss(8 * seconds) if "loss" in args.parts else []
    tables = [age_table(ages) if ages else [], cost_table(cpu) if cpu else [], loss_table(losses) if losses else []]
    for table in tables:
        print("\n".join(("", *table)))
    checks = age_checks(ages) + cost_checks(cpu) + (loss_checks(losses) if losses else [])
    rounds_run = [*map(asdict, ages), *map(asdict, cpu), *map(asdict, losses)]
    return conclude("live_ingest", machine, checks, rounds_run)


if __name__ == "__main__":
    sys.exit(main())
