"""The tests and benchmarks of ``make test-gpu`` and ``make bench-gpu``, found without importing them. Standard library only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = {
    "facts": "the GPU, its driver, the libraries, the flags of the context",
    "cuda": "the tests of the device and of the conversion kernel",
    "engine": "PyTorch on the device engine, in place of TensorRT: correctness, speed with and without CUDA graphs",
    "decoding": "NVDEC with 1 to 64 streams: frames/s, CPU time, memory; compared with the CPU",
    "pipeline": "vision-infer run with 1 to 64 streams in 1, 2 and 4 processes, with and without gate and tracking",
    "submit": "the CPU time and the driver calls of one batch, without a model",
    "onnxruntime": "ONNX Runtime with CUDA: correctness, speed by batch size",
    "tensorrt": "TensorRT and TensorRT-RTX in three precisions, compared with trtexec",
    "torchcompile": "PyTorch with its compiler",
}
"""The parts of the benchmark, in order."""
FIRST = ("cuda_driver", "surface_kernel")
"""The parts of the tests that run first: if they fail, so do others."""


def gpu_tests(folder: Path = ROOT / "tests") -> list[str]:
    """Return the tests that require a GPU, as pytest names them."""
    files = sorted(path for part in folder.glob("[!.]*") for path in part.rglob("test_*.py"))  # not what tests have installed
    return [f"{path.relative_to(ROOT)}::{name}" for path in files for name in _marked(path)]


def files_by_part() -> dict[str, str]:
    """Return the files of these tests in order, by the name of their part: ``tests/engine/test_cuda.py`` is ``cuda``."""
    named = {Path(file).stem.removeprefix("test_"): file for file in (test.partition("::")[0] for test in gpu_tests())}
    return {name: named[name] for name in sorted(named, key=lambda name: (name not in FIRST, name))}


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
