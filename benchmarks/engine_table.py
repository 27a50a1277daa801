"""Measure the build time and size of plans, and write the table of ``docs/reference/plan-builds.md``. No GPU is needed.

make engine-table
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import describe_machine
from tests.engine.tensorrt.networks import NAMES, PRECISIONS, Name, Precision, api, graph
from vision_infer.engine.graph_facts import read_graph_facts
from vision_infer.engine.tensorrt.compile import PlanOptions, compile_plan
from vision_infer.engine.tensorrt.target import GpuTarget

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "plan-builds.md"
TABLE = re.compile(r"(<!-- engine-table -->\n).*?(<!-- end -->)", re.DOTALL)
ROUNDS = 3
TARGET = GpuTarget(("sm_89",))
TITLES = {
    "nanodet": "NanoDet",
    "yolox": "a small YOLOX",
    "detr": "a small DETR",
    "detector": "SSDLite, 5 classes",
    "classifier": "MobileNetV3-small, 20 classes",
    "embedder": "three convolutions",
    "resnet": "ResNet-18",
    "convnext": "ConvNeXt-tiny",
    "retinanet": "RetinaNet, ResNet-50",
}


def row(name: Name, precision: Precision) -> str:
    """Build a plan several times; return a row of the table."""
    path = graph(name, precision)
    size = read_graph_facts(path).card.input_size
    seconds, cpu_seconds = [], []
    for _ in range(ROUNDS):
        before = time.process_time()
        made = compile_plan(path, api(), TARGET, PlanOptions())
        seconds.append(made.seconds)
        cpu_seconds.append(time.process_time() - before)
    layers = "; ".join(f"{kind}: {found}" for kind, found in made.layers.items())
    title = f"{TITLES[name]} ({size})" if precision == "fp32" else ""
    sizes = f"{path.stat().st_size / 1e6:.1f} → {len(made.plan.plan) / 1e6:.1f}"
    return f"| {title} | {precision} | {min(seconds):.1f} | {min(cpu_seconds):.1f} | {sizes} | {layers} |"


def command_seconds() -> float:
    """Return the wall time of ``vision-infer engine build`` for the bundled model."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["engine", "build", "nanodet-416", "--runtime", "tensorrt-rtx", "--for", "sm_89", "--engine-dir", folder]
        before = time.monotonic()
        subprocess.run([sys.executable, "-m", "vision_infer", *words], check=True, capture_output=True)
        return time.monotonic() - before


def main() -> None:
    """Measure, and write the table into the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    machine = describe_machine()
    lines = [
        "| Model | Graph | s | CPU s | MB: graph → plan | Precision of the layers with weights |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in TITLES:
        for precision in PRECISIONS:
            lines.append(row(name, precision))
            print(lines[-1], flush=True)
    table, shortest = "\n".join(lines), min(command_seconds() for _ in range(ROUNDS))
    note = (
        f"`make engine-table`, {str(machine['date'])[:10]}: TensorRT-RTX {api().version}, {machine['cpu']}, "
        f"{machine['cores']} CPUs, load {machine['load_before']} before the start, no GPU. Minimum of {ROUNDS} builds with "
        f"batch sizes 1, 2, 4 and 8 for sm_89.\nThe whole command takes {shortest:.1f} s for NanoDet in fp32, including start-up."
    )
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(TABLE.sub(lambda match: f"{match[1]}\n{note}\n\n{table}\n\n{match[2]}", text), encoding="utf-8")


if __name__ == "__main__":
    assert set(NAMES) <= set(TITLES)
    main()
