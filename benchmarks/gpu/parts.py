"""The tests and benchmarks of ``make test-gpu`` and ``make bench-gpu``, found without importing them. Standard library only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = {
    "correctness": "each engine compared with FP32 on ONNX Runtime, on the same images",
    "speed": "latency and throughput by batch size, with and without CUDA graphs, compared with trtexec",
    "decoding": "NVDEC compared with the CPU by number of streams: frames/s, CPU time, memory",
    "pipeline": "vision-infer run by number of streams, decoded with NVDEC and on the CPU",
}
"""The parts of the benchmark, in order."""


def gpu_tests(folder: Path = ROOT / "tests") -> list[str]:
    """Return the tests that require a GPU, as pytest names them."""
    return [f"{path.relative_to(ROOT)}::{name}" for path in sorted(folder.rglob("test_*.py")) for name in _marked(path)]


def _marked(path: Path) -> Iterator[str]:
    """Yield the tests with the mark, and those that use a fixture with a marked parameter."""
    text = path.read_text(encoding="utf-8")
    if "mark.gpu" not in text:
        return
    body = ast.parse(text).body
    values = {ast.unparse(node.targets[0]): ast.unparse(node.value) for node in body if isinstance(node, ast.Assign)}
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    words = ["mark.gpu", *(name for name, value in values.items() if "mark.gpu" in value)]
    marked = {function.name for function in functions if any(_names(mark, words) for mark in function.decorator_list)}
    for function in functions:
        fixtures = marked & {argument.arg for argument in function.args.args}
        if function.name.startswith("test_") and ("pytestmark" in words or function.name in marked or fixtures):
            yield function.name


def _names(node: ast.expr, words: list[str]) -> bool:
    text = ast.unparse(node)
    return "mark.gpu" in text or any(isinstance(part, ast.Name) and part.id in words for part in ast.walk(node))
