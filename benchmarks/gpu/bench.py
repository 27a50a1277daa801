"""The parts of the benchmark, by the names in :data:`benchmarks.gpu.parts.PARTS`; each imports what it needs when it runs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from benchmarks.gpu import testing
from benchmarks.gpu.parts import FIRST, files_by_part
from benchmarks.gpu.plan import Step

if TYPE_CHECKING:
    from benchmarks.gpu.graphs import Inputs


@lru_cache(maxsize=1)
def inputs() -> Inputs:
    """Return the graphs and the images that the parts share."""
    from benchmarks.gpu.graphs import Inputs

    return Inputs()


def facts() -> Iterator[Step]:
    """Collect facts about the GPU."""
    from benchmarks.gpu import facts

    yield from facts.steps()


def cuda() -> Iterator[Step]:
    """Run the tests of the device and the kernel."""
    files = files_by_part()
    yield from testing.steps(files[name] for name in FIRST)


def engine() -> Iterator[Step]:
    """Measure PyTorch on the device engine."""
    from benchmarks.gpu import engines, speed

    yield from speed.steps([engines.torch], inputs())


def decoding() -> Iterator[Step]:
    """Measure NVDEC."""
    from benchmarks.gpu import decoding

    yield from decoding.steps()


def pipeline() -> Iterator[Step]:
    """Measure the whole pipeline with PyTorch."""
    from benchmarks.gpu import pipeline

    yield from pipeline.steps(inputs().graph("fp32"))


def submit() -> Iterator[Step]:
    """Measure the cost of a batch."""
    from benchmarks.gpu import submit

    yield from submit.steps()


def onnxruntime() -> Iterator[Step]:
    """Measure ONNX Runtime with CUDA."""
    from benchmarks.gpu import engines, speed

    yield from speed.steps([engines.onnxruntime], inputs())


def tensorrt() -> Iterator[Step]:
    """Measure TensorRT's plans and compare them with trtexec."""
    from benchmarks.gpu import engines, speed

    yield from speed.steps(engines.plans(), inputs())


def torchcompile() -> Iterator[Step]:
    """Measure PyTorch with its compiler, which needs a minute and more."""
    from benchmarks.gpu import engines, speed

    yield from speed.steps([engines.torchcompile], inputs())
