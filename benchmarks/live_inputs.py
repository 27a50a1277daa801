"""The inputs of the live benchmarks: cameras, a model with a chosen cost, and the plain programs as processes."""

from __future__ import annotations

import argparse
import json
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks.inputs import RESULTS, ROOT, InputMissingError, bikes
from tests.support.cameras import Encoded, ReplayMount, missing
from vision_infer.core.geometry import Size

STREET_1080 = Encoded("bikes", 1920, 1080, 30, kbit_s=4000, frames=150)
STREET_360 = Encoded("bikes", 640, 360, 30, kbit_s=1000, frames=150)
SMALL = Encoded("bikes", 320, 180, 5, kbit_s=150, frames=50, key_interval=10)
INPUT = Size(640, 640)
"""The input size of the costly model: that of a usual YOLO."""
WANTED_MS = 40.0
_RUNS = 12


class CostlyModel(NamedTuple):
    """A deployment graph and the cost of one image."""

    path: Path
    cpu_ms: float
    """The CPU time of one inference on one thread, with nothing else running, milliseconds."""
    burn: int
    """The number of convolutions that only cost time."""


def costly_model(wanted_ms: float = WANTED_MS) -> CostlyModel:
    """Return the clock model with additional convolutions, so that one inference costs about this CPU time on this machine."""
    empty, some = _cost_ms(_build(0)), _cost_ms(_build(20))
    burn = max(1, round(20 * (wanted_ms - empty) / (some - empty)))
    path = _build(burn)
    return CostlyModel(path, _cost_ms(path), burn)


def bare(*arguments: object) -> subprocess.Popen[str]:
    """Start one of the plain programs; :func:`output_of` returns its output."""
    command = [sys.executable, "-m", "benchmarks.live_bare", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def output_of(program: subprocess.Popen[str]) -> Any:
    """Wait for the end of a plain program; return its JSON output.

    Raises:
        RuntimeError: If the program fails.
    """
    output, _ = program.communicate(timeout=300)
    if program.returncode:
        raise RuntimeError(f"a plain program failed: exit status {program.returncode}")
    return json.loads(output)


def cameras(count: int, video: Encoded) -> list[ReplayMount]:
    """Return cameras that send the same video, each with its own start time."""
    return [ReplayMount(f"/camera-{number}", video) for number in range(count)]


def arguments(about: str | None, seconds: float, rounds: int = 5) -> argparse.Namespace:
    """Read the command line of the live benchmarks; exit with a message if the RTSP server or its clip is not installed."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seconds", type=float, default=seconds, help="Duration of the measurement in each round.")
    args = parser.parse_args()
    if missing():
        sys.exit(f"{missing()}; run: make cameras")
    try:
        bikes()  # the video of the cameras
    except InputMissingError as error:
        sys.exit(str(error))
    return args


def _build(burn: int) -> Path:
    path = RESULTS / "models" / f"clock-burn-{burn}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    build = runpy.run_path(str(ROOT / "models" / "clock" / "convert.py"))["build_clock_model"]
    onnx.save(build("clock", INPUT, burn), path)
    return path


def _cost_ms(path: Path) -> float:
    """Return the CPU time of one inference, milliseconds: the lower quartile of several."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    images = np.zeros((1, INPUT.height, INPUT.width, 3), np.uint8)
    costs: list[float] = []
    for _ in range(_RUNS):
        began = time.process_time()
        session.run(None, {"images": images})
        costs.append((time.process_time() - began) * 1e3)
    return sorted(costs)[_RUNS // 4]
