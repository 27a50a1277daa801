"""Compare the forecast of ``vision-infer plan`` with the real service, up to the edge of the machine's capacity.

    python -m benchmarks.forecast [--quick] [--cases 360p-fp32 1080p-int8]

For each case, ``vision-infer bench`` runs first, with the same video and engine; the forecast uses only its report. Then the
service runs as a process and plays files in real time as its streams; the ages come from the flight recorder of each stream. The
streams start at random times, which the forecast does not know. One stream and the numbers around the forecast maximum are
measured, and more until the service misses the target. Every single run is judged, and so is the maximum itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.inputs import COMMAND, RESULTS, ROOT
from benchmarks.live_service import LiveService
from benchmarks.machine import describe_machine, source_line
from benchmarks.processes import ForeignLoad
from benchmarks.verdict import quantile
from vision_infer.capacity.answer import CapacityAnswer, MeasuredMachine
from vision_infer.capacity.calibration import bench_need, cores_of, simulated
from vision_infer.capacity.need import Need
from vision_infer.capacity.pipeline_benchmark import DELIVERED
from vision_infer.capacity.plan import plan_machine
from vision_infer.capacity.report import BenchReport
from vision_infer.capacity.simulate import SimulationOutcome
from vision_infer.core.geometry import Size
from vision_infer.stream.files.sample_clip import GROUP_S, ClipSpec, sample_clip

WITHIN = {"results/s": 0.10, "age p50": 0.20, "age p95": 0.20}
CAPACITY_WITHIN = 0.15
SETTLE_S = 4.0
MORE = 4
"""The maximum number of streams above the forecast that are tried."""
TABLE = re.compile(r"(<!-- forecast -->\n).*?(<!-- end -->)", re.DOTALL)
FOREIGN = 0.1
"""The number of cores that other programs may use; a run with more is marked as disturbed."""


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of video and an engine."""

    name: str
    engine: str
    size: Size
    source_fps: int
    fps: float
    target_ms: float = 200.0


CASES = (
    Case("360p-fp32", "onnxruntime-cpu-fp32", Size(640, 360), 10, 10.0),
    Case("1080p-int8", "onnxruntime-cpu-int8", Size(1920, 1080), 15, 10.0),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of the service."""

    results_per_s: float
    age_p50_ms: float
    age_p95_ms: float
    age_p99_ms: float
    delivered: float
    cores: float
    foreign_cores: float


def bench(case: Case, home: Path, quick: bool) -> BenchReport:
    """Run ``vision-infer bench`` with this video and engine; return its report."""
    with tempfile.TemporaryDirectory(prefix="vision-infer-forecast-") as folder:
        command = [str(COMMAND), "bench", "--engine", case.engine, "--size", f"{case.size.width}x{case.size.height}"]
        command += ["--source-fps", str(case.source_fps), "--fps", str(case.fps), "--target-ms", str(case.target_ms)]
        command += ["--out", folder, "--history", f"{folder}/history.jsonl", *(["--quick"] if quick else [])]
        environment = {**os.environ, "VISION_INFER_HOME": str(home)}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        return BenchReport.model_validate_json(Path(folder, "bench.json").read_text(encoding="utf-8"))


def serve(case: Case, count: int, clip: Path, seconds: float, chance: random.Random) -> Measured:
    """Run the service with a number of streams, which start at random times, and measure it."""
    stream: dict[str, object] = {"detect": str(clip), "loop": True}
    if case.fps < case.source_fps:
        stream["fps"] = case.fps
    names = [f"s{number:02}" for number in range(count)]
    with LiveService({"streams": {names[0]: stream}, "engine": case.engine}) as service:
        for number in range(1, count):  # added one after the other, so that their key frames do not coincide
            service.wait_live(number)
            time.sleep(chance.uniform(0, GROUP_S))
            service.configure({"streams": dict.fromkeys(names[: number + 1], stream), "engine": case.engine})
        service.wait_live(count)
        time.sleep(SETTLE_S)
        begin, cpu = datetime.now(UTC), service.cpu_s()
        with ForeignLoad() as foreign:
            time.sleep(seconds)
            used = service.cpu_s() - cpu
        window = f"from={_utc(begin)}&to={_utc(begin + timedelta(seconds=seconds))}&limit=4096"
        ages = [
            frame["age_ms"]
            for name in names
            for frame in service.ask(f"/api/v1/streams/{name}/frames?{window}")["frames"]
            if frame["outcome"] == "result"
        ]
    return Measured(
        results_per_s=len(ages) / seconds,
        age_p50_ms=quantile(ages, 0.5),
        age_p95_ms=quantile(ages, 0.95),
        age_p99_ms=quantile(ages, 0.99),
        # One result of each stream may be in progress at the end.
        delivered=min(1.0, (len(ages) + count) / (count * min(case.fps, case.source_fps) * seconds)),
        cores=used / seconds,
        foreign_cores=foreign.cores,
    )


def _utc(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _plan(report: BenchReport) -> tuple[Need, CapacityAnswer]:
    """Return the plan without a margin for the load of the benchmark."""
    engine = report.pipeline[0].engine
    free = {"margin": 0.0, "precision": engine.rpartition("-")[2], "runtime": engine.partition("-")[0]}
    need = Need.model_validate({**bench_need(report).model_dump(), **free, "what_if": {"substream": None}})
    return need, plan_machine(MeasuredMachine("this machine", report), need).best


def _judged(count: int, expected: SimulationOutcome, measured: Measured) -> dict[str, Any]:
    pairs = {
        "results/s": (expected.results_per_s, measured.results_per_s),
        "age p50": (expected.age_p50_ms, measured.age_p50_ms),
        "age p95": (expected.age_p95_ms, measured.age_p95_ms),
    }
    off = {name: forecast / real - 1 if real else float("inf") for name, (forecast, real) in pairs.items()}
    return {
        "streams": count,
        "forecast": {name: round(pair[0], 2) for name, pair in pairs.items()},
        "real": asdict(measured),
        "off": {name: round(value, 4) for name, value in off.items()},
        "within": all(abs(off[name]) <= limit for name, limit in WITHIN.items()),
        "disturbed": measured.foreign_cores > FOREIGN,
    }


def measure(case: Case, seconds: float, rounds: int, quick: bool) -> dict[str, Any]:
    """Forecast and measure a case: every run, and the maximum number of streams."""
    home = RESULTS / "home"
    report = bench(case, home, quick)
    clip = sample_clip(ClipSpec("h264", case.size, case.source_fps), home / "bench" / "clips")
    need, plan = _plan(report)
    most = plan.most
    print(f"{case.name}: the bench supported {report.carries} streams; forecast without margin: {most}", flush=True)
    chance = random.Random(1)
    runs: list[dict[str, Any]] = []

    def holds(count: int) -> bool:
        good = True
        expected = simulated(plan.costs, need, count, 1, cores_of(report))
        for _ in range(rounds):
            real = serve(case, count, clip, seconds, chance)
            runs.append(_judged(count, expected, real))
            print(f"  {_line(runs[-1])}", flush=True)
            good = good and real.age_p99_ms <= case.target_ms and real.delivered >= DELIVERED
        return good

    held = [count for count in sorted({1, max(1, most - 1), max(1, most)}) if holds(count)]
    supported = max(held, default=0)
    while most and supported >= most and supported < most + MORE and holds(supported + 1):
        supported += 1
    runs.sort(key=lambda run: run["streams"])
    off = most / supported - 1 if supported else float("inf")
    capacity = {
        "forecast": most,
        "simulated": plan.forecast,
        "real": supported,
        "off": off,
        "within": abs(off) <= CAPACITY_WITHIN,
    }
    return {"case": case.name, "bench": report.model_dump(mode="json"), "capacity": capacity, "runs": runs}


def _line(run: dict[str, Any]) -> str:
    real = (run["real"]["results_per_s"], run["real"]["age_p50_ms"], run["real"]["age_p95_ms"])
    cells = [
        f"{forecast:.1f}, {measured:.1f} ({run['off'][name]:+.0%})"
        for (name, forecast), measured in zip(run["forecast"].items(), real, strict=True)
    ]
    verdict = "disturbed" if run["disturbed"] else "within" if run["within"] else "MISSED"
    return " | ".join([str(run["streams"]), *cells, f"{run['real']['age_p99_ms']:.0f}", verdict])


def _table(found: dict[str, Any]) -> list[str]:
    bench_report = found["bench"]
    settings, capacity = bench_report["settings"], found["capacity"]
    verdict = "within" if capacity["within"] else "MISSED"
    return [
        f"### {found['case']}",
        "",
        f"{settings['engine']}, H.264 {settings['width']}x{settings['height']} at {settings['source_fps']:g} frames/s, "
        f"{settings['fps']:g} results/s, 99% within {settings['target_ms']:g} ms. Maximum number of streams: forecast "
        f"{capacity['forecast']}, measured {capacity['real']} ({verdict}, limit {CAPACITY_WITHIN:.0%}).",
        "",
        "| Streams | Results/s: forecast, measured | Age p50, ms | Age p95, ms | Measured p99, ms | Verdict |",
        "|" + " --- |" * 6,
        *(f"| {_line(run)} |" for run in found["runs"]),
        "",
    ]


def _write_tables(machine: dict[str, object], cases: list[dict[str, Any]]) -> None:
    """Write the tables into ``docs/reference/forecast.md``."""
    page = ROOT / "docs" / "reference" / "forecast.md"
    about = (
        f"{source_line(machine)} Each row is one run. In parentheses: the error of the forecast. "
        '"Within" means an error of at most 10% for results/s and 20% for ages.'
    )
    content = "\n".join([about, "", *(line for case in cases for line in _table(case))])
    text = TABLE.sub(lambda match: f"{match[1]}{content}{match[2]}", page.read_text(encoding="utf-8"))
    page.write_text(text, encoding="utf-8")


def main() -> int:
    """Forecast, measure, compare, and write ``forecast.json``; return status 1 if a forecast is too far off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=[case.name for case in CASES], default=[case.name for case in CASES])
    parser.add_argument("--quick", action="store_true", help="check that it runs: a quick bench and one short round")
    args = parser.parse_args()
    seconds, rounds = (6.0, 1) if args.quick else (16.0, 3)
    cases = [measure(case, seconds, rounds, args.quick) for case in CASES if case.name in args.cases]
    for case in cases:
        print(*_table(case), sep="\n")
    machine = describe_machine()
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine, "cases": cases}
    (RESULTS / "forecast.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    runs = [run for case in cases for run in case["runs"]]
    if not args.quick and not any(run["disturbed"] for run in runs):
        _write_tables(machine, cases)
    good = all(run["within"] for run in runs if not run["disturbed"]) and all(case["capacity"]["within"] for case in cases)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
