"""What ``make test-gpu`` and ``make bench-gpu`` run, told without importing any of it. Standard library only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = {
    "correctness": "each engine against ONNX Runtime's FP32 on the same pictures",
    "speed": "latency and throughput by batch, with CUDA graphs and without, beside trtexec's figures",
    "decoding": "NVDEC by number of streams, beside the processor: frames a second, processor time, memory",
    "pipeline": "vision-infer run by number of streams, decoded by NVDEC and by the processor",
}
"""of the benchmark, in their order"""


def gpu_tests(folder: Path = ROOT / "tests") -> list[str]:
    """The tests that need a GPU, as pytest names them."""
    return [f"{path.relative_to(ROOT)}::{name}" for path in sorted(folder.rglob("test_*.py")) for name in _marked(path)]


def _marked(path: Path) -> Iterator[str]:
    """Tests with the mark, and those that take a fixture of which a parameter has it."""
    text = path.read_text(encoding="utf-8")
    if "mark.gpu" not in text:
        return
    body = ast.parse(text).body
    values = {ast.unparse(one.targets[0]): ast.unparse(one.value) for one in body if isinstance(one, ast.Assign)}
    functions = [one for one in body if isinstance(one, ast.FunctionDef)]
    words = ["mark.gpu", *(name for name, value in values.items() if "mark.gpu" in value)]
    marked = {one.name for one in functions if any(_names(decorator, words) for decorator in one.decorator_list)}
    for one in functions:
        taken = marked & {argument.arg for argument in one.args.args}
        if one.name.startswith("test_") and ("pytestmark" in words or one.name in marked or taken):
            yield one.name


def _names(node: ast.expr, words: list[str]) -> bool:
    text = ast.unparse(node)
    return "mark.gpu" in text or any(isinstance(part, ast.Name) and part.id in words for part in ast.walk(node))
