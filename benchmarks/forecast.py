"""Does the plan's forecast hold? Against the real service with 1, 4, 8 and 16 streams.

    python -m benchmarks.forecast [--streams 1 4 8 16] [--seconds 15]

First `vision-infer bench --quick` with the same video and engine: the forecast knows nothing else of this machine. Then the
service as a process, with files that it plays in real time as its streams. Each stream's ages come from its flight recorder. The
forecast is told at which moments within an interval of frames the streams began, which no plan can know, and nothing else of it.
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

from benchmarks.inputs import COMMAND, FP32, RESULTS, ROOT
from benchmarks.live_service import LiveService
from benchmarks.machine import describe_machine
from benchmarks.processes import ForeignLoad
from benchmarks.verdict import quantile
from vision_infer.capacity.costs import costs_of, engines_of, load_of
from vision_infer.capacity.need import Need, Target, Video
from vision_infer.capacity.report import BenchReport
from vision_infer.capacity.simulate import Outcome, Streams, simulate
from vision_infer.core.geometry import Size
from vision_infer.stream.sample_clip import ClipSpec, sample_clip

ENGINE = FP32[1]
SIZE, SOURCE_FPS, FPS = Size(640, 360), 10, 10.0
STREAMS = (1, 4, 8, 16)
RATE_WITHIN, AGE_WITHIN = 0.10, 0.20
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
        command = [str(COMMAND), "bench", "--quick", *what, "--out", folder, "--history", f"{folder}/history.jsonl"]
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
            ages += [frame["age_ms"] for frame in frames if frame["fate"] == "emitted"]
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


def forecast(report: BenchReport, count: int, phases: tuple[float, ...]) -> Outcome:
    """What the plan expects."""
    video = Video(codec="h264", width=SIZE.width, height=SIZE.height, fps=SOURCE_FPS)
    need = Need(cameras=count, video=video, target=Target(fps=FPS), precision="fp32", runtime="onnxruntime")
    costs = costs_of(report, need, engines_of(report, need)[0], load_of(report))
    assert costs is not None
    return simulate(costs, Streams(count, SOURCE_FPS, FPS, phases=phases), report.machine.cores, seconds=20.0)


def _row(count: int, expected: Outcome, seen: Seen) -> dict[str, object]:
    pairs = {
        "results/s": (expected.results_per_s, seen.results_per_s, RATE_WITHIN),
        "age p50": (expected.age_p50_ms, seen.age_p50_ms, AGE_WITHIN),
        "age p95": (expected.age_p95_ms, seen.age_p95_ms, AGE_WITHIN),
    }
    cells = {}
    for name, (mine, real, within) in pairs.items():
        off = mine / real - 1 if real else float("nan")
        cells[name] = {"forecast": round(mine, 2), "real": round(real, 2), "off": round(off, 4), "good": abs(off) <= within}
    return {"streams": count, "cells": cells, "seen": asdict(seen), "disturbed": seen.foreign_cores > FOREIGN}


def _write_table(report: BenchReport, lines: list[str]) -> None:
    """Into the page of the documents."""
    page = ROOT / "docs" / "plan.md"
    about = (
        f"{report.machine.name}, {report.date:%Y-%m-%d}, `make bench-forecast`: {ENGINE}, H.264 {SIZE} at {SOURCE_FPS} frames/s, "
        "each of which is wanted. Within: results a second by 10%, ages by 20%."
    )
    found = "\n".join((about, "", *lines))
    text = TABLE.sub(lambda match: f"{match[1]}{found}\n{match[2]}", page.read_text(encoding="utf-8"))
    page.write_text(text, encoding="utf-8")


def main() -> int:
    """Forecast, measure, compare; writes ``forecast.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS)
    parser.add_argument("--seconds", type=float, default=15.0)
    args = parser.parse_args()
    home = RESULTS / "home"
    report = bench(home)
    clip = sample_clip(ClipSpec("h264", SIZE, SOURCE_FPS), home / "bench" / "clips")
    print(f"bench: {load_of(report)}, others used {report.other_cores:.2f} cores")
    lines = ["| streams | results/s: forecast, real | age p50, ms | age p95, ms | cores, others | verdict |", "|" + " --- |" * 6]
    print(*lines, sep="\n")
    rows = []
    for count in args.streams:
        seen = serve(count, clip, args.seconds)
        row = _row(count, forecast(report, count, seen.phases), seen)
        rows.append(row)
        cells = row["cells"]
        assert isinstance(cells, dict)
        shown = " | ".join(f"{one['forecast']:.1f}, {one['real']:.1f} ({one['off']:+.0%})" for one in cells.values())
        good = all(one["good"] for one in cells.values())
        verdict = "disturbed" if row["disturbed"] else "within" if good else "MISSED"
        lines.append(f"| {count} | {shown} | {seen.cores:.2f}, {seen.foreign_cores:.2f} | {verdict} |")
        print(lines[-1], flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    if not any(row["disturbed"] for row in rows):
        _write_table(report, lines)
    content = {"machine": describe_machine(), "bench": report.model_dump(mode="json"), "rows": rows}
    (RESULTS / "forecast.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    missed = [row for row in rows if not row["disturbed"] and not all(one["good"] for one in row["cells"].values())]  # type: ignore[attr-defined]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
