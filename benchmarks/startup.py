"""From the start of the process to its first result: ``vision-infer run CLIP --out -`` until the first line on stdout.

Ours three times: FP32, kept already (``us``); the bundled network for the first time, so that it begins with what loads at once
and a better engine is made meanwhile (``first use``); and as if it waited for that engine (``waiting``).

The control does the least that any Python program must: import the same libraries, load the graph, decode and run one frame.

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
from benchmarks.machine import describe_machine

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
    """Start a command and wait for its first line; then it is ended.

    Args:
        command: what is started.
        home: where it keeps its engines.

    Returns:
        seconds.
    """
    environment = {**os.environ, "VISION_INFER_HOME": str(home)}
    started = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - started
        process.kill()
    if not line:
        raise RuntimeError(f"{command[0]}: no line on stdout")
    return seconds


def main() -> None:
    """Interleave both, print least and median, write ``startup.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--model", type=Path, help="deployment graph; default: the bundled one")
    parser.add_argument("--clip", type=Path, help="default: the 768x432 clip")
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
            if number >= 0:  # the one before fills the caches
                seconds[name].append(taken)
    for name, taken_s in seconds.items():
        least, median = min(taken_s) * 1e3, statistics.median(taken_s) * 1e3
        print(f"{name:9} least {least:6.0f} ms   median {median:6.0f} ms   {len(taken_s)} runs")
    shutil.rmtree(kept, ignore_errors=True)
    ratio = statistics.median(seconds["waiting"]) / statistics.median(seconds["first use"])
    print(f"the first row of a first use comes {ratio:.1f}× sooner than if it waited for the better engine")
    RESULTS.mkdir(parents=True, exist_ok=True)
    written = json.dumps({"machine": machine, "seconds": seconds}, indent=1)
    (RESULTS / "startup.json").write_text(written + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
