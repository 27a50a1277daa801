"""``make bench-peers``: vision-infer beside other programs, each at its best settings, with the same network.

    python -m benchmarks.peers.compare [--only one,two,defaults,yolox,live] [--rounds 3] [--quick] [--folder FOLDER]

The naive loop (OpenCV and ONNX Runtime as they come), Ultralytics' ``predict(stream=True)`` and Roboflow's ``inference`` run one
right after the other with us in each round, and all rounds twice: in two sittings some minutes apart, for programs with two
threads have a fast and a slow state on some machines. Ratios are taken round by round. Two single-threaded sessions of ONNX
Runtime, and the limit by the cost of each stage, show what is possible at all.

``one`` and ``two`` are FP32 ONNX of YOLO11n at 640x640 over one file and two; ``yolox`` is YOLOX-nano; ``defaults`` is what
each does unless told otherwise; ``live`` is four cameras of 1080p at 30 pictures a second. ``bf16`` is what ``auto`` takes on a
processor with bfloat16 once it is proven for a network, which needs trained weights; those here may be random. Roboflow's
``inference`` takes the same graph through its pipeline, by a function of ours: its own networks come from its service.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.inputs import RESULTS
from benchmarks.machine import describe_machine
from benchmarks.peers import files, live
from benchmarks.peers.environments import prepare
from benchmarks.statistic import paired_ratio
from benchmarks.verdict import Check, conclude
from tests.support.cameras import missing

CELLS = ("one", "two", "defaults", "yolox", "live")
SITTINGS = 2
LIVE_ROUNDS, LIVE_S = 2, 10.0
BEST, LIMIT = 1.2, 0.95
DEFAULTS = 2.0
LIVE_FP32, LIVE_AGE, LIVE_AUTO = 1.0, 0.5, 1.5


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of each of the two sittings")
    parser.add_argument("--only", default="", help=f"cells, of {','.join(CELLS)}")
    parser.add_argument("--quick", action="store_true", help="one sitting of one round: does it all run?")
    parser.add_argument("--folder", type=Path, default=RESULTS / "peers", help="where the environments are made")
    args = parser.parse_args()
    args.only = [name for name in args.only.split(",") if name]
    if set(args.only) - set(CELLS):
        parser.error(f"--only {','.join(args.only)}: there are {', '.join(CELLS)}")
    return args


def main() -> int:
    """Measure, print, and write ``peers.json``; status 1 where what must be is missed."""
    args = parse_arguments()
    peers = prepare(args.folder)
    machine = describe_machine()
    watched = (not args.only or "live" in args.only) and bool(peers.graphs)
    if watched and missing():
        peers.missing.append(f"live: {missing()}: make cameras")
        watched = False
    found: list[files.Run] = []
    seen: list[live.LiveRun] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cells = files.cells(peers, args.only, args.quick)
        if watched or any("auto" in cell.contenders for cell in cells):
            files.choose(peers)
        for reason in peers.missing:
            print(f"left out: {reason}", file=sys.stderr)
        for sitting in range(1, 2 if args.quick else SITTINGS + 1):
            for cell in cells:
                for run in files.runs(cell, peers, folder, sitting, 1 if args.quick else args.rounds):
                    found.append(run)
                    print(f"{sitting}.{run.round}  {run.cell}  {run.contender}: {run.fps:.1f} frames/s", file=sys.stderr)
            if watched:
                for one in live.runs(peers, sitting, 1 if args.quick else LIVE_ROUNDS, 4.0 if args.quick else LIVE_S):
                    seen.append(one)
                    told = f"{one.results_per_s:.1f} results/s, p95 {one.p95:.0f} ms"
                    print(f"{sitting}.{one.round}  live  {one.contender}: {told}", file=sys.stderr)
    if found:
        print(files.table(found))
    if seen:
        print(live.table(seen))
    told_ratios(found)
    more = {"versions": peers.versions, "left out": peers.missing}
    rounds: list[object] = [*map(asdict, found), *map(asdict, seen)]
    return conclude("peers", machine, [*file_checks(found), *live_checks(seen)], rounds, more)


def told_ratios(found: Sequence[files.Run]) -> None:
    """Each contender's frames a second over each other's in its cell, with the interval."""
    for cell in dict.fromkeys(run.cell for run in found):
        names = list(dict.fromkeys(run.contender for run in found if run.cell == cell))
        for ours in (name for name in names if name in ("us", "auto", "bf16")):
            for theirs in (name for name in names if name not in ("us", "auto", "bf16")):
                ratio = paired_ratio(files.fps(found, cell, ours), files.fps(found, cell, theirs))
                print(f"{cell}: {ours} / {theirs}: {ratio}")


def file_checks(found: Sequence[files.Run]) -> list[Check]:
    """What must be, of files: well ahead of the best of them, or near the limit; with defaults twice as fast."""
    checks = []
    for cell in ("one", "two", "yolox"):
        ours, limit = files.fps(found, cell, "us"), files.fps(found, cell, "limit")
        if not ours:
            continue
        peers = [files.fps(found, cell, name) for name in ("ultralytics", "roboflow", "naive")]
        best = [max(speeds) for speeds in zip(*(of for of in peers if of), strict=True)]
        ahead, near = paired_ratio(ours, best).median / BEST, paired_ratio(ours, limit).median / LIMIT
        checks.append(
            Check(f"{cell}: of {BEST} × the best of them, or of {LIMIT} × the limit", max(ahead, near), 1.0, "×", False)
        )
    ours, theirs = files.fps(found, "defaults", "auto"), files.fps(found, "defaults", "ultralytics")
    if ours and theirs:
        checks.append(Check("defaults: auto / Ultralytics", paired_ratio(ours, theirs).median, DEFAULTS, "×", False))
    return checks


def live_checks(seen: Sequence[live.LiveRun]) -> list[Check]:
    """What must be, of cameras."""

    def middle(name: str, what: str) -> float:
        values = [getattr(run, what) for run in seen if run.contender == name]
        return float(statistics.median(values)) if values else float("nan")

    if not {"us", "ultralytics"} <= {run.contender for run in seen}:
        return []
    there = {run.contender for run in seen if run.contender.startswith("ultralytics")}
    best = max(there, key=lambda name: middle(name, "results_per_s"))
    results, p95 = middle(best, "results_per_s"), middle(best, "p95")
    return [
        Check("live: results/s of FP32 / Ultralytics", middle("us", "results_per_s") / results, LIVE_FP32, "×", False),
        Check("live: p95 age of FP32 / Ultralytics", middle("us", "p95") / p95, LIVE_AGE, "×"),
        Check("live: results/s of auto / Ultralytics", middle("auto", "results_per_s") / results, LIVE_AUTO, "×", False),
    ]


if __name__ == "__main__":
    sys.exit(main())
