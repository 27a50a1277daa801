"""Measure the whole pipeline: ``vision-infer run`` on copies of a clip, in one process and in several at the same time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import Row, Step
from benchmarks.inputs import clip, copies, looped

_LOOPS = 4
_TIMEOUT_S = 240


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured."""

    streams: int
    processes: int = 1
    """The number of processes that share the streams."""
    decode: str = "nvdec"
    gate: bool = False
    track: bool = False


CASES = (
    *(Case(streams) for streams in (1, 4, 8, 16, 32, 50, 64)),
    *(Case(32, gate=gate, track=track) for gate, track in ((True, False), (False, True), (True, True))),
    *(Case(64, processes) for processes in (2, 4)),
    *(Case(64, processes, track=True) for processes in (1, 4)),
    Case(16, decode="cpu"),
)


def steps(graph: Path, runtime: str = "torch", cases: Sequence[Case] = CASES, device: str = "cuda:0") -> Iterator[Step]:
    """Yield a step for each case.

    Args:
        graph: The deployment graph.
        runtime: The name of the engine.
    """
    words = ["--model", str(graph), "--engine", runtime, "--device", device]
    for case in cases:
        also = (
            " with " + " and ".join(filter(None, ("gate" * case.gate, "tracking" * case.track)))
            if case.gate or case.track
            else ""
        )
        yield f"{case.streams} streams in {case.processes}, {case.decode}{also}", partial(_rows, case, words, runtime)


def _rows(case: Case, words: Sequence[str], runtime: str) -> Iterator[Row]:
    files = copies(looped(clip("1080p"), _LOOPS), case.streams)
    words = [*words, "--decode", case.decode, *(["--gate", "motion"] * case.gate), *(["--track"] * case.track)]
    shares = [files[number :: case.processes] for number in range(case.processes)]
    yield {"engine": runtime, **asdict(case), **run_together([[*map(str, share), *words] for share in shares])}


def run_together(commands: Sequence[Sequence[str]], timeout_s: float = _TIMEOUT_S) -> Row:
    """Run ``vision-infer run`` with these arguments, in a process each; return their figures together.

    The rate is the sum of the rates of the processes, which do not begin at exactly the same time.
    """
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "vision_infer", "run", *words, "--json", "--quiet"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in commands
    ]
    end = time.monotonic() + timeout_s
    try:
        ended = [(*process.communicate(timeout=max(0.0, end - time.monotonic())), process.returncode) for process in running]
    finally:
        for process in running:
            process.kill()
    for _, errors, status in ended:
        if status:
            return {"left_out": (errors.strip().splitlines() or [f"exit status {status}"])[-1]}
    summaries: list[dict[str, Any]] = [json.loads(output) for output, *_ in ended]
    frames = sum(summary["frames"] for summary in summaries)
    cpu_seconds = sum(summary["cpu_seconds"] for summary in summaries)
    return {
        "fps": round(sum(summary["frames"] / summary["seconds"] for summary in summaries), 1),
        "cpu_ms_a_frame": round(1000 * cpu_seconds / max(1, frames), 3),
        "cores": round(sum(summary["cpu_seconds"] / summary["seconds"] for summary in summaries), 2),
        "seconds": max(summary["seconds"] for summary in summaries),
        "bound_by": summaries[0]["bound_by"],
        "decoders": sorted({str(source["decoder"]) for summary in summaries for source in summary["sources"]}),
        "stages": summaries[0]["stages"],
    }
