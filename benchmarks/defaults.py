"""Compare the defaults of ``vision-infer run`` with FP32 on ONNX Runtime and a square input, on 16:9 video.

``us`` uses the engine that ``auto`` chooses on this machine, and the input size that fits the frame. Before the first round, the
engines of each model are autotuned on the clip, as a long first run does in the background. ``loop`` is a simple program that
uses ONNX Runtime with its defaults (``user_loop.py``). ``square`` is ``vision-infer run`` with ``--engine onnxruntime-cpu-fp32``
and only the square graph, so that it differs from ``us`` in engine and input size alone. Each round runs all of them directly
one after the other, in changing order; ratios are taken within a round.

    python -m benchmarks.defaults [--rounds 7] [--quick]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.inputs import ASSETS, COMMAND, FP32, ROOT, InputMissingError, clip, looped
from benchmarks.machine import describe_machine
from benchmarks.measure import measure
from benchmarks.statistic import paired_ratio
from benchmarks.verdict import Check, conclude

MIN_SPEEDUP = 2.0
"""The required ratio of frames per second."""
YOLOX = "yolox_nano_416x416.onnx"
YOLOX_INPUTS = "416x416,256x416"
SIDES = ("us", "loop", "square")
FRAMES = 600
"""The approximate number of frames of a run: enough to make start and end negligible."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model on a clip."""

    name: str
    model: str
    graph: Path
    """The graph with a square input."""
    clip: Path


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one side."""

    case: str
    side: str
    round: int
    fps: float
    """Frames per second between the first open and the last result."""
    cpu_ms: float
    """CPU milliseconds of the whole process per frame."""
    frames: int
    detections: int
    engines: dict[str, int]
    """The number of frames by engine."""


def main() -> int:
    """Measure, print, write ``defaults.json``; return status 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="Two rounds of the small clip, to check that everything runs.")
    args = parser.parse_args()
    machine = describe_machine()
    runs: list[Run] = []
    checks: list[Check] = []
    chosen: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(Path(folder), ("768x432",) if args.quick else ("768x432", "1080p")):
            if case.model not in chosen:
                chosen[case.model] = choose_engines(case, Path(folder))
            here = [
                run_once(case, side, number, Path(folder))
                for number in range(2 if args.quick else args.rounds)
                for side in (SIDES if number % 2 else SIDES[::-1])
            ]
            runs += here
            checks.append(print_case(case, here))
    for model, lines in chosen.items():
        print(f"{model}:", *lines, sep="\n  ")
    return conclude("defaults", machine, checks, [asdict(run) for run in runs], chosen)


def cases(folder: Path, clips: tuple[str, ...]) -> list[Case]:
    """Return models × clips; print those that are missing here."""
    models = {"nanodet-416": ROOT / "models" / "nanodet-416" / "model.onnx"}
    raw = ASSETS / "models" / YOLOX
    if raw.is_file():
        words = ["model", "import", str(raw), "--name", "yolox-nano", "--labels", "coco", "--input", YOLOX_INPUTS]
        subprocess.run([str(COMMAND), *words, "--model-dir", str(folder / "models")], check=True, capture_output=True)
        models["yolox-nano"] = folder / "models" / "yolox-nano" / "model.onnx"
    else:
        print(f"skipped yolox-nano: {YOLOX} is not here: looked in {raw.parent}", file=sys.stderr)
    made = []
    for name in clips:
        try:
            source = clip(name)
        except InputMissingError as error:
            print(f"skipped {name}: {error}", file=sys.stderr)
            continue
        source = looped(source, max(1, FRAMES // count_frames(source)))
        made += [Case(f"{model} · {name}", model, graph, source) for model, graph in models.items()]
    return made


def count_frames(source: Path) -> int:
    """Return the number of frames according to the container."""
    import av

    with av.open(str(source)) as container:
        return container.streams.video[0].frames


def choose_engines(case: Case, folder: Path) -> list[str]:
    """Autotune the engines of each input size on the clip and store the choices; return the reasons."""
    lines = []
    graphs = [case.graph, *(path for path in sorted(case.graph.parent.glob("model-*.onnx")) if path.name.count(".") == 1)]
    for graph in graphs:
        words = ["engine", "choose", str(graph), "--data", str(case.clip), "--engine-dir", str(folder / "engines")]
        done = subprocess.run([str(COMMAND), *words], check=True, capture_output=True, text=True)
        lines.append(f"{graph.name}: {done.stdout.strip().splitlines()[0]}")
    return lines


def run_once(case: Case, side: str, number: int, folder: Path) -> Run:
    """Run one side and count its rows."""
    out = folder / "rows.jsonl"
    cost = measure(command_of(case, side, out, folder))
    summary = json.loads(cost.stdout)
    frames = detections = 0
    engines: dict[str, int] = {}
    with out.open(encoding="utf-8") as rows:
        for line in rows:
            row = json.loads(line)
            frames += 1
            detections += len(row["detections"])
            engine = row.get("engine", "onnxruntime with its defaults")
            engines[engine] = engines.get(engine, 0) + 1
    fps = frames / float(summary["seconds"])
    print(f"round {number}  {case.name}  {side}: {fps:.1f} frames/s, {detections} detections, {engines}", file=sys.stderr)
    return Run(case.name, side, number, fps, cost.cpu_s * 1e3 / frames, frames, detections, engines)


def command_of(case: Case, side: str, out: Path, folder: Path) -> list[str]:
    """Return the command line of one side."""
    if side == "loop":
        script = str(ROOT / "benchmarks" / "user_loop.py")
        return [sys.executable, script, "--model", str(case.graph), "--out", str(out), str(case.clip)]
    ours = ["--model", case.model, "--model-dir", str(folder / "models")]
    model = ours if side == "us" else ["--model", str(case.graph), *FP32]
    kept = ["--engine-dir", str(folder / "engines"), "--out", str(out), "--overwrite", "--json", "--quiet"]
    return [str(COMMAND), "run", str(case.clip), *model, *kept]


def print_case(case: Case, runs: list[Run]) -> Check:
    """Print the figures of a case; return its check."""
    sides = {side: [run for run in runs if run.side == side] for side in SIDES}
    print(f"\n{case.name}")
    for side, its in sides.items():
        fps, cpu = (statistics.median(getattr(run, name) for run in its) for name in ("fps", "cpu_ms"))
        engines = ", ".join(its[-1].engines)
        print(f"  {side:8}{fps:8.1f} frames/s {cpu:8.2f} ms of CPU per frame {its[-1].detections:6} detections  {engines}")
    ours = sides["us"]
    for name, what in (("fps", "frames/s"), ("cpu_ms", "CPU/frame")):
        for side in SIDES[1:]:
            ratio = paired_ratio([getattr(run, name) for run in ours], [getattr(run, name) for run in sides[side]])
            print(f"  {what:12} us / {side:8}{ratio}")
    ratio = paired_ratio([run.fps for run in ours], [run.fps for run in sides["loop"]])
    return Check(f"{case.name}: frames/s, us / loop", ratio.median, MIN_SPEEDUP, "×", at_most=False)


if __name__ == "__main__":
    sys.exit(main())
