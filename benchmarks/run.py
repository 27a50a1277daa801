"""The comparison of ``make bench``: vision-infer, the best plain program, and a simple loop as many users write it.

    python -m benchmarks.run [--rounds 7] [--quick] [--control] [--graph nanodet=FILE.onnx] [--contenders us,bare,loop]

It runs models × clips × one or four files. Each round runs every contender in every cell, directly one after the other, and
starts with a different contender, so that other load on the machine affects all of them equally. Ratios are taken within a
round.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.inputs import COMMAND, FP32, RESULTS, ROOT, InputMissingError, clip, copies, describe_clip, graph
from benchmarks.machine import describe_machine, source_line
from benchmarks.measure import measure
from benchmarks.report import Run, disagreements, draw, table, write_json

MODELS = ("nanodet", "yolox-nano")
CLIPS = ("768x432", "1080p")
FILES = (1, 4)


@dataclass(frozen=True, slots=True)
class Cell:
    """One case of the comparison."""

    name: str
    model: Path
    videos: list[Path]


def command_of(contender: str, cell: Cell, out: Path) -> list[str]:
    """Return the command line of a contender: ``us``, ``bare``, ``loop``, or ``control`` (the bare program again)."""
    videos, model = [str(video) for video in cell.videos], str(cell.model)
    if contender == "us":
        return [str(COMMAND), "run", *videos, "--model", model, *FP32, "--out", str(out), "--overwrite", "--json", "--quiet"]
    program = "user_loop.py" if contender == "loop" else "bare_reference.py"
    return [sys.executable, str(ROOT / "benchmarks" / program), "--model", model, "--out", str(out), *videos]


def run_once(contender: str, cell: Cell, number: int, out: Path) -> Run:
    """Run a contender and count the rows and detections that it wrote."""
    cost = measure(command_of(contender, cell, out))
    summary = json.loads(cost.stdout.strip().splitlines()[-1] if contender != "us" else cost.stdout)
    frames = detections = 0
    with out.open(encoding="utf-8") as rows:
        for row in rows:
            frames += 1
            detections += row.count('"class_id"')
    return Run(
        cell.name, contender, number, cost.wall_s, float(summary["seconds"]), cost.cpu_s, cost.peak_rss_bytes, frames, detections
    )


def make_cells(graphs: dict[str, Path], quick: bool) -> tuple[list[Cell], dict[str, object], list[str]]:
    """Return the cells that can run here, the descriptions of the clips, and the reasons for the missing cells."""
    made: list[Cell] = []
    clips: dict[str, object] = {}
    skipped: list[str] = []
    for model_name in MODELS:
        try:
            model = graphs.get(model_name) or graph(model_name)
        except InputMissingError as error:
            skipped.append(f"{model_name}: {error}; name your own with --graph {model_name}=FILE.onnx")
            continue
        for clip_name in CLIPS[:1] if quick else CLIPS:
            try:
                source = clip(clip_name)
            except InputMissingError as error:
                skipped.append(f"{model_name}, {clip_name}: {error}")
                continue
            clips[clip_name] = describe_clip(source)
            for count in FILES[:1] if quick else FILES:
                name = f"{model_name} · {clip_name} · {count} file{'s' * (count > 1)}"
                made.append(Cell(name, model, [source] if count == 1 else copies(source, count)))
    return made, clips, skipped


def all_runs(cells: list[Cell], names: list[str], rounds: int, warm_up: bool) -> Iterator[Run]:
    """Run every contender in every cell, round by round; the first one changes from round to round."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results.jsonl"
        if warm_up:
            for name in names:
                run_once(name, cells[0], 0, out)
        for number in range(1, rounds + 1):
            shift = (number - 1) % len(names)
            for cell in cells:
                for name in names[shift:] + names[:shift]:
                    yield run_once(name, cell, number, out)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="One round of the smallest cells, to check that everything runs.")
    parser.add_argument("--control", action="store_true", help="Run the bare program twice, to show the ratio of equals.")
    parser.add_argument("--contenders", default="us,bare,loop")
    parser.add_argument(
        "--graph",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="Use this graph for a model; may be repeated.",
    )
    return parser.parse_args()


def main() -> int:
    """Run the comparison, print the table, and write the JSON file and the chart."""
    args = parse_arguments()
    names = args.contenders.split(",") + ["control"] * args.control
    graphs = {name: Path(file) for name, _, file in (text.partition("=") for text in args.graph)}
    if "us" in names and not COMMAND.is_file():
        print(f"{COMMAND} is not installed; run: pip install -e '.[cpu,demo,dev]'", file=sys.stderr)
        return 1
    cells, clips, skipped = make_cells(graphs, args.quick)
    for reason in skipped:
        print(f"skipped {reason}", file=sys.stderr)
    if not cells:
        print("nothing to measure: all models or clips are missing", file=sys.stderr)
        return 1
    stem = "bench-quick" if args.quick else "bench"
    machine = describe_machine()
    runs: list[Run] = []
    for run in all_runs(cells, names, 1 if args.quick else args.rounds, warm_up=not args.quick):
        runs.append(run)
        print(f"round {run.round}  {run.cell}  {run.contender}: {run.frames_per_second:.1f} frames/s", file=sys.stderr)
    print(f"{table(runs)}\n{source_line(machine)}")
    write_json(RESULTS / f"{stem}.json", machine, {"clips": clips}, skipped, runs)
    draw(RESULTS / f"{stem}.png", machine, runs)
    wrong = disagreements(runs)
    for line in wrong:
        print(f"NOT THE SAME WORK: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
