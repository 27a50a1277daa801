"""Does the plan's forecast hold? Against the real service with 1, 4, 8 and 16 streams.

    python -m benchmarks.forecast [--streams 1 4 8 16] [--seconds 15] [--rounds 3]

First `vision-infer bench` with the same video and engine: the forecast knows nothing else of this machine. Then the
service as a process, with files that it plays in real time as its streams. Each stream's ages come from its flight recorder. The
forecast is told at which moments within an interval of frames the streams began, which no plan can know, and nothing else of it.
Each number of streams has its turn in every round; what is told is the median round: each has other moments.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.inputs import COMMAND, FP32, RESULTS, ROOT
from benchmarks.live_service import LiveService
from benchmarks.machine import describe_machine
from benchmarks.processes import ForeignLoad
from benchmarks.verdict import quantile
from vision_infer.capacity.costs import costs_of, engines_of, load_of
from vision_infer.capacity.need import Need, PlanTarget, Video
from vision_infer.capacity.report import BenchReport
from vision_infer.capacity.simulate import SimulatedStreams, SimulationOutcome, simulate
from vision_infer.core.geometry import Size
from vision_infer.stream.files.sample_clip import ClipSpec, sample_clip

ENGINE = FP32[1]
SIZE, SOURCE_FPS, FPS = Size(640, 360), 10, 10.0
STREAMS = (1, 4, 8, 16)
WITHIN = {"results/s": 0.10, "age p50": 0.20, "age p95": 0.20}
SETTLE_S = 4.0
TABLE = re.compile(r"(<!-- forecast -->\n).*?(<!-- end -->)", re.DOTALL)
FOREIGN = 0.1
"""cores that others may use; more, and nothing is said of a cell"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the service did."""

    results_per_s: float
    age_p50_ms: float
    age_p95_ms: float
    cores: float
    foreign_cores: float
    phases: tuple[float, ...]
    """of the streams' pictures, parts of the interval between two"""


def bench(clips: Path) -> BenchReport:
    """What the forecast is made of."""
    with tempfile.TemporaryDirectory(prefix="vision-infer-forecast-") as folder:
        what = ["--size", f"{SIZE.width}x{SIZE.height}", "--source-fps", str(SOURCE_FPS), "--fps", str(FPS), "--engine", ENGINE]
        command = [str(COMMAND), "bench", *what, "--out", folder, "--history", f"{folder}/history.jsonl"]
        environment = {**os.environ, "VISION_INFER_HOME": str(clips)}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        return BenchReport.model_validate_json(Path(folder, "bench.json").read_text(encoding="utf-8"))


def serve(count: int, clip: Path, seconds: float) -> Seen:
    """The real service with so many streams."""
    streams = {f"s{number:02}": {"detect": str(clip), "loop": True} for number in range(count)}
    with LiveService({"streams": streams}) as service:
        service.wait_live(count)
        time.sleep(SETTLE_S)
        begin, cpu = datetime.now(UTC), service.cpu_s()
        with ForeignLoad() as foreign:
            time.sleep(seconds)
            used = service.cpu_s() - cpu
        ages: list[float] = []
        phases = []
        for name in streams:
            window = f"from={_utc(begin)}&to={_utc(begin + timedelta(seconds=seconds))}&limit=4096"
            frames = service.ask(f"/api/v1/streams/{name}/frames?{window}")["frames"]
            ages += [frame["age_ms"] for frame in frames if frame["outcome"] == "emitted"]
            captured = [datetime.fromisoformat(frame["captured"]).timestamp() for frame in frames if frame["captured"]]
            phases.append(captured[0] * SOURCE_FPS % 1.0 if captured else 0.0)
    return Seen(
        results_per_s=len(ages) / seconds,
        age_p50_ms=quantile(ages, 0.5),
        age_p95_ms=quantile(ages, 0.95),
        cores=used / seconds,
        foreign_cores=foreign.cores,
        phases=tuple(phases),
    )


def _utc(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def forecast(report: BenchReport, count: int, phases: tuple[float, ...]) -> SimulationOutcome:
    """What the plan expects."""
    video = Video(codec="h264", width=SIZE.width, height=SIZE.height, fps=SOURCE_FPS)
    need = Need(cameras=count, video=video, target=PlanTarget(fps=FPS), precision="fp32", runtime="onnxruntime")
    costs = costs_of(report, need, engines_of(report, need)[0], load_of(report))
    assert costs is not None
    return simulate(costs, SimulatedStreams(count, SOURCE_FPS, FPS, phases=phases), report.machine.cores, seconds=20.0)


Cell = tuple[float, float, float]
"""forecast, real, and by how much the forecast is off"""


def _cells(expected: SimulationOutcome, seen: Seen) -> dict[str, Cell]:
    pairs = {
        "results/s": (expected.results_per_s, seen.results_per_s),
        "age p50": (expected.age_p50_ms, seen.age_p50_ms),
        "age p95": (expected.age_p95_ms, seen.age_p95_ms),
    }
    return {name: (mine, real, mine / real - 1 if real else float("inf")) for name, (mine, real) in pairs.items()}


def _row(count: int, rounds: list[tuple[SimulationOutcome, Seen]]) -> dict[str, Any]:
    cells = {}
    for name, within in WITHIN.items():
        tried = sorted((_cells(*one)[name] for one in rounds), key=lambda one: one[2])
        mine, real, off = tried[len(tried) // 2]
        cells[name] = {
            "forecast": round(mine, 2),
            "real": round(real, 2),
            "off": round(off, 4),
            "all off": [round(one[2], 4) for one in tried],
            "good": abs(off) <= within,
        }
    foreign = max(seen.foreign_cores for _, seen in rounds)
    return {"streams": count, "cells": cells, "seen": [asdict(seen) for _, seen in rounds], "disturbed": foreign > FOREIGN}


def _shown(row: dict[str, Any]) -> str:
    cells = row["cells"].values()
    shown = []
    for one in cells:
        ranges = "" if len(one["all off"]) == 1 else f"; {one['all off'][0]:+.0%} to {one['all off'][-1]:+.0%}"
        shown.append(f"{one['forecast']:.1f}, {one['real']:.1f} ({one['off']:+.0%}{ranges})")
    good = all(one["good"] for one in cells)
    return " | ".join([*shown, "disturbed" if row["disturbed"] else "within" if good else "MISSED"])


def _write_table(report: BenchReport, lines: list[str]) -> None:
    """Into the page of the documents."""
    page = ROOT / "docs" / "reference" / "forecast.md"
    about = (
        f"{report.machine.name}, {report.date:%Y-%m-%d}, `make bench-forecast`: {ENGINE}, H.264 {SIZE} at {SOURCE_FPS} frames/s, "
        "each of which is wanted. The median of three rounds; in brackets: by how much the forecast was off, and the range "
        "of the rounds. Within: results a second by 10%, ages by 20%."
    )
    found = "\n".join((about, "", *lines))
    text = TABLE.sub(lambda match: f"{match[1]}{found}\n{match[2]}", page.read_text(encoding="utf-8"))
    page.write_text(text, encoding="utf-8")


def main() -> int:
    """Forecast, measure, compare; writes ``forecast.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    home = RESULTS / "home"
    report = bench(home)
    clip = sample_clip(ClipSpec("h264", SIZE, SOURCE_FPS), home / "bench" / "clips")
    print(f"bench: {load_of(report)}, others used {report.other_cores:.2f} cores")
    tried: dict[int, list[tuple[SimulationOutcome, Seen]]] = {count: [] for count in args.streams}
    for number in range(args.rounds):
        for count in args.streams if number % 2 == 0 else reversed(args.streams):
            seen = serve(count, clip, args.seconds)
            tried[count].append((forecast(report, count, seen.phases), seen))
            print(f"round {number + 1}, {count} streams: {_shown(_row(count, tried[count][-1:]))}", flush=True)
    rows = [_row(count, rounds) for count, rounds in tried.items()]
    lines = ["| streams | results/s: forecast, real | age p50, ms | age p95, ms | verdict |", "|" + " --- |" * 5]
    lines += [f"| {row['streams']} | {_shown(row)} |" for row in rows]
    print(*lines, sep="\n")
    RESULTS.mkdir(parents=True, exist_ok=True)
    if not any(row["disturbed"] for row in rows):
        _write_table(report, lines)
    content = {"machine": describe_machine(), "bench": report.model_dump(mode="json"), "rows": rows}
    (RESULTS / "forecast.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    missed = [row for row in rows if not row["disturbed"] and not all(one["good"] for one in row["cells"].values())]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
