"""The engines that run on this machine's GPU, and the reasons why the others do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vision_infer.core.errors import VisionInferError
from vision_infer.engine.engine import Engine
from vision_infer.engine.gpu.device_engine import batch_sizes_up_to
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.tensorrt.compile import PlanOptions
from vision_infer.engine.tensorrt.names import PlanRuntime
from vision_infer.engine.tensorrt.plan_file import PlanFile
from vision_infer.engine.tensorrt.plans import plan_for_gpu

MAX_BATCH = 32
Open = Callable[[int, bool], Engine]
"""Opens an engine with this number of batches in flight, with or without CUDA graphs."""


@dataclass(frozen=True, slots=True)
class Contender:
    """An engine that is measured."""

    name: str
    graph: Path
    open: Open
    has_graphs: bool = False
    """Whether it can also be opened without CUDA graphs."""
    plan: PlanFile | None = None


def contenders(graphs: Mapping[str, Path], left_out: list[str]) -> Iterator[Contender]:
    """Yield the engines that can be opened here; add the reasons for the others to ``left_out``."""
    for make in (_onnxruntime, _torch, _compiled, *_plans(graphs)):
        try:
            contender = make(graphs)
            with contender.open(1, True):
                pass
        except (VisionInferError, ImportError) as error:
            left_out.append(f"{make.__doc__}: {error}")
            continue
        yield contender


@contextmanager
def reference(graphs: Mapping[str, Path]) -> Iterator[Engine]:
    """Open ONNX Runtime in FP32 on the CPU."""
    with open_engine(graphs["fp32"], EngineRequest("onnxruntime-cpu-fp32", "cpu", workers=1)) as engine:
        yield engine


def _onnxruntime(graphs: Mapping[str, Path]) -> Contender:
    """onnxruntime-cuda-fp32"""
    path = graphs["fp32"]

    def opened(workers: int, _: bool) -> Engine:
        return open_engine(path, EngineRequest("onnxruntime", "cuda:0", workers, batch=MAX_BATCH), print)

    return Contender("onnxruntime-cuda-fp32", path, opened)


def _torch(graphs: Mapping[str, Path]) -> Contender:
    """torch-cuda-fp32"""
    return _in_torch(graphs["fp32"], compiled=False)


def _compiled(graphs: Mapping[str, Path]) -> Contender:
    """torchcompile-cuda-fp32"""
    return _in_torch(graphs["fp32"], compiled=True)


def _in_torch(path: Path, compiled: bool) -> Contender:
    from vision_infer.engine.runtime import EngineSettings
    from vision_infer.engine.runtimes.torch_model import open_torch_on_cuda, torch_runtime

    def opened(workers: int, graphs: bool) -> Engine:
        return open_torch_on_cuda(path, EngineSettings("cuda", 0, workers, 1, MAX_BATCH), print, compiled, graphs)

    return Contender(f"{torch_runtime(compiled)}-cuda-fp32", path, opened, has_graphs=True)


def _plans(graphs: Mapping[str, Path]) -> Iterator[Callable[[Mapping[str, Path]], Contender]]:
    runtimes: tuple[PlanRuntime, ...] = ("tensorrt", "tensorrt-rtx")
    for runtime in runtimes:
        for precision, path in graphs.items():

            def make(_: Mapping[str, Path], runtime: PlanRuntime = runtime, path: Path = path) -> Contender:
                plan = plan_for_gpu(path, runtime, PlanOptions(batch_sizes_up_to(MAX_BATCH)), 0, None, print)
                return Contender(plan.engine, path, lambda workers, graphs: _open_plan(plan, workers, graphs), True, plan)

            make.__doc__ = f"{runtime}-cuda-{precision}"
            yield make


def _open_plan(plan: PlanFile, workers: int, graphs: bool) -> Engine:
    from vision_infer.engine.tensorrt.plan_engine import open_plan_engine

    return open_plan_engine(plan, 0, MAX_BATCH, workers, print, graphs)
