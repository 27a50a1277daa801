"""Defaults against defaults: ``vision-infer run`` as it comes, and FP32 on ONNX Runtime with a square input, on 16:9 video.

Ours takes the engine that ``auto`` chooses here, and the input that fits the picture. First each network's engines are tried once
on the clip, as a first run of some length does beside its work. The other side is ONNX Runtime as it comes, in the loop that one
writes in an afternoon (``user_loop.py``). A third, ``square``, is our own program with ``--engine onnxruntime-cpu-fp32`` and the
square graph alone, so that nothing but engine and input differs. All run one right after the other in each round, in turns; the
ratio of each round is what counts.

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

WANTED = 2.0
"""times as many pictures a second"""
YOLOX = "yolox_nano_416x416.onnx"
YOLOX_INPUTS = "416x416,256x416"
SIDES = ("us", "loop", "square")
FRAMES = 600
"""about so many in a run: start and end weigh little"""


@dataclass(frozen=True, slots=True)
class Case:
    """A network on a clip."""

    name: str
    model: str
    graph: Path
    """with a square input"""
    clip: Path


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one side."""

    case: str
    side: str
    round: int
    fps: float
    """from the first open until the last result"""
    cpu_ms: float
    """of the whole process, for each frame"""
    frames: int
    detections: int
    engines: dict[str, int]
    """frames by engine"""


def main() -> int:
    """Measure, print, write ``defaults.json``; status 1 where what must be is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="two rounds of the small clip: does it all still run?")
    args = parser.parse_args()
    machine = describe_machine()
    runs: list[Run] = []
    checks: list[Check] = []
    chosen: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(Path(folder), ("768x432",) if args.quick else ("768x432", "1080p")):
            if case.model not in chosen:
                chosen[case.model] = settle(case, Path(folder))
            here = [
                run_once(case, side, number, Path(folder))
                for number in range(2 if args.quick else args.rounds)
                for side in (SIDES if number % 2 else SIDES[::-1])
            ]
            runs += here
            checks.append(told(case, here))
    for model, lines in chosen.items():
        print(f"{model}:", *lines, sep="\n  ")
    return conclude("defaults", machine, checks, [asdict(one) for one in runs], chosen)


def cases(folder: Path, clips: tuple[str, ...]) -> list[Case]:
    """Networks × clips; one that is not here is skipped by name."""
    models = {"nanodet-416": ROOT / "models" / "nanodet-416" / "model.onnx"}
    raw = ASSETS / "models" / YOLOX
    if raw.is_file():
        words = ["model", "import", str(raw), "--name", "yolox-nano", "--labels", "coco", "--input", YOLOX_INPUTS]
        subprocess.run([str(COMMAND), *words, "--model-dir", str(folder / "models")], check=True, capture_output=True)
        models["yolox-nano"] = folder / "models" / "yolox-nano" / "model.onnx"
    else:
        print(f"skipped yolox-nano: {YOLOX} is not among the assets", file=sys.stderr)
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
    """Frames of a clip, as its container tells."""
    import av

    with av.open(str(source)) as container:
        return container.streams.video[0].frames


def settle(case: Case, folder: Path) -> list[str]:
    """Try the engines of each input size once on the clip, which is remembered; why each was chosen."""
    lines = []
    graphs = [case.graph, *(path for path in sorted(case.graph.parent.glob("model-*.onnx")) if path.name.count(".") == 1)]
    for graph in graphs:
        words = ["engine", "choose", str(graph), "--data", str(case.clip), "--engine-dir", str(folder / "engines")]
        done = subprocess.run([str(COMMAND), *words], check=True, capture_output=True, text=True)
        lines.append(f"{graph.name}: {done.stdout.strip().splitlines()[0]}")
    return lines


def run_once(case: Case, side: str, number: int, folder: Path) -> Run:
    """Run one side."""
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
            engine = row.get("engine", "onnxruntime, its defaults")
            engines[engine] = engines.get(engine, 0) + 1
    fps = frames / float(summary["seconds"])
    print(f"round {number}  {case.name}  {side}: {fps:.1f} frames/s, {detections} detections, {engines}", file=sys.stderr)
    return Run(case.name, side, number, fps, cost.cpu_s * 1e3 / frames, frames, detections, engines)


def command_of(case: Case, side: str, out: Path, folder: Path) -> list[str]:
    """The command line of one side."""
    if side == "loop":
        script = str(ROOT / "benchmarks" / "user_loop.py")
        return [sys.executable, script, "--model", str(case.graph), "--out", str(out), str(case.clip)]
    ours = ["--model", case.model, "--model-dir", str(folder / "models")]
    model = ours if side == "us" else ["--model", str(case.graph), *FP32]
    kept = ["--engine-dir", str(folder / "engines"), "--out", str(out), "--overwrite", "--json", "--quiet"]
    return [str(COMMAND), "run", str(case.clip), *model, *kept]


def told(case: Case, runs: list[Run]) -> Check:
    """Print a case; what must be of it."""
    sides = {side: [run for run in runs if run.side == side] for side in SIDES}
    print(f"\n{case.name}")
    for side, its in sides.items():
        fps, cpu = (statistics.median(getattr(run, name) for run in its) for name in ("fps", "cpu_ms"))
        engines = ", ".join(its[-1].engines)
        print(f"  {side:8}{fps:8.1f} frames/s {cpu:8.2f} ms of CPU a frame {its[-1].detections:6} detections  {engines}")
    ours = sides["us"]
    for name, what in (("fps", "frames/s"), ("cpu_ms", "CPU a frame")):
        for side in SIDES[1:]:
            ratio = paired_ratio([getattr(run, name) for run in ours], [getattr(run, name) for run in sides[side]])
            print(f"  {what:12} us / {side:8}{ratio}")
    ratio = paired_ratio([run.fps for run in ours], [run.fps for run in sides["loop"]])
    return Check(f"{case.name}: times as many frames a second as the loop", ratio.median, WANTED, "×", at_most=False)


if __name__ == "__main__":
    sys.exit(main())
