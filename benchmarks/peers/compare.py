"""``make bench-peers``: compare vision-infer with other programs, each with its best settings and the same model.

    python -m benchmarks.peers.compare [--only one,two,defaults,yolox,live] [--rounds 3] [--quick] [--folder FOLDER]

A naive loop (OpenCV and ONNX Runtime with their defaults), Ultralytics' ``predict(stream=True)``, Roboflow's ``inference`` and
vision-infer run directly one after the other in each round. All rounds run twice, in two sittings some minutes apart, because
programs with two threads have a fast and a slow state on some machines. Ratios are taken within a round. Two single-threaded
sessions of ONNX Runtime are the reachable reference: a plain program that anyone can write for one machine. The limit given by
the cost of each stage shows what is possible. Every program runs its model once before its measurement, and none counts its
start.

``one`` and ``two`` are YOLO11n as FP32 ONNX at 640x640 on one file and on two, ``wide`` the same export at 384x640, the shape of
the video; ``yolox`` is YOLOX-nano; ``defaults`` runs each program with its defaults, Ultralytics with PyTorch; ``live`` is four
cameras of 1080p at 30 frames/s for two minutes, vision-infer as the service. ``bf16`` is the engine that ``auto`` chooses on a
CPU with bfloat16 after it was verified for the model, which requires trained weights; the weights here may be random.
Roboflow's ``inference`` runs the same graph through a custom function, because its own models come from its service.
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

CELLS = ("one", "two", "wide", "defaults", "yolox", "live")
SITTINGS = 2
LIVE_ROUNDS, LIVE_S = 1, 120.0
"""In two minutes, a growth of the age of 1 ms/s is clearly different from none."""
BEST, LIMIT = 1.2, 0.95
DEFAULTS = 2.0
LIVE_FP32, LIVE_AGE, LIVE_AUTO = 1.0, 0.5, 1.5
GROWTH_MS_PER_S = 1.0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="Rounds in each of the two sittings.")
    parser.add_argument("--only", default="", help=f"Cells to run, of {','.join(CELLS)}.")
    parser.add_argument("--quick", action="store_true", help="One sitting of one round, to check that everything runs.")
    parser.add_argument("--folder", type=Path, default=RESULTS / "peers", help="Folder of the environments.")
    args = parser.parse_args()
    args.only = [name for name in args.only.split(",") if name]
    if set(args.only) - set(CELLS):
        parser.error(f"--only {','.join(args.only)}: the cells are {', '.join(CELLS)}")
    return args


def main() -> int:
    """Measure, print, and write ``peers.json``; return status 1 if a target is missed."""
    args = parse_arguments()
    peers = prepare(args.folder)
    machine = describe_machine()
    watched = (not args.only or "live" in args.only) and bool(peers.graphs)
    if watched and missing():
        peers.missing.append(f"live: {missing()}; run: make cameras")
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
                for watch in live.runs(peers, sitting, 1 if args.quick else LIVE_ROUNDS, 4.0 if args.quick else LIVE_S):
                    seen.append(watch)
                    figures = f"{watch.results_per_s:.1f} results/s, p95 {watch.p95:.0f} ms"
                    print(f"{sitting}.{watch.round}  live  {watch.contender}: {figures}", file=sys.stderr)
    if found:
        print(files.table(found))
    if seen:
        print(live.table(seen))
    print_ratios(found)
    more = {"versions": peers.versions, "left out": peers.missing}
    rounds: list[object] = [*map(asdict, found), *map(asdict, seen)]
    return conclude("peers", machine, [*file_checks(found), *live_checks(seen)], rounds, more)


def print_ratios(found: Sequence[files.Run]) -> None:
    """Print the ratio of frames/s of vision-infer and each other contender of a cell, with its interval."""
    for cell in dict.fromkeys(run.cell for run in found):
        names = list(dict.fromkeys(run.contender for run in found if run.cell == cell))
        for ours in (name for name in names if name in ("us", "auto", "bf16")):
            for theirs in (name for name in names if name not in ("us", "auto", "bf16")):
                ratio = paired_ratio(files.fps(found, cell, ours), files.fps(found, cell, theirs))
                print(f"{cell}: {ours} / {theirs}: {ratio}")


def file_checks(found: Sequence[files.Run]) -> list[Check]:
    """Return the targets for files.

    Faster than the best other program or near the limit, near the reachable reference, and twice as fast with defaults.
    """
    checks = []
    for cell in ("one", "two", "wide", "yolox"):
        ours, limit = files.fps(found, cell, "us"), files.fps(found, cell, "limit")
        if not ours:
            continue
        peers = [files.fps(found, cell, name) for name in ("ultralytics", "roboflow", "naive")]
        best = [max(speeds) for speeds in zip(*filter(None, peers), strict=True)]
        ahead, near = paired_ratio(ours, best).median / BEST, paired_ratio(ours, limit).median / LIMIT
        checks.append(Check(f"{cell}: us / {BEST} × the best peer, or / {LIMIT} × the limit", max(ahead, near), 1.0, "×", False))
        reference = paired_ratio(ours, files.fps(found, cell, "two sessions")).median
        checks.append(Check(f"{cell}: us / two sessions, the reachable reference", reference, LIMIT, "×", False))
    ours, theirs = files.fps(found, "defaults", "auto"), files.fps(found, "defaults", "ultralytics")
    if ours and theirs:
        checks.append(Check("defaults: auto / Ultralytics", paired_ratio(ours, theirs).median, DEFAULTS, "×", False))
    return checks


def live_checks(seen: Sequence[live.LiveRun]) -> list[Check]:
    """Return the targets for cameras."""

    def median(name: str, what: str) -> float:
        values = [getattr(run, what) for run in seen if run.contender == name]
        return float(statistics.median(values)) if values else float("nan")

    if not {"us", "ultralytics"} <= {run.contender for run in seen}:
        return []
    there = {run.contender for run in seen if run.contender.startswith("ultralytics")}
    best = max(there, key=lambda name: median(name, "results_per_s"))
    results, p95 = median(best, "results_per_s"), median(best, "p95")
    return [
        Check("live: results/s of FP32 / Ultralytics", median("us", "results_per_s") / results, LIVE_FP32, "×", False),
        Check("live: p95 age of FP32 / Ultralytics", median("us", "p95") / p95, LIVE_AGE, "×"),
        Check("live: results/s of auto / Ultralytics", median("auto", "results_per_s") / results, LIVE_AUTO, "×", False),
        *(
            Check(f"live: growth of the age of {name}, worst camera", median(name, "growth"), GROWTH_MS_PER_S, "ms/s")
            for name in ("us", "auto")
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
