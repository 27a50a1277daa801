"""The engines that are measured on this machine's GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from vision_infer.engine.engine import Engine
from vision_infer.engine.gpu.device_engine import batch_sizes_up_to
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.tensorrt.compile import PlanOptions
from vision_infer.engine.tensorrt.names import PlanRuntime
from vision_infer.engine.tensorrt.plan_file import PlanFile
from vision_infer.engine.tensorrt.plans import plan_for_gpu

MAX_BATCH = 32
IN_FLIGHT = 2
PRECISIONS = ("fp32", "fp16", "int8")
Open = Callable[[bool], Engine]
"""Opens an engine with two batches in flight, with or without CUDA graphs."""


class Graphs(Protocol):
    """The deployment graph of the model by precision."""

    def graph(self, precision: str) -> Path:
        """Return the file."""


@dataclass(frozen=True, slots=True)
class Contender:
    """An engine that is measured."""

    name: str
    open: Open
    has_graphs: bool = False
    """Whether it can also be opened without CUDA graphs."""
    plan: PlanFile | None = None


Make = Callable[[Graphs], Contender]


def onnxruntime(graphs: Graphs) -> Contender:
    """ONNX Runtime"""
    path = graphs.graph("fp32")
    request = EngineRequest("onnxruntime", "cuda:0", IN_FLIGHT, batch=MAX_BATCH)
    return Contender("onnxruntime-cuda-fp32", lambda _: open_engine(path, request, print))


def torch(graphs: Graphs) -> Contender:
    """PyTorch"""
    return _in_torch(graphs.graph("fp32"), compiled=False)


def torchcompile(graphs: Graphs) -> Contender:
    """PyTorch with its compiler"""
    return _in_torch(graphs.graph("fp32"), compiled=True)


def _in_torch(path: Path, compiled: bool) -> Contender:
    from vision_infer.engine.runtime import EngineSettings
    from vision_infer.engine.runtimes.torch_model import open_torch_on_cuda, torch_runtime

    settings = EngineSettings("cuda", 0, IN_FLIGHT, 1, MAX_BATCH)
    name = f"{torch_runtime(compiled)}-cuda-fp32"
    return Contender(name, lambda graphs: open_torch_on_cuda(path, settings, print, compiled, graphs), has_graphs=True)


def plans() -> Iterator[Make]:
    """Yield the plans of both runtimes in all precisions."""
    runtimes: tuple[PlanRuntime, ...] = ("tensorrt", "tensorrt-rtx")
    for runtime in runtimes:
        for precision in PRECISIONS:
            made = partial(_plan, runtime, precision)
            made.__doc__ = f"{runtime}, {precision}"
            yield made


def _plan(runtime: PlanRuntime, precision: str, graphs: Graphs) -> Contender:
    plan = plan_for_gpu(graphs.graph(precision), runtime, PlanOptions(batch_sizes_up_to(MAX_BATCH)), 0, None, print)
    return Contender(plan.engine, lambda with_graphs: _open_plan(plan, with_graphs), True, plan)


def _open_plan(plan: PlanFile, graphs: bool) -> Engine:
    from vision_infer.engine.tensorrt.plan_engine import open_plan_engine

    return open_plan_engine(plan, 0, MAX_BATCH, IN_FLIGHT, print, graphs)
