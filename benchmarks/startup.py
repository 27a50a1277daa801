"""Measure the time from the start of the process to its first result: ``vision-infer run CLIP --out -`` until the first line.

``us`` is FP32 with an engine in the cache. ``first use`` is the first run of the bundled model: it starts with the engine that
loads fastest and builds a better one in the background. ``waiting`` is the same run if it waited for the better engine.

The control does the minimum of any Python program: import the same libraries, load the graph, decode and run one frame.

    python -m benchmarks.startup [--runs 10] [--model FILE.onnx] [--clip FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.inputs import COMMAND, FP32, RESULTS, ROOT, clip, graph
from benchmarks.machine import describe_machine, source_line

BUNDLED = ROOT / "models" / "nanodet-416"
CONTROL = """
import sys
import av, numpy, onnxruntime
from av.video.reformatter import VideoReformatter
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
height, width = session.get_inputs()[0].shape[1:3]
with av.open(sys.argv[2]) as container:
    frame = next(container.decode(video=0))
pixels = VideoReformatter().reformat(frame, width, height, "rgb24").to_ndarray()
print(session.run(None, {"images": pixels[None]})[1].max(), flush=True)
"""


def time_to_first_line(command: list[str], home: Path) -> float:
    """Start a command, wait for its first line, and kill it.

    Args:
        command: The command.
        home: The home folder with its engines.

    Returns:
        The time until the first line, seconds.
    """
    environment = {**os.environ, "VISION_INFER_HOME": str(home)}
    started = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - started
        process.kill()
    if not line:
        raise RuntimeError(f"{command[0]} ended without a line on stdout")
    return seconds


def main() -> None:
    """Measure all in turn, print minimum and median, and write ``startup.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--model", type=Path, help="Deployment graph. Default: the bundled one.")
    parser.add_argument("--clip", type=Path, help="Clip. Default: the 768x432 clip.")
    args = parser.parse_args()
    model, source = str(args.model or graph("nanodet")), str(args.clip or clip("768x432"))
    us, quiet = [str(COMMAND), "run", source, "--model"], ["--out", "-", "--quiet"]
    int8 = str(BUNDLED / "model.int8.onnx")
    commands = {
        "us": [*us, model, *FP32, *quiet],
        "first use": [*us, "nanodet-416", *quiet],
        "waiting": [*us, int8, "--engine", "openvino-cpu-int8", *quiet],
        "control": [sys.executable, "-c", CONTROL, model, source],
    }
    machine = describe_machine()
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    kept = Path(tempfile.mkdtemp())
    for number in range(-1, args.runs):
        for name, command in commands.items():
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as empty:
                taken = time_to_first_line(command, kept if name == "us" else Path(empty))
            if number >= 0:  # the first round fills the caches
                seconds[name].append(taken)
    for name, taken_s in seconds.items():
        minimum, median = min(taken_s) * 1e3, statistics.median(taken_s) * 1e3
        print(f"{name:9} minimum {minimum:6.0f} ms   median {median:6.0f} ms   {len(taken_s)} runs")
    shutil.rmtree(kept, ignore_errors=True)
    ratio = statistics.median(seconds["waiting"]) / statistics.median(seconds["first use"])
    print(f"the first row of a first use is {ratio:.1f}× as fast as with waiting for the better engine")
    print(source_line(machine))
    RESULTS.mkdir(parents=True, exist_ok=True)
    written = json.dumps({"machine": machine, "seconds": seconds}, indent=1)
    (RESULTS / "startup.json").write_text(written + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
