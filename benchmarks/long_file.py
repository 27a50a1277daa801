"""Measure whether memory grows with the length of a file: run ``vision-infer`` on a clip and on the same clip repeated.

python -m benchmarks.long_file [--times 10] [--rounds 3] [--model FILE.onnx]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from benchmarks.inputs import COMMAND, FP32, RESULTS, clip, graph, looped
from benchmarks.machine import describe_machine, source_line
from benchmarks.measure import measure


def main() -> None:
    """Measure both in turn, print the peaks of memory and their ratio, and write ``long_file.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10, help="Number of repetitions of the clip in the long file.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, help="Deployment graph. Default: the bundled one.")
    args = parser.parse_args()
    model = str(args.model or graph("nanodet"))
    sources = {"once": clip("768x432"), "repeated": looped(clip("768x432"), args.times)}
    machine = describe_machine()
    peaks: dict[str, list[int]] = {name: [] for name in sources}
    frames: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results.jsonl"
        for _ in range(args.rounds):
            for name, source in sources.items():
                command = [str(COMMAND), "run", str(source), "--model", model, *FP32, "--out", str(out), "--overwrite", "--quiet"]
                peaks[name].append(measure(command).peak_rss_bytes)
                with out.open(encoding="utf-8") as rows:
                    frames[name] = sum(1 for _ in rows)
    for name, values in peaks.items():
        spread = f"{min(values) / 1e6:.1f}–{max(values) / 1e6:.1f}"
        print(f"{name:9} {frames[name]:6d} frames   peak {statistics.median(values) / 1e6:7.1f} MB ({spread})")
    ratio = statistics.median(peaks["repeated"]) / statistics.median(peaks["once"])
    print(f"ratio {ratio:.3f}\n{source_line(machine)}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    written = json.dumps({"machine": machine, "frames": frames, "peak_rss_bytes": peaks, "ratio": ratio}, indent=1)
    (RESULTS / "long_file.json").write_text(written + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
