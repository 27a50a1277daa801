"""Run the parts of the benchmark one after the other; store the results of each part immediately.

make bench-gpu        (installs the requirements and calls this module with the result file)
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.gpu import correctness, decoding, pipeline, speed
from benchmarks.gpu.engines import contenders, reference
from benchmarks.gpu.graphs import precisions, sample_images
from benchmarks.gpu.parts import PARTS
from benchmarks.inputs import clip, graph
from benchmarks.machine import describe_machine
from vision_infer.engine.graph_facts import read_graph_facts

Row = dict[str, Any]
Part = Callable[[], Iterable[Row]]
PRINTED = ("engine", "cuda_graphs", "decode", "streams", "batch", "found_again", "p50_ms", "fps", "left_out")


def run_parts(parts: Mapping[str, Part], result: Path, facts: Row) -> int:
    """Run the parts; after a failure the next part runs.

    Args:
        parts: The parts by name.
        result: The JSON file to which each part adds its rows.
        facts: Additional values for the file.

    Returns:
        The number of failed parts.
    """
    content: Row = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
    content |= {"machine": describe_machine(), **facts, "parts": {}}
    failed = 0
    for name, part in parts.items():
        print(f"{name}: {PARTS[name]}", flush=True)
        rows: list[Row] = []
        content["parts"][name] = {"rows": rows}
        try:
            for row in part():
                rows.append(row)
                print("  ", "  ".join(f"{key} {row[key]}" for key in PRINTED if row.get(key) is not None), flush=True)
        except Exception as error:  # noqa: BLE001 - any failure: the other parts must still run
            failed += 1
            content["parts"][name]["failed"] = f"{type(error).__name__}: {error}"
            print(f"   failed: {content['parts'][name]['failed']}", flush=True)
        result.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return failed


def main(result: Path) -> int:
    """Run all parts; return the exit status."""
    from vision_infer.engine.gpu.cuda import cuda_device

    frames, description = sample_images(read_graph_facts(graph("nanodet")).card)
    left_out: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        graphs = precisions(Path(folder), frames)
        found = list(contenders(graphs, left_out))
        print(f"{description}; engines: {', '.join(contender.name for contender in found)}")
        for line in left_out:
            print(f"  left out: {line}", flush=True)
        device, plans = cuda_device(0), [contender.plan for contender in found if contender.plan is not None]
        with reference(graphs) as fp32:
            parts: dict[str, Part] = {
                "correctness": lambda: correctness.compare(fp32, frames, found),
                "speed": lambda: chain(speed.by_batch(found, frames), *map(speed.trtexec_rows, plans)),
                "decoding": lambda: decoding.by_streams(clip("1080p"), free_bytes=lambda: device.memory()[0]),
                "pipeline": lambda: pipeline.by_streams(clip("1080p"), found, Path(folder) / "engines"),
            }
            failed = run_parts(parts, result, {"pictures": description, "engines_left_out": left_out})
    print(f"written: {result}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
