"""Runs the parts of the benchmark one after the other, and writes what each found as soon as it has.

make bench-gpu        (which installs what is needed, and calls this with the file of results)
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
from benchmarks.gpu.graphs import pictures, precisions
from benchmarks.gpu.parts import PARTS
from benchmarks.inputs import clip, graph
from benchmarks.machine import describe_machine
from vision_infer.engine.graph_facts import read_graph_facts

Row = dict[str, Any]
Part = Callable[[], Iterable[Row]]
LOOKED_AT = ("engine", "cuda_graphs", "decode", "streams", "batch", "found_again", "p50_ms", "fps", "left_out")


def run_parts(parts: Mapping[str, Part], result: Path, facts: Row) -> int:
    """Run each; one that fails does not keep the others from running.

    Args:
        parts: by name.
        result: file that each adds itself to.
        facts: what else stands there.

    Returns:
        How many failed.
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
                print("  ", "  ".join(f"{key} {row[key]}" for key in LOOKED_AT if row.get(key) is not None), flush=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other parts tell what they can
            failed += 1
            content["parts"][name]["failed"] = f"{type(error).__name__}: {error}"
            print(f"   failed: {content['parts'][name]['failed']}", flush=True)
        result.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return failed


def main(result: Path) -> int:
    """All of it; the exit status."""
    from vision_infer.engine.gpu.cuda import CudaDevice

    frames, told = pictures(read_graph_facts(graph("nanodet")).card)
    left_out: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        graphs = precisions(Path(folder), frames)
        found = list(contenders(graphs, left_out))
        print(f"{told}; engines: {', '.join(one.name for one in found)}")
        for line in left_out:
            print(f"  left out: {line}", flush=True)
        device, plans = CudaDevice(0), [one.plan for one in found if one.plan is not None]
        with reference(graphs) as fp32:
            parts: dict[str, Part] = {
                "correctness": lambda: correctness.compare(fp32, frames, found),
                "speed": lambda: chain(speed.by_batch(found, frames), *map(speed.beside_trtexec, plans)),
                "decoding": lambda: decoding.by_streams(clip("1080p"), free_bytes=lambda: device.memory()[0]),
                "pipeline": lambda: pipeline.by_streams(clip("1080p"), found, Path(folder) / "engines"),
            }
            failed = run_parts(parts, result, {"pictures": told, "engines_left_out": left_out})
    print(f"written: {result}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
