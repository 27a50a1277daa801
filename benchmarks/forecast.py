"""Compare the forecast of ``vision-infer plan`` with the real service at 1, 4, 8 and 16 streams.

    python -m benchmarks.forecast [--streams 1 4 8 16] [--seconds 15] [--rounds 3]

``vision-infer bench`` runs first, with the same video and engine; the forecast uses only its report. Then the service runs as a
process and plays files in real time as its streams; the ages come from the flight recorder of each stream. The forecast also
receives the phase of each stream, that is when its frames arrive within a frame interval, because no plan can know it. Each round
measures every number of streams, with new phases; the table shows the median round.
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
"""The number of cores that other programs may use; a cell with more is marked as disturbed."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of the service."""

    results_per_s: float
    age_p50_ms: float
    age_p95_ms: float
    cores: float
    foreign_cores: float
    phases: tuple[float, ...]
    """The phases of the streams' frames, in parts of the frame interval."""


def bench(clips: Path) -> BenchReport:
    """Run ``vision-infer bench`` with this video and engine; return its report."""
    with tempfile.TemporaryDirectory(prefix="vision-infer-forecast-") as folder:
        words = ["--size", f"{SIZE.width}x{SIZE.height}", "--source-fps", str(SOURCE_FPS), "--fps", str(FPS), "--engine", ENGINE]
        command = [str(COMMAND), "bench", *words, "--out", folder, "--history", f"{folder}/history.jsonl"]
        environment = {**os.environ, "VISION_INFER_HOME": str(clips)}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        return BenchReport.model_validate_json(Path(folder, "bench.json").read_text(encoding="utf-8"))


def serve(count: int, clip: Path, seconds: float) -> Measured:
    """Run the service with a number of streams and measure it."""
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
    return Measured(
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
    """Return what the plan expects."""
    video = Video(codec="h264", width=SIZE.width, height=SIZE.height, fps=SOURCE_FPS)
    need = Need(cameras=count, video=video, target=PlanTarget(fps=FPS), precision="fp32", runtime="onnxruntime")
    costs = costs_of(report, need, engines_of(report, need)[0], load_of(report))
    assert costs is not None
    return simulate(costs, SimulatedStreams(count, SOURCE_FPS, FPS, phases=phases), report.machine.cores, seconds=20.0)


Cell = tuple[float, float, float]
"""The forecast, the measurement, and the relative error of the forecast."""


def _cells(expected: SimulationOutcome, measured: Measured) -> dict[str, Cell]:
    pairs = {
        "results/s": (expected.results_per_s, measured.results_per_s),
        "age p50": (expected.age_p50_ms, measured.age_p50_ms),
        "age p95": (expected.age_p95_ms, measured.age_p95_ms),
    }
    return {name: (forecast, real, forecast / real - 1 if real else float("inf")) for name, (forecast, real) in pairs.items()}


def _row(count: int, rounds: list[tuple[SimulationOutcome, Measured]]) -> dict[str, Any]:
    cells = {}
    for name, within in WITHIN.items():
        by_error = sorted((_cells(*pair)[name] for pair in rounds), key=lambda cell: cell[2])
        expected, real, off = by_error[len(by_error) // 2]
        cells[name] = {
            "forecast": round(expected, 2),
            "real": round(real, 2),
            "off": round(off, 4),
            "all off": [round(cell[2], 4) for cell in by_error],
            "good": abs(off) <= within,
        }
    foreign = max(measured.foreign_cores for _, measured in rounds)
    seen = [asdict(measured) for _, measured in rounds]
    return {"streams": count, "cells": cells, "seen": seen, "disturbed": foreign > FOREIGN}


def _row_text(row: dict[str, Any]) -> str:
    cells = row["cells"].values()
    columns = []
    for cell in cells:
        ranges = "" if len(cell["all off"]) == 1 else f"; {cell['all off'][0]:+.0%} to {cell['all off'][-1]:+.0%}"
        columns.append(f"{cell['forecast']:.1f}, {cell['real']:.1f} ({cell['off']:+.0%}{ranges})")
    good = all(cell["good"] for cell in cells)
    return " | ".join([*columns, "disturbed" if row["disturbed"] else "within" if good else "MISSED"])


def _write_table(report: BenchReport, lines: list[str]) -> None:
    """Write the table into ``docs/reference/forecast.md``."""
    page = ROOT / "docs" / "reference" / "forecast.md"
    about = (
        f"{report.machine.name}, {report.date:%Y-%m-%d}, `make bench-forecast`: {ENGINE}, H.264 {SIZE} at {SOURCE_FPS} frames/s; "
        "every frame is inferred. The figures are those of the median round; in parentheses: the error of the forecast, and the "
        'range of all rounds. "Within" means an error of at most 10% for results/s and 20% for ages.'
    )
    content = "\n".join((about, "", *lines))
    text = TABLE.sub(lambda match: f"{match[1]}{content}\n{match[2]}", page.read_text(encoding="utf-8"))
    page.write_text(text, encoding="utf-8")


def main() -> int:
    """Forecast, measure, compare, and write ``forecast.json``; return status 1 if a forecast is too far off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    home = RESULTS / "home"
    report = bench(home)
    clip = sample_clip(ClipSpec("h264", SIZE, SOURCE_FPS), home / "bench" / "clips")
    print(f"bench: {load_of(report)}, other programs used {report.other_cores:.2f} cores")
    pairs: dict[int, list[tuple[SimulationOutcome, Measured]]] = {count: [] for count in args.streams}
    for number in range(args.rounds):
        for count in args.streams if number % 2 == 0 else reversed(args.streams):
            measured = serve(count, clip, args.seconds)
            pairs[count].append((forecast(report, count, measured.phases), measured))
            print(f"round {number + 1}, {count} streams: {_row_text(_row(count, pairs[count][-1:]))}", flush=True)
    rows = [_row(count, rounds) for count, rounds in pairs.items()]
    lines = ["| Streams | Results/s: forecast, measured | Age p50, ms | Age p95, ms | Verdict |", "|" + " --- |" * 5]
    lines += [f"| {row['streams']} | {_row_text(row)} |" for row in rows]
    print(*lines, sep="\n")
    RESULTS.mkdir(parents=True, exist_ok=True)
    if not any(row["disturbed"] for row in rows):
        _write_table(report, lines)
    content = {"machine": describe_machine(), "bench": report.model_dump(mode="json"), "rows": rows}
    (RESULTS / "forecast.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    missed = [row for row in rows if not row["disturbed"] and not all(cell["good"] for cell in row["cells"].values())]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
